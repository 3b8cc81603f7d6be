//! y = a + b, with broadcasting.
//!
//! da = dy, db = dy, each summed over the places that a broadcast operand was copied to.

use crate::autograd::Var;
use crate::autograd::tape::record;
use crate::kernels::{self, Broadcast};
use crate::tensor::{Shape, Tensor};

/// How two shapes meet: the result's shape, and the strides when they are not simply equal.
#[track_caller]
pub(super) fn meet(op: &str, a: &Shape, b: &Shape) -> (Shape, Option<Broadcast>) {
    let Some(shape) = a.broadcast(b) else { panic!("{op}: shapes {a} and {b} do not broadcast") };
    (shape, (a != b).then(|| Broadcast::new(a, b, &shape)))
}

/// Sums a gradient down to the shape of the operand it belongs to.
pub(super) fn reduce_to(dy: Tensor, shape: Shape) -> Tensor {
    if *dy.shape() == shape {
        return dy;
    }
    Tensor::from_buffer(shape, kernels::reduce_to(dy.buffer(), dy.shape(), &shape))
}

#[track_caller]
fn forward(a: &Tensor, b: &Tensor) -> (Tensor, [Shape; 2]) {
    let (shape, how) = meet("add", a.shape(), b.shape());
    let y = kernels::add(how.as_ref(), shape.elements(), a.buffer(), b.buffer());
    (Tensor::from_buffer(shape, y), [*a.shape(), *b.shape()])
}

fn backward(shapes: &[Shape; 2], dy: Tensor, needed: [bool; 2]) -> [Option<Tensor>; 2] {
    [needed[0].then(|| reduce_to(dy.clone(), shapes[0])), needed[1].then(|| reduce_to(dy, shapes[1]))]
}

/// a + b. As in NumPy, shapes align at the last dimension, and a dimension that is 1 or missing is repeated.
///
/// # Panics
/// When the shapes do not broadcast.
#[track_caller]
pub fn add(a: &Var, b: &Var) -> Var {
    let (y, shapes) = forward(a.value(), b.value());
    record("add", [a, b], y, move |dy, needed| backward(&shapes, dy, needed))
}

#[cfg(test)]
mod tests {
    use super::super::testing::*;
    use super::*;

    #[test]
    fn values() {
        let a = Tensor::new([2, 1, 3], vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
        let b = Tensor::new([2, 1], vec![10.0, 20.0]);
        same(&forward(&a, &b).0, [2, 2, 3], &[11., 12., 13., 21., 22., 23., 14., 15., 16., 24., 25., 26.]);
        same(&forward(&b, &a).0, [2, 2, 3], &[11., 12., 13., 21., 22., 23., 14., 15., 16., 24., 25., 26.]);
        same(&forward(&Tensor::zeros([0, 3], crate::DType::F64), &random([3], 1)).0, [0, 3], &[]);
    }

    #[test]
    fn gradient() {
        for (a, b) in
            [([2usize, 3, 5].as_slice(), [2usize, 3, 5].as_slice()), (&[7], &[2, 1, 7]), (&[2, 1, 3], &[4, 1])]
        {
            assert_op("add", |x| add(&x[0], &x[1]), &[random(a, 1), random(b, 2)]);
        }
        let square = |x: &[Var]| super::super::mul(&add(&x[0], &x[0]), &x[0]);
        assert_op("add to itself", square, &[random([4], 3)]);
    }

    #[test]
    #[should_panic(expected = "add: shapes [2, 3] and [2] do not broadcast")]
    fn shapes_that_do_not_meet() {
        add(&random([2, 3], 1).into(), &random([2], 2).into());
    }
}
