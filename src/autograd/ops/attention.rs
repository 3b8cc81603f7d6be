//! Multi-head self-attention on a fused projection: O = softmax(Q Kᵀ / √d) V for every image and head
//! (Vaswani et al., 2017, Eq. 1), Q, K and V being the three thirds of each token's `qkv`.
//!
//! With P = softmax(S), S = Q Kᵀ / √d:
//! dV = Pᵀ dO,  dP = dO Vᵀ,  dS = P ⊙ (dP − rowsum(P ⊙ dP)),  dQ = dS K / √d,  dK = dSᵀ Q / √d.

use crate::autograd::Var;
use crate::autograd::tape::record;
use crate::kernels::{self, AttentionSizes};
use crate::tensor::Tensor;

/// The projection and the probabilities P.
struct Saved {
    sizes: AttentionSizes,
    qkv: Tensor,
    probs: kernels::Buffer,
}

#[track_caller]
fn forward(qkv: &Tensor, heads: usize) -> (Tensor, Saved) {
    let [batch, tokens, width] = qkv.dims("attention");
    let fits = heads > 0 && width % (3 * heads) == 0;
    assert!(fits, "attention: {heads} heads do not divide a third of the projection {}", qkv.shape());
    let sizes = AttentionSizes { batch, tokens, heads, head_dim: width / (3 * heads) };
    let (out, probs) = kernels::attention(&sizes, qkv.buffer());
    (Tensor::from_buffer([batch, tokens, width / 3], out), Saved { sizes, qkv: qkv.clone(), probs })
}

fn backward(Saved { sizes, qkv, probs }: &Saved, dout: &Tensor) -> Tensor {
    Tensor::from_buffer(*qkv.shape(), kernels::attention_backward(sizes, qkv.buffer(), probs, dout.buffer()))
}

/// Self-attention with `heads` heads: `qkv` \[B, N, 3 h d\] (queries, keys, values; inside each, head by head) →
/// \[B, N, h d\].
///
/// # Panics
/// When `heads` does not divide a third of the last dimension.
#[track_caller]
pub fn attention(qkv: &Var, heads: usize) -> Var {
    let (out, saved) = forward(qkv.value(), heads);
    record("attention", [qkv], out, move |dout, _| [Some(backward(&saved, &dout))])
}

#[cfg(test)]
mod tests {
    use super::super::testing::*;
    use super::super::{matmul, matmul_nt, merge_heads, scale, softmax, split_heads};
    use super::*;

    /// The same from the plain operations, with the three projections apart.
    fn composed(q: &Var, k: &Var, v: &Var, heads: usize) -> Var {
        let [q, k, v] = [q, k, v].map(|x| split_heads(x, heads)); // [B, h, N, d]
        let d = q.value().last_dim() as f64;
        let p = softmax(&scale(&matmul_nt(&q, &k), 1.0 / d.sqrt())); // [B, h, N, N]
        merge_heads(&matmul(&p, &v)) // [B, N, h d]
    }

    #[test]
    fn equals_its_definition() {
        for [b, n, heads, d] in [[1, 1, 1, 1], [2, 5, 3, 2], [1, 17, 2, 4]] {
            let width = heads * d;
            let parts: Vec<Tensor> = (0..3).map(|i| random([b * n, width], i)).collect();
            let rows = (0..b * n).flat_map(|r| parts.iter().map(move |p| (r, p)));
            let fused = rows.flat_map(|(r, p)| p.to_f64_vec()[r * width..(r + 1) * width].to_vec()).collect();
            let [q, k, v] = [0, 1, 2].map(|i| Var::from(parts[i].reshape([b, n, width])));
            let exact = composed(&q, &k, &v, heads).value().to_f64_vec();
            same(&forward(&Tensor::new([b, n, 3 * width], fused), heads).0, [b, n, width], &exact);
        }
        same(&forward(&random([0, 3, 12], 1), 2).0, [0, 3, 4], &[]);
        same(&forward(&random([2, 0, 12], 1), 2).0, [2, 0, 4], &[]);
    }

    #[test]
    fn gradient() {
        assert_op("attention", |x| attention(&x[0], 3), &[random([2, 5, 18], 1).scaled(2.0)]);
        let inputs: Vec<Tensor> = (0..3).map(|i| random([2, 4, 6], i)).collect();
        assert_op("attention, composed", |x| composed(&x[0], &x[1], &x[2], 2), &inputs);
    }
}
