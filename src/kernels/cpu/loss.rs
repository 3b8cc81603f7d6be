//! Losses, as sums over elements (the caller divides), with their derivatives.

use super::simd::{reduce, vectorized};
use crate::kernels::Real;

vectorized! {
    /// Σ of d²/2β where |d| < β and |d| − β/2 elsewhere, d = x − y.
    pub fn smooth_l1<T>(x: &[T], y: &[T], beta: T) -> f64 {
        let half = T::from_f64(0.5);
        let per_element = |d: T| if d < beta { half * d * d / beta } else { d - half * beta };
        reduce(x, y, 0.0, |sum, x, y| sum + per_element((x - y).abs()).to_f64(), |a, b| a + b)
    }

    /// Σ (x − y)².
    pub fn squared_error<T>(x: &[T], y: &[T]) -> f64 {
        reduce(x, y, 0.0, |sum, x, y| sum + ((x - y) * (x - y)).to_f64(), |a, b| a + b)
    }

    /// dx ← clamp((x − y)/β, −1, 1) · dy.
    pub fn smooth_l1_backward<T>(x: &[T], y: &[T], beta: T, dy: T, dx: &mut [T]) {
        for ((dx, &x), &y) in dx.iter_mut().zip(x).zip(y) {
            let d = (x - y) / beta;
            let d = if d > T::ONE { T::ONE } else { d };
            let d = if d < -T::ONE { -T::ONE } else { d };
            *dx = d * dy;
        }
    }

    /// dx ← 2 (x − y) dy.
    pub fn squared_error_backward<T>(x: &[T], y: &[T], dy: T, dx: &mut [T]) {
        let twice = dy + dy;
        for ((dx, &x), &y) in dx.iter_mut().zip(x).zip(y) {
            *dx = (x - y) * twice;
        }
    }
}

/// Σ over rows of ln Σ exp(x) − x\[class\], added up in f64. The largest entry of a row has the largest share p of its
/// softmax, and ln Σ exp(x) = max x − ln max p: nothing overflows or vanishes, and NaN stays NaN.
pub fn cross_entropy<T: Real>(x: &[T], classes: &[u32], cols: usize) -> f64 {
    let mut p = x.to_vec();
    super::softmax::forward_in_place(&mut p, cols);
    let largest = |row: &[T]| row.iter().map(|x| x.to_f64()).fold(f64::NEG_INFINITY, f64::max);
    let rows = x.chunks_exact(cols.max(1)).zip(p.chunks_exact(cols.max(1))).zip(classes);
    rows.map(|((x, p), &class)| largest(x) - x[class as usize].to_f64() - largest(p).ln()).sum()
}

/// p ← (p − onehot(class)) dy, where p is the softmax of each row.
pub fn cross_entropy_backward<T: Real>(p: &mut [T], classes: &[u32], cols: usize, dy: T) {
    for (row, &class) in p.chunks_exact_mut(cols.max(1)).zip(classes) {
        row[class as usize] -= T::ONE;
        row.iter_mut().for_each(|p| *p *= dy);
    }
}
