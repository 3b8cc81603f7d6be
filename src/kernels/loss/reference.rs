//! The definition, in its simplest loops: computed in f64, each number rounded once when it is written.
#![allow(clippy::needless_range_loop, reason = "index expressions are written out")]

use super::Regression;
use crate::kernels::Real;

/// loss ← the mean cost of x − y.
pub(super) fn regression<T: Real>(of: Regression, x: &[T], y: &[T], loss: &mut [T]) {
    let sum: f64 = (0..x.len()).map(|i| of.value(x[i].to_f64() - y[i].to_f64())).sum();
    loss[0] = T::from_f64(sum / x.len() as f64);
}

/// dx ← its slope at x − y, times dy / elements.
pub(super) fn regression_backward<T: Real>(of: Regression, x: &[T], y: &[T], dy: &[T], dx: &mut [T]) {
    for i in 0..x.len() {
        let slope = of.slope(x[i].to_f64() - y[i].to_f64());
        dx[i] = T::from_f64(slope * dy[0].to_f64() / x.len() as f64);
    }
}

/// loss ← the mean over rows of ln Σ exp(x) − x\[class\], with the largest entry taken out of both.
pub(super) fn cross_entropy<T: Real>(cols: usize, x: &[T], classes: &[u32], loss: &mut [T]) {
    let mut sum = 0.0;
    for r in 0..classes.len() {
        let row: Vec<f64> = (0..cols).map(|c| x[r * cols + c].to_f64()).collect();
        let largest = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let total: f64 = row.iter().map(|x| (x - largest).exp()).sum();
        sum += total.ln() + largest - row[classes[r] as usize];
    }
    loss[0] = T::from_f64(sum / classes.len() as f64);
}

/// p ← (p − onehot(class)) dy / rows, where p is the softmax of each row.
pub(super) fn cross_entropy_backward<T: Real>(cols: usize, classes: &[u32], dy: &[T], p: &mut [T]) {
    for r in 0..classes.len() {
        for c in 0..cols {
            let onehot = if c == classes[r] as usize { 1.0 } else { 0.0 };
            let term = (p[r * cols + c].to_f64() - onehot) * dy[0].to_f64() / classes.len() as f64;
            p[r * cols + c] = T::from_f64(term);
        }
    }
}
