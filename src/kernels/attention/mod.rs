//! Multi-head self-attention: O = softmax(Q Kᵀ / √d) V for every image and head.

mod cpu;
#[cfg(feature = "cuda")]
pub(super) mod cuda;
mod reference;

use std::ops::Range;

use super::{Buffer, DType, Device, Precision, Stored, StoredMut, check_len, elementwise, launch};

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

/// `x` as the kernels take it: on a CPU in the precision of this thread's products; on a GPU as it is, but bf16, which is for tensor
/// cores, in f32 where they do not take heads so wide.
fn taken(sizes: &Sizes, x: &Buffer) -> Buffer {
    let dtype = match x.device() {
        Device::Cpu => Precision::read_on_cpu(x.dtype()),
        #[cfg(feature = "cuda")]
        Device::Cuda(_) if x.dtype() == DType::Bf16 && !cuda::tensor_cores::takes(sizes.head_dim) => DType::F32,
        _ => x.dtype(),
    };
    let _ = sizes;
    elementwise::to_dtype(x, dtype)
}

/// For what is computed of `taken`, in the place of numbers like x: of their type, where the kernels write it.
fn result(len: usize, x: &Buffer, taken: &Buffer) -> Buffer {
    if x.device() == Device::Cpu && taken.dtype() == DType::Bf16 { x.like(len) } else { taken.like(len) }
}

/// Multi-head attention on a fused projection (B, N, 3, h, d), of the queries that are asked for: (B, M, h d), of its type.
#[track_caller]
pub fn forward(sizes: &Sizes, qkv: &Buffer) -> Buffer {
    sizes.check(qkv);
    let taken = taken(sizes, qkv);
    let mut result = result(sizes.out(), qkv, &taken);
    let (x, mut out) = (Stored(&taken), StoredMut(&mut result));
    launch!("attention", [x], [out] => forward(sizes, x, out));
    elementwise::to_dtype(&result, qkv.dtype())
}

/// The gradient of [`forward`] with respect to its fused projection, of its type.
#[track_caller]
pub fn backward(sizes: &Sizes, qkv: &Buffer, dout: &Buffer) -> Buffer {
    sizes.check(qkv);
    check_len("attention", "dout", dout, sizes.out());
    let taken = taken(sizes, qkv);
    let dout = elementwise::stored_as(dout, &taken);
    let mut result = result(qkv.len(), qkv, &taken);
    let (x, dout, mut dqkv) = (Stored(&taken), Stored(&dout), StoredMut(&mut result));
    launch!("attention", [x, dout], [dqkv] => backward(sizes, x, dout, dqkv));
    elementwise::to_dtype(&result, qkv.dtype())
}
