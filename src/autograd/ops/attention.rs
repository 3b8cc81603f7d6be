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

/// Self-attention with `heads` heads: `qkv` \[B, N, 3 h d\] (queries, keys, values; inside each, head by head) →
/// \[B, N, h d\].
#[track_caller]
pub fn attention(qkv: &Var, heads: usize) -> Var {
    let [_, tokens, _] = qkv.dims("attention");
    attention_of(qkv, heads, 0..tokens)
}

/// [`attention`] of a run of the tokens only, to all of them: \[B, M, h d\], what it says about these M tokens.
#[track_caller]
pub fn attention_of(qkv: &Var, heads: usize, queries: Range<usize>) -> Var {
    let [batch, tokens, width] = qkv.dims("attention");
    let fits = heads > 0 && width % (3 * heads) == 0;
    assert!(fits, "attention: {heads} heads do not divide a third of the projection {}", qkv.shape());
    let inside = queries.start <= queries.end && queries.end <= tokens;
    assert!(inside, "attention: queries {queries:?} of {tokens} tokens");
    let sizes = Sizes { batch, tokens, queries, heads, head_dim: width / (3 * heads) };
    let (saved, shape) = (qkv.value().clone(), [batch, sizes.queries.len(), width / 3]);
    let out = Tensor::from_buffer(shape, kernel::forward(&sizes, saved.buffer()));
    record("attention", [qkv], out, move |dout, _| {
        [Some(Tensor::from_buffer(*saved.shape(), kernel::backward(&sizes, saved.buffer(), dout.buffer())))]
    })
}
