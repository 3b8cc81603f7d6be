//! Regression losses, as means over all elements, of the difference d = x − target.
//!
//! Smooth L1: d²/2β where |d| < β, |d| − β/2 elsewhere; derivative clamp(d/β, −1, 1), continuous at |d| = β.
//! MSE: d²; derivative 2d. The target has the opposite gradient.

use crate::autograd::Var;
use crate::autograd::tape::record;
use crate::kernels;
use crate::tensor::Tensor;

#[track_caller]
fn check(op: &str, x: &Var, target: &Var) -> f64 {
    assert_eq!(x.shape(), target.shape(), "{op}: {} predictions for {} targets", x.shape(), target.shape());
    x.shape().elements() as f64
}

fn both(dx: Tensor, needed: [bool; 2]) -> [Option<Tensor>; 2] {
    let dtarget = needed[1].then(|| dx.scaled(-1.0));
    [needed[0].then_some(dx), dtarget]
}

/// Mean smooth L1 loss (Girshick, 2015) between predictions and targets, with β in the targets' units (the official
/// code: 1).
///
/// # Panics
/// When the shapes differ or β is not positive.
#[track_caller]
pub fn smooth_l1(x: &Var, target: &Var, beta: f64) -> Var {
    assert!(beta > 0.0, "smooth_l1: beta is {beta}, it must be positive");
    let n = check("smooth_l1", x, target);
    let (p, t) = (x.value().clone(), target.value().clone());
    let loss = kernels::smooth_l1(p.buffer(), t.buffer(), beta) / n;
    record("smooth_l1", [x, target], Tensor::scalar(loss, p.dtype()), move |dy, needed| {
        let dx = kernels::smooth_l1_backward(p.buffer(), t.buffer(), beta, dy.item() / n);
        both(Tensor::from_buffer(*p.shape(), dx), needed)
    })
}

/// Mean squared error between predictions and targets.
///
/// # Panics
/// When the shapes differ.
#[track_caller]
pub fn mse(x: &Var, target: &Var) -> Var {
    let n = check("mse", x, target);
    let (p, t) = (x.value().clone(), target.value().clone());
    let loss = kernels::squared_error(p.buffer(), t.buffer()) / n;
    record("mse", [x, target], Tensor::scalar(loss, p.dtype()), move |dy, needed| {
        let dx = kernels::squared_error_backward(p.buffer(), t.buffer(), dy.item() / n);
        both(Tensor::from_buffer(*p.shape(), dx), needed)
    })
}

#[cfg(test)]
mod tests {
    use super::super::testing::*;
    use super::*;

    #[test]
    fn values() {
        let (x, t) = (Tensor::new([4], vec![0.5, -1.0, 3.0, 1.0]), Tensor::zeros([4], crate::DType::F64));
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
    }
}
