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

#[cfg(test)]
mod tests {
    use super::super::testing::*;
    use super::*;

    #[test]
    fn values() {
        // Odds of 1 to 3, and as many rows.
        same(&forward(&Tensor::new([2, 2], vec![0.0, 3f64.ln(), 7.0, 7.0])), [2, 2], &[0.25, 0.75, 0.5, 0.5]);
        // Large entries do not overflow.
        same(&forward(&Tensor::new([2], vec![1000.0, 1000.0])), [2], &[0.5, 0.5]);
        assert!(forward(&Tensor::new([2], vec![3e38f32, -3e38])).is_finite());
    }

    #[test]
    fn gradient() {
        for cols in [2, 5, 19] {
            assert_op("softmax", |x| softmax(&x[0]), &[random([3, cols], 1)]);
        }
    }
}
