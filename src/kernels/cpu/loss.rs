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

/// Σ over rows of −ln p\[class\], given the rows' softmax `p`.
pub fn negative_log_likelihood<T: Real>(p: &[T], classes: &[u32], cols: usize) -> f64 {
    // A probability that underflowed to 0 is taken as the smallest positive number: large, not infinite.
    classes.iter().enumerate().map(|(r, &c)| -p[r * cols + c as usize].to_f64().max(f64::MIN_POSITIVE).ln()).sum()
}

/// dx ← (p − onehot(class)) dy.
pub fn cross_entropy_backward<T: Real>(p: &[T], classes: &[u32], cols: usize, dy: T, dx: &mut [T]) {
    super::elementwise::scale(p, dy, dx);
    for (r, &c) in classes.iter().enumerate() {
        dx[r * cols + c as usize] -= dy;
    }
}
