//! Operations. One file each, always in this order: the derivation; `forward`, a pure function to a tensor and what
//! it saves; `backward`, a pure function from what was saved and dy to gradients; the function that runs the one and
//! records the other; tests (values against a naive loop, gradients through [`check`](super::check)).
//!
//! An operation panics on shapes that do not fit, naming itself and both shapes. No operation is forward-only.

mod add;
mod attention;
mod cross_entropy;
mod gather_tokens;
mod gelu;
mod heads;
mod layer_norm;
mod linear;
mod matmul;
mod mul;
mod norms;
mod patchify;
mod reduce;
mod regression;
mod reshape;
mod scale;
mod softmax;
mod tokens;

pub use add::add;
pub use attention::{attention, attention_of};
pub use cross_entropy::cross_entropy;
pub use gather_tokens::gather_tokens;
pub use gelu::gelu;
pub use heads::{merge_heads, split_heads};
pub use layer_norm::layer_norm;
pub use linear::{Input, linear, linear_of};
pub use matmul::{matmul, matmul_nt, matmul_tn};
pub use mul::mul;
pub use norms::{l1_norm, l2_norm};
pub use patchify::{patchify, unpatchify};
pub use reduce::{mean, sum};
pub use regression::{mse, smooth_l1};
pub use reshape::reshape;
pub use scale::scale;
pub use softmax::softmax;
pub use tokens::{concat_tokens, repeat_batch, slice_tokens};

pub use crate::kernels::PatchOrder;

/// What the operations' tests share.
#[cfg(test)]
mod testing {
    pub use crate::autograd::check::assert_op;
    pub use crate::kernels::cpu::testing::{close, numbers};
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
