//! Losses, as means: over all elements, or over rows. Each gives one element; its gradient `dy` is one element too.

mod cpu;
#[cfg(feature = "cuda")]
pub(super) mod cuda;
mod reference;

use super::{Buffer, IndexBuffer, Real, check_len, launch, softmax};

/// What a distance d = x − target costs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Regression {
    /// d²/2β where |d| < β and |d| − β/2 elsewhere.
    SmoothL1 {
        /// β
        beta: f64,
    },
    /// d²
    Squared,
}

impl Regression {
    /// `"smooth_l1"` or `"mse"`.
    pub fn name(self) -> &'static str {
        match self {
            Regression::SmoothL1 { .. } => "smooth_l1",
            Regression::Squared => "mse",
        }
    }

    #[inline(always)]
    fn value<T: Real>(self, d: T) -> T {
        match self {
            Regression::SmoothL1 { beta } => {
                let (d, beta, half) = (d.abs(), T::from_f64(beta), T::from_f64(0.5));
                if d < beta { half * d * d / beta } else { d - half * beta }
            }
            Regression::Squared => d * d,
        }
    }

    /// Its derivative: clamp(d/β, −1, 1), or 2 d.
    #[inline(always)]
    fn slope<T: Real>(self, d: T) -> T {
        match self {
            Regression::SmoothL1 { beta } => {
                let d = d / T::from_f64(beta);
                let d = if d > T::ONE { T::ONE } else { d };
                if d < -T::ONE { -T::ONE } else { d }
            }
            Regression::Squared => d + d,
        }
    }
}

/// The mean cost of x − target.
#[track_caller]
pub fn regression(of: Regression, x: &Buffer, target: &Buffer) -> Buffer {
    check_len(of.name(), "target", target, x.len());
    let mut loss = x.like(1);
    launch!(of.name(), [x, target], [loss] => regression(of, x, target, loss));
    loss
}

/// The gradient of [`regression`] with respect to x.
#[track_caller]
pub fn regression_backward(of: Regression, x: &Buffer, target: &Buffer, dy: &Buffer) -> Buffer {
    check_len(of.name(), "target", target, x.len());
    check_len(of.name(), "dy", dy, 1);
    let mut dx = x.like(x.len());
    launch!(of.name(), [x, target, dy], [dx] => regression_backward(of, x, target, dy, dx));
    dx
}

/// The mean over rows of `cols` of −ln softmax(x)\[class\].
#[track_caller]
pub fn cross_entropy(cols: usize, x: &Buffer, classes: &IndexBuffer) -> Buffer {
    check_classes(cols, x, classes);
    let mut loss = x.like(1);
    launch!("cross_entropy", [x, classes], [loss] => cross_entropy(cols, x, classes, loss));
    loss
}

/// (softmax(x) − onehot(class)) dy / rows: the gradient of [`cross_entropy`] with respect to x.
#[track_caller]
pub fn cross_entropy_backward(cols: usize, x: &Buffer, classes: &IndexBuffer, dy: &Buffer) -> Buffer {
    check_classes(cols, x, classes);
    check_len("cross_entropy", "dy", dy, 1);
    let mut dx = softmax::forward(cols, x);
    launch!("cross_entropy", [classes, dy], [dx] => cross_entropy_backward(cols, classes, dy, dx));
    dx
}

#[track_caller]
fn check_classes(cols: usize, x: &Buffer, classes: &IndexBuffer) {
    check_len("cross_entropy", "logits", x, classes.len() * cols);
    if let Some(max) = classes.max().filter(|max| *max as usize >= cols) {
        panic!("cross_entropy: class {max} of {cols}");
    }
}
