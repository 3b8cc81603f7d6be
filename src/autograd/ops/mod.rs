//! Operations, those that belong together in one file, always in this order: the derivation; `forward`, a pure function to
//! a tensor and what it saves; `backward`, a pure function from what was saved and dy to gradients; the function that runs
//! the one and [records](super::record) the other; tests (values known by hand, gradients through
//! [`check`](super::check); that kernels compute what they should is tested in [`crate::kernels`]).
//!
//! An operation panics on shapes that do not fit, naming itself and both shapes. No operation is forward-only.

mod arithmetic;
mod attention;
mod layer_norm;
mod linear;
mod loss;
mod matmul;
mod patchify;
mod reduce;
mod shape;
mod softmax;
mod tokens;
mod unary;

pub use arithmetic::{add, div, mul, scale, sub};
pub use attention::{attention, attention_of};
pub use layer_norm::layer_norm;
pub use linear::{Input, linear, linear_of};
pub use loss::{cross_entropy, mse, smooth_l1};
pub use matmul::{matmul, matmul_nt, matmul_tn};
pub use patchify::{PatchOrder, patchify, unpatchify};
pub use reduce::{l1_norm, l2_norm, mean, mean_axis, sum, sum_axis};
pub use shape::{concat, concat_tokens, repeat_batch, reshape, slice, slice_tokens, transpose};
pub use shape::{merge_heads, split_heads};
pub use softmax::softmax;
pub use tokens::gather_tokens;
pub use unary::{abs, exp, gelu, ln, relu, sqrt, tanh};

/// What the operations' tests share.
#[cfg(test)]
mod testing {
    pub use crate::autograd::check::assert_op;
    pub use crate::kernels::testing::{close, numbers};
    use crate::tensor::{Shape, Tensor};

    /// A tensor of random numbers, different for each seed.
    #[track_caller]
    pub fn random(shape: impl Into<Shape>, seed: u64) -> Tensor {
        let shape = shape.into();
        Tensor::new(shape, numbers(shape.elements(), seed))
    }

    /// Equal element by element.
    #[track_caller]
    pub fn same(x: &Tensor, shape: impl Into<Shape>, exact: &[f64]) {
        assert_eq!(*x.shape(), shape.into());
        for (x, y) in x.to_f64_vec().into_iter().zip(exact) {
            close(x, *y, 1e-13);
        }
    }
}
