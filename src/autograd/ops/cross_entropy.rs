//! Mean over rows of −ln softmax(x)[class].
//!
//! dx = (softmax(x) − onehot(class)) dy / rows.

use crate::autograd::Var;
use crate::autograd::tape::record;
use crate::kernels;
use crate::tensor::Tensor;

/// Cross-entropy of logits \[rows, classes\] with one class for each row, as a mean over rows.
///
/// # Panics
/// When there is not one class for each row, or a class is out of range.
#[track_caller]
pub fn cross_entropy(logits: &Var, classes: &[u32]) -> Var {
    let [rows, cols] = logits.dims("cross_entropy");
    assert_eq!(rows, classes.len(), "cross_entropy: {} classes for logits of {}", classes.len(), logits.shape());
    let (loss, p) = kernels::cross_entropy(cols, logits.value().buffer(), classes);
    let (shape, classes) = (*logits.shape(), classes.to_vec());
    let y = Tensor::scalar(loss / rows as f64, logits.dtype());
    record("cross_entropy", [logits], y, move |dy, _| {
        let dx = kernels::cross_entropy_backward(cols, &p, &classes, dy.item() / rows as f64);
        [Some(Tensor::from_buffer(shape, dx))]
    })
}

#[cfg(test)]
mod tests {
    use super::super::testing::*;
    use super::*;

    #[test]
    fn value() {
        let x = random([3, 4], 1).scaled(3.0);
        let classes = [2, 0, 3];
        let row = |r: usize| &x.as_slice::<f64>()[r * 4..(r + 1) * 4];
        let loss = |r: usize| row(r).iter().map(|x| x.exp()).sum::<f64>().ln() - row(r)[classes[r] as usize];
        let exact = (0..3).map(loss).sum::<f64>() / 3.0;
        close(cross_entropy(&x.clone().into(), &classes).item(), exact, 1e-14);
    }

    #[test]
    fn gradient() {
        assert_op("cross_entropy", |x| cross_entropy(&x[0], &[1, 0, 4]), &[random([3, 5], 1)]);
    }

    #[test]
    #[should_panic(expected = "cross_entropy: class 5 of 5")]
    fn a_class_out_of_range() {
        cross_entropy(&random([1, 5], 1).into(), &[5]);
    }
}
