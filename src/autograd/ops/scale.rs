//! y = s x with a fixed number s. dx = s dy.

use crate::autograd::Var;
use crate::autograd::tape::record;

/// factor · x.
#[track_caller]
pub fn scale(x: &Var, factor: f64) -> Var {
    record("scale", [x], x.value().scaled(factor), move |dy, _| [Some(dy.scaled(factor))])
}

#[cfg(test)]
mod tests {
    use super::super::testing::*;
    use super::*;

    #[test]
    fn value_and_gradient() {
        same(scale(&random([0], 1).into(), 3.0).value(), [0], &[]);
        same(scale(&crate::Tensor::new([2], vec![1.0, -2.0]).into(), -3.0).value(), [2], &[-3.0, 6.0]);
        assert_op("scale", |x| scale(&x[0], -1.7), &[random([3, 2], 1)]);
    }
}
