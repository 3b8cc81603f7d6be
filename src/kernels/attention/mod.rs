//! Multi-head self-attention: O = softmax(Q Kᵀ / √d) V for every image and head.

mod cpu;
#[cfg(feature = "cuda")]
pub(super) mod cuda;
mod reference;

use std::ops::Range;

use super::{Buffer, check_len, launch};

/// The sizes of one attention: B images, N tokens, h heads of width d, and the M queries among the tokens whose
/// answers are wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// B
    pub batch: usize,
    /// N
    pub tokens: usize,
    /// Which of them ask.
    pub queries: Range<usize>,
    /// h
    pub heads: usize,
    /// d
    pub head_dim: usize,
}

impl Sizes {
    /// h d: the width of a token.
    pub fn dim(&self) -> usize {
        self.heads * self.head_dim
    }

    /// Numbers in the fused projection.
    pub fn qkv(&self) -> usize {
        3 * self.batch * self.tokens * self.dim()
    }

    /// Numbers in the output.
    pub fn out(&self) -> usize {
        self.batch * self.queries.len() * self.dim()
    }

    /// 1 / √d
    fn scale(&self) -> f64 {
        1.0 / (self.head_dim as f64).sqrt()
    }

    #[track_caller]
    fn check(&self, qkv: &Buffer) {
        let Sizes { queries, tokens, .. } = self;
        assert!(queries.end <= *tokens, "attention: queries {queries:?} of {tokens} tokens");
        check_len("attention", "qkv", qkv, self.qkv());
    }
}

/// Multi-head attention on a fused projection (B, N, 3, h, d), of the queries that are asked for: (B, M, h d).
#[track_caller]
pub fn forward(sizes: &Sizes, qkv: &Buffer) -> Buffer {
    sizes.check(qkv);
    let mut out = qkv.like(sizes.out());
    launch!("attention", [qkv], [out] => forward(sizes, qkv, out));
    out
}

/// The gradient of [`forward`] with respect to its fused projection.
#[track_caller]
pub fn backward(sizes: &Sizes, qkv: &Buffer, dout: &Buffer) -> Buffer {
    sizes.check(qkv);
    check_len("attention", "dout", dout, sizes.out());
    let mut dqkv = qkv.like(qkv.len());
    launch!("attention", [qkv, dout], [dqkv] => backward(sizes, qkv, dout, dqkv));
    dqkv
}
