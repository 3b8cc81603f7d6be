//! Losses: of classes as a mean over rows, of regression as a mean over all elements, with d = x − target.
//!
//! | | loss | dx |
//! |---|---|---|
//! | cross-entropy | −ln softmax(x)\[class\] | (softmax(x) − onehot(class)) dy / rows |
//! | smooth L1 | d²/2β where \|d\| < β, \|d\| − β/2 elsewhere | clamp(d/β, −1, 1) dy / elements, continuous at \|d\| = β |
//! | MSE | d² | 2d dy / elements |
//!
//! A target of regression has the opposite gradient.

use crate::autograd::Var;
use crate::autograd::tape::record;
use crate::kernels::{self, loss as kernel};
use crate::tensor::{Indices, Tensor};

/// Cross-entropy of logits \[rows, classes\] with one class for each row, as a mean over rows.
///
/// # Panics
/// When there is not one class for each row, or a class is out of range.
#[track_caller]
pub fn cross_entropy(logits: &Var, classes: &Indices) -> Var {
    let [rows, cols] = logits.dims("cross_entropy");
    let n = classes.buffer().len();
    assert_eq!(rows, n, "cross_entropy: {n} classes for logits of {}", logits.shape());
    let (x, classes) = (logits.value().clone(), classes.buffer().clone());
    let loss = kernel::cross_entropy(cols, x.buffer(), &classes);
    record("cross_entropy", [logits], Tensor::from_buffer([], loss), move |dy, _| {
        let dx = kernel::cross_entropy_backward(cols, x.buffer(), &classes, dy.buffer());
        [Some(Tensor::from_buffer(*x.shape(), dx))]
    })
}

/// Records a regression loss, given its value and its gradient with respect to x.
#[track_caller]
fn regression(
    name: &'static str,
    x: &Var,
    target: &Var,
    loss: impl FnOnce(&Tensor, &Tensor) -> kernels::Buffer,
    backward: impl FnOnce(&Tensor, &Tensor, &Tensor) -> kernels::Buffer + 'static,
) -> Var {
    assert_eq!(x.shape(), target.shape(), "{name}: {} predictions for {} targets", x.shape(), target.shape());
    let (p, t) = (x.value().clone(), target.value().clone());
    record(name, [x, target], Tensor::from_buffer([], loss(&p, &t)), move |dy, needed| {
        let dx = Tensor::from_buffer(*p.shape(), backward(&p, &t, &dy));
        let dtarget = needed[1].then(|| dx.scaled(-1.0));
        [needed[0].then_some(dx), dtarget]
    })
}

/// Mean smooth L1 loss (Girshick, 2015) between predictions and targets, with β in the targets' units (the official
/// code: 1).
///
/// # Panics
/// When the shapes differ or β is not positive.
#[track_caller]
pub fn smooth_l1(x: &Var, target: &Var, beta: f64) -> Var {
    assert!(beta > 0.0, "smooth_l1: beta is {beta}, it must be positive");
    let loss = |x: &Tensor, t: &Tensor| kernel::smooth_l1(x.buffer(), t.buffer(), beta);
    regression("smooth_l1", x, target, loss, move |x, t, dy| {
        kernel::smooth_l1_backward(x.buffer(), t.buffer(), beta, dy.buffer())
    })
}

/// Mean squared error between predictions and targets.
///
/// # Panics
/// When the shapes differ.
#[track_caller]
pub fn mse(x: &Var, target: &Var) -> Var {
    let loss = |x: &Tensor, t: &Tensor| kernel::squared_error(x.buffer(), t.buffer());
    regression("mse", x, target, loss, |x, t, dy| kernel::squared_error_backward(x.buffer(), t.buffer(), dy.buffer()))
}

#[cfg(test)]
mod tests {
    use super::super::testing::*;
    use super::*;
    use crate::autograd::Tape;
    use crate::tensor::DType;

    fn classes<const N: usize>(of_rows: [u32; N]) -> Indices {
        Indices::new(N, 1, of_rows.to_vec())
    }

    #[test]
    fn values() {
        // Even odds, and odds of 3 to 1.
        let x = Var::from(Tensor::new([2, 2], vec![5.0, 5.0, 0.0, 3f64.ln()]));
        close(cross_entropy(&x, &classes([0, 0])).item(), (2f64.ln() + 4f64.ln()) / 2.0, 1e-15);

        let (x, t) = (Tensor::new([4], vec![0.5, -1.0, 3.0, 1.0]), Tensor::zeros([4], DType::F64));
        let (x, t) = (Var::from(x), Var::from(t));
        // β = 1: 1/8, 1/2 (at the joint both forms agree), 5/2, 1/2.
        close(smooth_l1(&x, &t, 1.0).item(), (0.125 + 0.5 + 2.5 + 0.5) / 4.0, 1e-15);
        // β = 2: 1/16, 1/4, 2, 1/4.
        close(smooth_l1(&x, &t, 2.0).item(), (0.0625 + 0.25 + 2.0 + 0.25) / 4.0, 1e-15);
        close(mse(&x, &t).item(), (0.25 + 1.0 + 9.0 + 1.0) / 4.0, 1e-15);
    }

    #[test]
    fn gradient() {
        let inputs = [random([3, 5], 1).scaled(3.0), random([3, 5], 2)];
        assert_op("smooth_l1", |x| smooth_l1(&x[0], &x[1], 1.0), &inputs);
        assert_op("smooth_l1, beta 0.3", |x| smooth_l1(&x[0], &x[1], 0.3), &inputs);
        assert_op("mse", |x| mse(&x[0], &x[1]), &inputs);
        assert_op("cross_entropy", |x| cross_entropy(&x[0], &classes([1, 0, 4])), &inputs[..1]);
    }

    /// Where softmax saturates: ln Σ exp(x) − x\[class\] is what no exp of its own could say.
    #[test]
    fn large_logits_and_nan() {
        let of = |logits: [f64; 2], class: u32, dtype: DType| {
            let (tape, logits) = (Tape::new(), Tensor::new([1, 2], logits.to_vec()).to_dtype(dtype));
            let x = tape.leaf(logits);
            let loss = cross_entropy(&x, &classes([class]));
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
    #[should_panic(expected = "cross_entropy: class 5 of 5")]
    fn a_class_out_of_range() {
        cross_entropy(&random([1, 5], 1).into(), &classes([5]));
    }
}
