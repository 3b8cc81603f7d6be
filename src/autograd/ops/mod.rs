//! Operations, those that belong together in one file: the derivation, and the function that computes the value and
//! [records](super::record) the rule by which gradients go back. Their tests are in tests.rs and, for gradients, in
//! src/lab/gradients.rs.
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
#[cfg(test)]
mod tests;
mod tokens;
mod unary;

pub use arithmetic::{add, div, mul, scale, sub};
pub use attention::{attention, attention_of};
pub use layer_norm::layer_norm;
pub use linear::{Input, linear, linear_of, linear_operand};
pub use loss::{cross_entropy, mse, smooth_l1};
pub use matmul::{matmul, matmul_nt, matmul_tn};
pub use patchify::{PatchOrder, patchify, unpatchify};
pub use reduce::{l1_norm, l2_norm, mean, mean_axis, sum, sum_axis};
pub use shape::{concat, concat_tokens, repeat_batch, reshape, slice, slice_tokens, transpose};
pub use shape::{merge_heads, split_heads};
pub use softmax::softmax;
pub use tokens::gather_tokens;
pub use unary::{abs, exp, gelu, ln, relu, sqrt, tanh};
