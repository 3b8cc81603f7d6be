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
///
/// # Panics
/// When there is no such axis.
#[track_caller]
pub fn sum_axis(x: &Var, axis: usize) -> Var {
    along("sum_axis", x, axis, |_| 1.0)
}

/// The mean along an axis, which the result does not have.
///
/// # Panics
/// When there is no such axis.
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

#[cfg(test)]
mod tests {
    use super::super::testing::*;
    use super::*;
    use crate::autograd::Tape;

    #[test]
    fn values() {
        let x = Var::from(Tensor::new([2, 3, 1], vec![3.0, 0.0, -4.0, 1.0, 2.0, -2.0]));
        for (y, shape, exact) in [
            (sum(&x), &[][..], &[0.0][..]),
            (mean(&x), &[], &[0.0]),
            (l1_norm(&x), &[], &[12.0]),
            (l2_norm(&x), &[], &[34f64.sqrt()]),
            (sum_axis(&x, 0), &[3, 1], &[4.0, 2.0, -6.0]),
            (sum_axis(&x, 1), &[2, 1], &[-1.0, 1.0]),
            (mean_axis(&x, 0), &[3, 1], &[2.0, 1.0, -3.0]),
            (mean_axis(&x, 2), &[2, 3], &[3.0, 0.0, -4.0, 1.0, 2.0, -2.0]),
            (sum(&random([0, 4], 1).into()), &[], &[0.0]),
            (sum_axis(&random([0, 4], 1).into(), 0), &[4], &[0.0; 4]),
        ] {
            same(y.value(), shape, exact);
        }
        assert!(mean(&random([0], 1).into()).item().is_nan());
    }

    #[test]
    fn gradient() {
        let x = random([3, 4, 5], 1);
        for (name, f) in [("sum", sum as fn(&Var) -> Var), ("mean", mean), ("l1_norm", l1_norm), ("l2_norm", l2_norm)] {
            assert_op(name, |x| f(&x[0]), std::slice::from_ref(&x));
        }
        for axis in 0..3 {
            assert_op("sum_axis", |x| sum_axis(&x[0], axis), std::slice::from_ref(&x));
            assert_op("mean_axis", |x| mean_axis(&x[0], axis), std::slice::from_ref(&x));
        }
    }

    #[test]
    fn gradients_at_zero_are_zero() {
        for norm in [l1_norm, l2_norm] {
            let tape = Tape::new();
            let x = tape.leaf(Tensor::zeros([2], crate::DType::F64));
            assert_eq!(tape.backward(&norm(&x)).of(&x).unwrap().to_f64_vec(), [0.0, 0.0]);
        }
    }

    #[test]
    #[should_panic(expected = "sum_axis: axis 2 of a tensor of [2, 3]")]
    fn an_axis_that_is_not_there() {
        sum_axis(&random([2, 3], 1).into(), 2);
    }
}
