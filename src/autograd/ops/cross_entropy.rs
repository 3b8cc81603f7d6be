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
    let loss = kernels::cross_entropy(cols, logits.value().buffer(), classes);
    let (x, classes) = (logits.value().clone(), classes.to_vec());
    let y = Tensor::scalar(loss / rows as f64, logits.dtype());
    record("cross_entropy", [logits], y, move |dy, _| {
        let dx = kernels::cross_entropy_backward(cols, x.buffer(), &classes, dy.item() / rows as f64);
        [Some(Tensor::from_buffer(*x.shape(), dx))]
    })
}

#[cfg(test)]
mod tests {
    use super::super::testing::*;
    use super::*;
    use crate::autograd::Tape;
    use crate::tensor::DType;

    #[test]
    fn value() {
        let x = random([3, 4], 1).scaled(3.0);
        let classes = [2, 0, 3];
        let row = |r: usize| &x.as_slice::<f64>()[r * 4..(r + 1) * 4];
        let loss = |r: usize| row(r).iter().map(|x| x.exp()).sum::<f64>().ln() - row(r)[classes[r] as usize];
        let exact = (0..3).map(loss).sum::<f64>() / 3.0;
        close(cross_entropy(&x.clone().into(), &classes).item(), exact, 1e-14);
    }

    /// Where softmax saturates: ln Σ exp(x) − x\[class\] is what no exp of its own could say.
    #[test]
    fn large_logits_and_nan() {
        let of = |logits: [f64; 2], class: u32, dtype: DType| {
            let (tape, logits) = (Tape::new(), Tensor::new([1, 2], logits.to_vec()).to_dtype(dtype));
            let x = tape.leaf(logits);
            let loss = cross_entropy(&x, &[class]);
            let gradient = tape.backward(&loss).of(&x).unwrap().to_dtype(DType::F64);
            (loss.item(), [gradient.as_slice::<f64>()[0], gradient.as_slice::<f64>()[1]])
        };
        for dtype in [DType::F32, DType::F64] {
            for large in [1e3, 1e4] {
                for (logits, class, expected) in
                    [([large, 0.0], 1, 1.0), ([large, 0.0], 0, 0.0), ([-large, 0.0], 0, -1.0)]
                {
                    let (loss, [first, second]) = of(logits, class, dtype);
                    assert_eq!(loss, large * f64::abs(expected));
                    // f32's exp ends at its smallest positive number, not at 0.
                    assert!((first - expected).abs() < 1e-37 && (second + expected).abs() < 1e-37, "{first} {second}");
                }
            }
            let (loss, gradient) = of([1e4, 1e4], 0, dtype);
            assert!((loss - 2f64.ln()).abs() < 1e-7 && gradient == [-0.5, 0.5], "{loss} {gradient:?}");
            for at in [0, 1] {
                let mut logits = [0.0, 1.0];
                logits[at] = f64::NAN;
                let (loss, gradient) = of(logits, 0, dtype);
                assert!(loss.is_nan() && gradient.iter().all(|g| g.is_nan()), "{loss} {gradient:?}");
            }
        }
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
