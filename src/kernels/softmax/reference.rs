//! The definition, in its simplest loops: computed in f64, each number rounded once when it is written.
#![allow(clippy::needless_range_loop, reason = "index expressions are written out")]

use crate::kernels::Real;

/// Each row of y ← softmax(row of x).
pub(super) fn forward<T: Real>(cols: usize, x: &[T], y: &mut [T]) {
    for row in (0..x.len()).step_by(cols.max(1)) {
        let x: Vec<f64> = (0..cols).map(|i| x[row + i].to_f64()).collect();
        // The same quotient with numerator and denominator divided by e^largest, so that neither overflows.
        let largest = x.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let total: f64 = x.iter().map(|x| (x - largest).exp()).sum();
        for i in 0..cols {
            y[row + i] = T::from_f64((x[i] - largest).exp() / total);
        }
    }
}

/// dx ← y ⊙ (dy − ⟨y, dy⟩) for each row.
pub(super) fn backward<T: Real>(cols: usize, y: &[T], dy: &[T], dx: &mut [T]) {
    for row in (0..y.len()).step_by(cols.max(1)) {
        let inner: f64 = (0..cols).map(|i| y[row + i].to_f64() * dy[row + i].to_f64()).sum();
        for i in 0..cols {
            dx[row + i] = T::from_f64(y[row + i].to_f64() * (dy[row + i].to_f64() - inner));
        }
    }
}
