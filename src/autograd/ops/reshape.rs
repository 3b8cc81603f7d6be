//! The same elements in another shape: y = x. dx = dy in x's shape.

use crate::autograd::Var;
use crate::autograd::tape::record;
use crate::tensor::Shape;

/// x in another shape, without a copy.
///
/// # Panics
/// When the number of elements would change.
#[track_caller]
pub fn reshape(x: &Var, shape: impl Into<Shape>) -> Var {
    let from = *x.shape();
    record("reshape", [x], x.value().reshape(shape), move |dy, _| [Some(dy.reshape(from))])
}

#[cfg(test)]
mod tests {
    use super::super::testing::*;
    use super::*;

    #[test]
    fn value_and_gradient() {
        let x = random([2, 6], 1);
        same(reshape(&x.clone().into(), [3, 4]).value(), [3, 4], &x.to_f64_vec());
        assert_op("reshape", |x| reshape(&x[0], [3, 4]), &[x]);
    }
}
