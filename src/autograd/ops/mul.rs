//! y = a ⊙ b, element by element, with broadcasting.
//!
//! da = b ⊙ dy, db = a ⊙ dy, each summed over the places that a broadcast operand was copied to.

use super::add::{meet, reduce_to};
use crate::autograd::Var;
use crate::autograd::tape::record;
use crate::kernels;
use crate::tensor::Tensor;

#[track_caller]
fn forward(a: &Tensor, b: &Tensor) -> Tensor {
    let (shape, how) = meet("mul", a.shape(), b.shape());
    Tensor::from_buffer(shape, kernels::mul(how.as_ref(), shape.elements(), a.buffer(), b.buffer()))
}

fn backward([a, b]: &[Tensor; 2], dy: &Tensor, needed: [bool; 2]) -> [Option<Tensor>; 2] {
    [needed[0].then(|| reduce_to(forward(dy, b), *a.shape())), needed[1].then(|| reduce_to(forward(dy, a), *b.shape()))]
}

/// a ⊙ b. Shapes broadcast as in [`add`](super::add).
///
/// # Panics
/// When the shapes do not broadcast.
#[track_caller]
pub fn mul(a: &Var, b: &Var) -> Var {
    let saved = [a.value().clone(), b.value().clone()];
    record("mul", [a, b], forward(a.value(), b.value()), move |dy, needed| backward(&saved, &dy, needed))
}

#[cfg(test)]
mod tests {
    use super::super::testing::*;
    use super::*;

    #[test]
    fn values() {
        let a = Tensor::new([2, 2], vec![1.0, 2.0, 3.0, 4.0]);
        same(&forward(&a, &Tensor::new([2], vec![10.0, -1.0])), [2, 2], &[10.0, -2.0, 30.0, -4.0]);
    }

    #[test]
    fn gradient() {
        for (a, b) in [([2usize, 5].as_slice(), [2usize, 5].as_slice()), (&[3, 1], &[2, 1, 4]), (&[], &[3])] {
            assert_op("mul", |x| mul(&x[0], &x[1]), &[random(a, 1), random(b, 2)]);
        }
    }
}
