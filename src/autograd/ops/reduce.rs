//! Sums and means, of all elements or along an axis, and the norms |x|₁ = Σ |xᵢ| and |x|₂ = √Σ xᵢ². All are summed in f64.
//!
//! For y = s Σ x (s = 1, or 1/n for a mean): dx = s dy at every place that was summed over. For |x|₂: dx = x dy / |x|₂, 0
//! where the norm is 0.

use crate::autograd::Var;
use crate::autograd::tape::record;
use crate::kernels::reduce as kernel;
use crate::tensor::{Shape, Tensor};

/// factor · Σ over the middle of (outer, n, inner), in a shape.
#[track_caller]
fn weighted_sum(name: &'static str, x: &Var, dims: [usize; 3], factor: f64, shape: Shape) -> Var {
    let from = *x.shape();
    let y = Tensor::from_buffer(shape, kernel::sum(dims, factor, x.value().buffer()));
    record(name, [x], y, move |dy, _| {
        [Some(Tensor::from_buffer(from, kernel::sum_backward(dims, factor, dy.buffer())))]
    })
}

#[track_caller]
fn along(name: &'static str, x: &Var, axis: usize, factor: impl FnOnce(f64) -> f64) -> Var {
    let dims = x.value().around(name, axis);
    let rest: Vec<usize> = x.shape().iter().enumerate().filter(|(i, _)| *i != axis).map(|(_, dim)| *dim).collect();
    weighted_sum(name, x, dims, factor(dims[1] as f64), Shape::new(&rest))
}

/// Σ of all elements, a scalar.
#[track_caller]
pub fn sum(x: &Var) -> Var {
    weighted_sum("sum", x, [1, x.shape().elements(), 1], 1.0, [].into())
}

/// The mean of all elements, a scalar. NaN when there are none.
#[track_caller]
pub fn mean(x: &Var) -> Var {
    let n = x.shape().elements();
    weighted_sum("mean", x, [1, n, 1], 1.0 / n as f64, [].into())
}

/// Σ along an axis, which the result does not have.
#[track_caller]
pub fn sum_axis(x: &Var, axis: usize) -> Var {
    along("sum_axis", x, axis, |_| 1.0)
}

/// The mean along an axis, which the result does not have.
#[track_caller]
pub fn mean_axis(x: &Var, axis: usize) -> Var {
    along("mean_axis", x, axis, |n| 1.0 / n)
}

/// Σ |x|, a scalar.
#[track_caller]
pub fn l1_norm(x: &Var) -> Var {
    sum(&super::abs(x))
}

/// √ Σ x², a scalar: the Euclidean norm of a vector, the Frobenius norm of a matrix.
#[track_caller]
pub fn l2_norm(x: &Var) -> Var {
    let saved = x.value().clone();
    record("l2_norm", [x], Tensor::from_buffer([], kernel::norm(saved.buffer())), move |dy, _| {
        [Some(Tensor::from_buffer(*saved.shape(), kernel::norm_backward(saved.buffer(), dy.buffer())))]
    })
}
