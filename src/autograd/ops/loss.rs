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
use crate::kernels::loss::{self as kernel, Regression};
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

#[track_caller]
fn regression(of: Regression, x: &Var, target: &Var) -> Var {
    let name = of.name();
    assert_eq!(x.shape(), target.shape(), "{name}: {} predictions for {} targets", x.shape(), target.shape());
    let (p, t) = (x.value().clone(), target.value().clone());
    let loss = Tensor::from_buffer([], kernel::regression(of, p.buffer(), t.buffer()));
    record(name, [x, target], loss, move |dy, needed| {
        let dx = kernel::regression_backward(of, p.buffer(), t.buffer(), dy.buffer());
        let dx = Tensor::from_buffer(*p.shape(), dx);
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
    regression(Regression::SmoothL1 { beta }, x, target)
}

/// Mean squared error between predictions and targets.
#[track_caller]
pub fn mse(x: &Var, target: &Var) -> Var {
    regression(Regression::Squared, x, target)
}
