use crate::kernels::Real;
use crate::kernels::simd::{reduce, sum, vectorized};

/// One row: y ← γ ⊙ x̂ + β.
#[inline(always)]
fn normalize<T: Real>(x: &[T], affine: Option<(&[T], &[T])>, [mean, inverse_std]: [T; 2], y: &mut [T]) {
    match affine {
        Some((gamma, beta)) => {
            for (((y, &x), &g), &b) in y.iter_mut().zip(x).zip(gamma).zip(beta) {
                *y = (x - mean) * inverse_std * g + b;
            }
        }
        None => {
            for (y, &x) in y.iter_mut().zip(x) {
                *y = (x - mean) * inverse_std;
            }
        }
    }
}

vectorized! {
    pub(super) fn forward<T>(
        cols: usize,
        x: &[T],
        gamma: Option<&[T]>,
        beta: Option<&[T]>,
        eps: f64,
        y: &mut [T],
        stats: &mut [T],
    ) {
        let (affine, eps, stats) = (gamma.zip(beta), T::from_f64(eps), stats.as_chunks_mut().0);
        let inverse_cols = T::from_f64(1.0 / cols as f64);
        for ((x, y), stat) in x.chunks_exact(cols).zip(y.chunks_exact_mut(cols)).zip(stats) {
            let mean = sum(x) * inverse_cols;
            let squares = reduce(x, x, T::ZERO, |s, x, _| s + (x - mean) * (x - mean), |a, b| a + b);
            let inverse_std = T::ONE / (squares * inverse_cols + eps).sqrt();
            *stat = [mean, inverse_std];
            normalize(x, affine, [mean, inverse_std], y);
        }
    }

    /// [`forward`] when each row's (μ, 1/√(v + ε)) is known.
    pub(super) fn recompute<T>(cols: usize, x: &[T], gamma: &[T], beta: &[T], stats: &[T], y: &mut [T]) {
        for ((x, y), stat) in x.chunks_exact(cols).zip(y.chunks_exact_mut(cols)).zip(stats.as_chunks().0) {
            normalize(x, Some((gamma, beta)), *stat, y);
        }
    }

    /// With g = γ ⊙ dy, for each row: dx ← dx + (g − mean(g) − x̂ mean(g ⊙ x̂)) / √(v + ε). In `dy`, g is left behind.
    pub(super) fn backward_input<T>(
        cols: usize,
        x: &[T],
        gamma: Option<&[T]>,
        stats: &[T],
        dy: &mut [T],
        dx: &mut [T],
    ) {
        let (inverse_cols, stats) = (T::from_f64(1.0 / cols as f64), stats.as_chunks().0);
        let rows = x.chunks_exact(cols).zip(dy.chunks_exact_mut(cols)).zip(dx.chunks_exact_mut(cols)).zip(stats);
        for (((x, g), dx), &[mean, inverse_std]) in rows {
            if let Some(gamma) = gamma {
                for (g, &gamma) in g.iter_mut().zip(gamma) {
                    *g *= gamma;
                }
            }
            let mean_g = sum(g) * inverse_cols;
            let gx = reduce(g, x, T::ZERO, |s, g, x| s + g * (x - mean), |a, b| a + b);
            let mean_gx = gx * inverse_std * inverse_cols;
            for ((dx, &g), &x) in dx.iter_mut().zip(&*g).zip(x) {
                *dx += (g - mean_g - (x - mean) * inverse_std * mean_gx) * inverse_std;
            }
        }
    }

    pub(super) fn backward_affine<T>(
        cols: usize,
        x: &[T],
        stats: &[T],
        dy: &[T],
        dgamma: &mut [T],
        dbeta: &mut [T],
    ) {
        dgamma.fill(T::ZERO);
        dbeta.fill(T::ZERO);
        let rows = x.chunks_exact(cols).zip(dy.chunks_exact(cols)).zip(stats.as_chunks().0);
        for ((x, dy), &[mean, inverse_std]) in rows {
            for (((dg, db), &x), &dy) in dgamma.iter_mut().zip(dbeta.iter_mut()).zip(x).zip(dy) {
                *dg += dy * (x - mean) * inverse_std;
                *db += dy;
            }
        }
    }
}
