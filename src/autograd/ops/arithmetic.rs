//! a + b, a − b, a ⊙ b and a / b with broadcasting, and s x with a fixed number s.
//!
//! | y | da | db |
//! |---|---|---|
//! | a + b | dy | dy |
//! | a − b | dy | −dy |
//! | a ⊙ b | dy ⊙ b | dy ⊙ a |
//! | a / b | dy / b | −(dy / b) ⊙ (a / b) |
//!
//! each summed over the places that a broadcast operand was copied to. For y = s x: dx = s dy.

use crate::autograd::Var;
use crate::autograd::tape::record;
use crate::kernels::elementwise::{self, Binary, Walk};
use crate::tensor::{Shape, Tensor};

#[track_caller]
fn forward(op: Binary, a: &Tensor, b: &Tensor) -> Tensor {
    let Some(shape) = a.shape().broadcast(b.shape()) else {
        panic!("{}: shapes {} and {} do not broadcast", op.name(), a.shape(), b.shape())
    };
    let how = (a.shape() != b.shape()).then(|| Walk::broadcast(a.shape(), b.shape(), &shape));
    Tensor::from_buffer(shape, elementwise::binary(op, how.as_ref(), shape.elements(), a.buffer(), b.buffer()))
}

/// Sums a gradient down to the shape of the operand it belongs to.
fn reduce_to(dy: Tensor, shape: Shape) -> Tensor {
    if *dy.shape() == shape {
        return dy;
    }
    Tensor::from_buffer(shape, elementwise::reduce_to(dy.buffer(), dy.shape(), &shape))
}

#[track_caller]
fn binary(op: Binary, a: &Var, b: &Var) -> Var {
    let shapes = [*a.shape(), *b.shape()];
    // The rules of a sum and a difference read neither operand: then none is kept alive.
    let saved = matches!(op, Binary::Mul | Binary::Div).then(|| [a.value().clone(), b.value().clone()]);
    record(op.name(), [a, b], forward(op, a.value(), b.value()), move |dy, needed| {
        let da = || match (op, &saved) {
            (Binary::Mul, Some([_, b])) => forward(Binary::Mul, &dy, b),
            (Binary::Div, Some([_, b])) => forward(Binary::Div, &dy, b),
            _ => dy.clone(),
        };
        let db = || match (op, &saved) {
            (Binary::Mul, Some([a, _])) => forward(Binary::Mul, &dy, a),
            (Binary::Div, Some([a, b])) => {
                let da = forward(Binary::Div, &dy, b);
                forward(Binary::Mul, &da, &forward(Binary::Div, a, b)).scaled(-1.0)
            }
            (Binary::Sub, _) => dy.scaled(-1.0),
            _ => dy.clone(),
        };
        [needed[0].then(|| reduce_to(da(), shapes[0])), needed[1].then(|| reduce_to(db(), shapes[1]))]
    })
}

/// a + b. As in NumPy, shapes align at the last dimension, and a dimension that is 1 or missing is repeated.
#[track_caller]
pub fn add(a: &Var, b: &Var) -> Var {
    binary(Binary::Add, a, b)
}

/// a − b. Shapes broadcast as in [`add`].
#[track_caller]
pub fn sub(a: &Var, b: &Var) -> Var {
    binary(Binary::Sub, a, b)
}

/// a ⊙ b, element by element. Shapes broadcast as in [`add`].
#[track_caller]
pub fn mul(a: &Var, b: &Var) -> Var {
    binary(Binary::Mul, a, b)
}

/// a / b, element by element. Shapes broadcast as in [`add`].
#[track_caller]
pub fn div(a: &Var, b: &Var) -> Var {
    binary(Binary::Div, a, b)
}

/// factor · x.
#[track_caller]
pub fn scale(x: &Var, factor: f64) -> Var {
    record("scale", [x], x.value().scaled(factor), move |dy, _| [Some(dy.scaled(factor))])
}
