//! y = softmax(x) along the last dimension: yᵢ = e^{xᵢ} / Σⱼ e^{xⱼ}.
//!
//! ∂yᵢ/∂xⱼ = yᵢ (δᵢⱼ − yⱼ), so dx = y ⊙ (dy − ⟨y, dy⟩).

use crate::autograd::Var;
use crate::autograd::tape::record;
use crate::kernels::softmax as kernel;
use crate::tensor::Tensor;

/// Softmax along the last dimension.
#[track_caller]
pub fn softmax(x: &Var) -> Var {
    let (shape, cols) = (*x.shape(), x.value().last_dim());
    let y = Tensor::from_buffer(shape, kernel::forward(cols, x.value().buffer()));
    let saved = y.clone();
    record("softmax", [x], y, move |dy, _| {
        [Some(Tensor::from_buffer(shape, kernel::backward(cols, saved.buffer(), dy.buffer())))]
    })
}
