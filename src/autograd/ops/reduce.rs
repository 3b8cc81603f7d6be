//! Σ x and its mean. dx is dy everywhere, or dy/n.

use crate::autograd::Var;
use crate::autograd::tape::record;
use crate::kernels;
use crate::tensor::Tensor;

#[track_caller]
fn weighted_sum(name: &'static str, x: &Var, weight: f64) -> Var {
    let (shape, dtype) = (*x.shape(), x.dtype());
    let y = Tensor::scalar(weight * kernels::sum(x.value().buffer()), dtype);
    record(name, [x], y, move |dy, _| [Some(Tensor::full(shape, weight * dy.item(), dtype))])
}

/// Σ of all elements, a scalar; accumulated in f64.
#[track_caller]
pub fn sum(x: &Var) -> Var {
    weighted_sum("sum", x, 1.0)
}

/// The mean of all elements, a scalar; accumulated in f64. NaN when there are none.
#[track_caller]
pub fn mean(x: &Var) -> Var {
    weighted_sum("mean", x, 1.0 / x.shape().elements() as f64)
}

#[cfg(test)]
mod tests {
    use super::super::testing::*;
    use super::*;

    #[test]
    fn value_and_gradient() {
        let x = random([3, 7], 1);
        let total: f64 = x.to_f64_vec().iter().sum();
        close(sum(&x.clone().into()).item(), total, 1e-14);
        close(mean(&x.clone().into()).item(), total / 21.0, 1e-14);
        assert_eq!(sum(&random([0, 4], 1).into()).item(), 0.0);
        assert_op("sum", |x| sum(&x[0]), std::slice::from_ref(&x));
        assert_op("mean", |x| mean(&x[0]), &[x]);
    }
}
