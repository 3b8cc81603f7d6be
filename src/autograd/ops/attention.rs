//! Multi-head self-attention on a fused projection: O = softmax(Q Kᵀ / √d) V for every image and head
//! (Vaswani et al., 2017, Eq. 1), Q, K and V being the three thirds of each token's `qkv`.
//!
//! With P = softmax(S), S = Q Kᵀ / √d:
//! dV = Pᵀ dO,  dP = dO Vᵀ,  dS = P ⊙ (dP − rowsum(P ⊙ dP)),  dQ = dS K / √d,  dK = dSᵀ Q / √d.
//! P is not kept but computed again: memory grows with N, not with N².

use std::ops::Range;

use crate::autograd::Var;
use crate::autograd::tape::record;
use crate::kernels::attention::{self as kernel, Sizes};
use crate::tensor::Tensor;

/// The projection.
struct Saved {
    sizes: Sizes,
    qkv: Tensor,
}

#[track_caller]
fn forward(qkv: &Tensor, heads: usize, queries: Range<usize>) -> (Tensor, Saved) {
    let [batch, tokens, width] = qkv.dims("attention");
    let fits = heads > 0 && width % (3 * heads) == 0;
    assert!(fits, "attention: {heads} heads do not divide a third of the projection {}", qkv.shape());
    let inside = queries.start <= queries.end && queries.end <= tokens;
    assert!(inside, "attention: queries {queries:?} of {tokens} tokens");
    let sizes = Sizes { batch, tokens, queries, heads, head_dim: width / (3 * heads) };
    let out = Tensor::from_buffer([batch, sizes.queries.len(), width / 3], kernel::forward(&sizes, qkv.buffer()));
    (out, Saved { sizes, qkv: qkv.clone() })
}

fn backward(Saved { sizes, qkv }: &Saved, dout: &Tensor) -> Tensor {
    Tensor::from_buffer(*qkv.shape(), kernel::backward(sizes, qkv.buffer(), dout.buffer()))
}

/// Self-attention with `heads` heads: `qkv` \[B, N, 3 h d\] (queries, keys, values; inside each, head by head) →
/// \[B, N, h d\].
///
/// # Panics
/// When `heads` does not divide a third of the last dimension.
#[track_caller]
pub fn attention(qkv: &Var, heads: usize) -> Var {
    let [_, tokens, _] = qkv.dims("attention");
    attention_of(qkv, heads, 0..tokens)
}

/// [`attention`] of a run of the tokens only, to all of them: \[B, M, h d\], what it says about these M tokens.
///
/// # Panics
/// As [`attention`]; and when there are no such tokens.
#[track_caller]
pub fn attention_of(qkv: &Var, heads: usize, queries: Range<usize>) -> Var {
    let (out, saved) = forward(qkv.value(), heads, queries);
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
        for [b, n, heads, d] in [[1, 1, 1, 1], [2, 5, 3, 2], [1, 17, 2, 4], [1, 150, 1, 3]] {
            let width = heads * d;
            let parts: Vec<Tensor> = (0..3).map(|i| random([b * n, width], i)).collect();
            let rows = (0..b * n).flat_map(|r| parts.iter().map(move |p| (r, p)));
            let fused = rows.flat_map(|(r, p)| p.to_f64_vec()[r * width..(r + 1) * width].to_vec()).collect();
            let [q, k, v] = [0, 1, 2].map(|i| Var::from(parts[i].reshape([b, n, width])));
            let exact = composed(&q, &k, &v, heads).value().to_f64_vec();
            let fused = Tensor::new([b, n, 3 * width], fused);
            same(&forward(&fused, heads, 0..n).0, [b, n, width], &exact);
            let some = n / 3..n - n / 4;
            let rows = (0..b).flat_map(|b| some.clone().map(move |i| (b * n + i) * width));
            let exact: Vec<f64> = rows.flat_map(|at| exact[at..at + width].to_vec()).collect();
            same(&forward(&fused, heads, some.clone()).0, [b, some.len(), width], &exact);
        }
        same(&forward(&random([0, 3, 12], 1), 2, 0..3).0, [0, 3, 4], &[]);
        same(&forward(&random([2, 0, 12], 1), 2, 0..0).0, [2, 0, 4], &[]);
        same(&forward(&random([2, 3, 12], 1), 2, 1..1).0, [2, 0, 4], &[]);
    }

    #[test]
    fn gradient() {
        assert_op("attention", |x| attention(&x[0], 3), &[random([2, 5, 18], 1).scaled(2.0)]);
        assert_op("attention of some", |x| attention_of(&x[0], 2, 1..4), &[random([2, 5, 12], 1).scaled(2.0)]);
        assert_op("attention in blocks", |x| attention_of(&x[0], 1, 3..135), &[random([1, 135, 6], 1)]);
        let inputs: Vec<Tensor> = (0..3).map(|i| random([2, 4, 6], i)).collect();
        assert_op("attention, composed", |x| composed(&x[0], &x[1], &x[2], 2), &inputs);
    }

    /// Three tokens are padded; what a head leaves in the padding must not reach the next one, nor the next image.
    #[test]
    fn what_is_not_finite_stays_in_its_head() {
        let (qkv, sound) = (random([2, 3, 12], 1), random([2, 3, 4], 2));
        let mut infinite = sound.clone();
        infinite.as_mut_slice::<f64>()[0] = f64::INFINITY; // first image, first head
        let saved = forward(&qkv, 2, 0..3).1;
        let [of_sound, of_infinite] = [sound, infinite].map(|dout| backward(&saved, &dout).to_f64_vec());
        assert!(of_infinite.iter().any(|x| x.is_nan()));
        for (i, (x, y)) in of_sound.iter().zip(&of_infinite).enumerate() {
            let (image, head) = (i / 36, i % 4 / 2);
            assert!((image, head) == (0, 0) || x == y, "{i}: {x} and {y}");
        }
    }

    #[test]
    #[should_panic(expected = "attention: queries 2..4 of 3 tokens")]
    fn queries_that_are_not_there() {
        attention_of(&random([1, 3, 6], 1).into(), 1, 2..4);
    }
}
