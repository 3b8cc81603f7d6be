//! The definition, in its simplest loops: computed in f64, each number rounded once when it is written.
#![allow(clippy::needless_range_loop, reason = "index expressions are written out")]

use crate::kernels::Real;
use crate::kernels::launch::Written;

/// y ← γ ⊙ x̂ + β, and each row's (μ, 1/√(v + ε)) into `stats`.
pub(super) fn forward<T: Real>(
    cols: usize,
    x: &[T],
    gamma: Option<&[T]>,
    beta: Option<&[T]>,
    eps: f64,
    y: Written<'_, T>,
    stats: &mut [T],
) {
    let y = y.wide();
    for r in 0..stats.len() / 2 {
        let row: Vec<f64> = (0..cols).map(|i| x[r * cols + i].to_f64()).collect();
        let mean = row.iter().sum::<f64>() / cols as f64;
        let variance = row.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / cols as f64;
        let inverse_std = 1.0 / (variance + eps).sqrt();
        stats[2 * r] = T::from_f64(mean);
        stats[2 * r + 1] = T::from_f64(inverse_std);
        for i in 0..cols {
            let (gamma, beta) = (gamma.map_or(1.0, |g| g[i].to_f64()), beta.map_or(0.0, |b| b[i].to_f64()));
            y[r * cols + i] = T::from_f64((row[i] - mean) * inverse_std * gamma + beta);
        }
    }
}

/// x̂ of element i of row r.
fn normal<T: Real>(cols: usize, x: &[T], stats: &[T], r: usize, i: usize) -> f64 {
    let (mean, inverse_std) = (stats[2 * r].to_f64(), stats[2 * r + 1].to_f64());
    (x[r * cols + i].to_f64() - mean) * inverse_std
}

/// y ← γ ⊙ x̂ + β.
pub(super) fn recompute<T: Real>(cols: usize, x: &[T], gamma: &[T], beta: &[T], stats: &[T], y: Written<'_, T>) {
    let y = y.wide();
    for r in 0..stats.len() / 2 {
        for i in 0..cols {
            y[r * cols + i] = T::from_f64(normal(cols, x, stats, r, i) * gamma[i].to_f64() + beta[i].to_f64());
        }
    }
}

/// With g = γ ⊙ dy, for each row: dx ← dx + (g − mean(g) − x̂ mean(g ⊙ x̂)) / √(v + ε).
pub(super) fn backward_input<T: Real>(
    cols: usize,
    x: &[T],
    gamma: Option<&[T]>,
    stats: &[T],
    dy: &mut [T],
    dx: &mut [T],
) {
    for r in 0..stats.len() / 2 {
        let g = |i: usize| gamma.map_or(1.0, |gamma| gamma[i].to_f64()) * dy[r * cols + i].to_f64();
        let normal = |i: usize| normal(cols, x, stats, r, i);
        let mean_g = (0..cols).map(g).sum::<f64>() / cols as f64;
        let mean_gx = (0..cols).map(|i| g(i) * normal(i)).sum::<f64>() / cols as f64;
        for i in 0..cols {
            let term = (g(i) - mean_g - normal(i) * mean_gx) * stats[2 * r + 1].to_f64();
            dx[r * cols + i] = T::from_f64(dx[r * cols + i].to_f64() + term);
        }
    }
}

/// dγ ← Σ over rows of dy ⊙ x̂, dβ ← Σ over rows of dy.
pub(super) fn backward_affine<T: Real>(cols: usize, x: &[T], stats: &[T], dy: &[T], dgamma: &mut [T], dbeta: &mut [T]) {
    let rows = stats.len() / 2;
    for i in 0..cols {
        let dy = |r: usize| dy[r * cols + i].to_f64();
        dgamma[i] = T::from_f64((0..rows).map(|r| dy(r) * normal(cols, x, stats, r, i)).sum());
        dbeta[i] = T::from_f64((0..rows).map(dy).sum());
    }
}
