//! y = softmax(x) along the last dimension: yᵢ = e^{xᵢ} / Σⱼ e^{xⱼ}.
//!
//! ∂yᵢ/∂xⱼ = yᵢ (δᵢⱼ − yⱼ), so dx = y ⊙ (dy − ⟨y, dy⟩).

use crate::autograd::Var;
use crate::autograd::tape::record;
use crate::kernels::softmax as kernel;
use crate::tensor::Tensor;

fn forward(x: &Tensor) -> Tensor {
    Tensor::from_buffer(*x.shape(), kernel::forward(x.last_dim(), x.buffer()))
}

fn backward(y: &Tensor, dy: &Tensor) -> Tensor {
    Tensor::from_buffer(*y.shape(), kernel::backward(y.last_dim(), y.buffer(), dy.buffer()))
}

/// Softmax along the last dimension.
#[track_caller]
pub fn softmax(x: &Var) -> Var {
    let y = forward(x.value());
    let saved = y.clone();
    record("softmax", [x], y, move |dy, _| [Some(backward(&saved, &dy))])
}
