use std::ops::Range;

use crate::kernels::launch::{Written, with_elements};
use crate::kernels::simd::{reduce, sum, vectorized};
use crate::kernels::team::{OF_AN_ELEMENT, share_rows};
use crate::kernels::{Element, Real};

/// One row: y ← γ ⊙ x̂ + β.
#[inline(always)]
fn normalize<T: Real, U: Element>(x: &[T], affine: Option<(&[T], &[T])>, [mean, inverse_std]: [T; 2], y: &mut [U]) {
    match affine {
        Some((gamma, beta)) => {
            for (((y, &x), &g), &b) in y.iter_mut().zip(x).zip(gamma).zip(beta) {
                *y = U::nearest((x - mean) * inverse_std * g + b);
            }
        }
        None => {
            for (y, &x) in y.iter_mut().zip(x) {
                *y = U::nearest((x - mean) * inverse_std);
            }
        }
    }
}

vectorized! {
    fn forward_rows<T, U>(
        cols: usize,
        x: &[T],
        gamma: Option<&[T]>,
        beta: Option<&[T]>,
        eps: f64,
        y: &mut [U],
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
    fn recompute_rows<T, U>(cols: usize, x: &[T], gamma: &[T], beta: &[T], stats: &[T], y: &mut [U]) {
        for ((x, y), stat) in x.chunks_exact(cols).zip(y.chunks_exact_mut(cols)).zip(stats.as_chunks().0) {
            normalize(x, Some((gamma, beta)), *stat, y);
        }
    }

    fn backward_input_rows<T>(
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

    fn backward_affine_columns<T>(
        cols: usize,
        some: Range<usize>,
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
            let (x, dy) = (&x[some.clone()], &dy[some.clone()]);
            for (((dg, db), &x), &dy) in dgamma.iter_mut().zip(dbeta.iter_mut()).zip(x).zip(dy) {
                *dg += dy * (x - mean) * inverse_std;
                *db += dy;
            }
        }
    }
}

pub(super) fn forward<T: Real>(
    cols: usize,
    x: &[T],
    gamma: Option<&[T]>,
    beta: Option<&[T]>,
    eps: f64,
    y: Written<'_, T>,
    stats: &mut [T],
) {
    with_elements!(y, y => share_rows(x.len() / cols, x.len() * OF_AN_ELEMENT, (y, stats), |rows, y, stats| {
        forward_rows(cols, &x[rows.start * cols..rows.end * cols], gamma, beta, eps, y, stats);
    }));
}

pub(super) fn recompute<T: Real>(cols: usize, x: &[T], gamma: &[T], beta: &[T], stats: &[T], y: Written<'_, T>) {
    with_elements!(y, y => share_rows(x.len() / cols, x.len() * OF_AN_ELEMENT, (y, &mut [(); 0]), |rows, y, _| {
        let x = &x[rows.start * cols..rows.end * cols];
        recompute_rows(cols, x, gamma, beta, &stats[2 * rows.start..2 * rows.end], y);
    }));
}

/// With g = γ ⊙ dy, for each row: dx ← dx + (g − mean(g) − x̂ mean(g ⊙ x̂)) / √(v + ε). In `dy`, g is left behind.
pub(super) fn backward_input<T: Real>(
    cols: usize,
    x: &[T],
    gamma: Option<&[T]>,
    stats: &[T],
    dy: &mut [T],
    dx: &mut [T],
) {
    share_rows(x.len() / cols, x.len() * OF_AN_ELEMENT, (dy, dx), |rows, dy, dx| {
        let x = &x[rows.start * cols..rows.end * cols];
        backward_input_rows(cols, x, gamma, &stats[2 * rows.start..2 * rows.end], dy, dx);
    });
}

/// Shared out by columns: each is a sum over all rows.
pub(super) fn backward_affine<T: Real>(cols: usize, x: &[T], stats: &[T], dy: &[T], dgamma: &mut [T], dbeta: &mut [T]) {
    share_rows(cols, x.len() * OF_AN_ELEMENT, (dgamma, dbeta), |some, dgamma, dbeta| {
        backward_affine_columns(cols, some, x, stats, dy, dgamma, dbeta);
    });
}
