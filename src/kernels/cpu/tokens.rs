//! Moving tokens: gathering them by index and scattering back, runs of columns, heads.

use super::elementwise::accumulate;
use crate::kernels::Real;

/// y\[r, k\] ← x\[r mod sources, indices\[r, k\]\], rows of `dim` elements. `tokens` is x's number of tokens.
///
/// With fewer sources than rows of indices the sources are repeated: one position table serves every image.
pub fn gather<T: Real>(x: &[T], tokens: usize, dim: usize, indices: &[u32], per_row: usize, y: &mut [T]) {
    let sources = sources(x.len(), tokens, dim);
    for_each_token(indices, per_row, sources, |at, r, token| {
        let from = (r * tokens + token) * dim;
        y[at * dim..(at + 1) * dim].copy_from_slice(&x[from..from + dim]);
    });
}

/// dx\[r mod sources, indices\[r, k\]\] += dy\[r, k\]: the transpose of [`gather`].
pub fn scatter_add<T: Real>(dy: &[T], tokens: usize, dim: usize, indices: &[u32], per_row: usize, dx: &mut [T]) {
    let sources = sources(dx.len(), tokens, dim);
    for_each_token(indices, per_row, sources, |at, r, token| {
        let to = (r * tokens + token) * dim;
        accumulate(&dy[at * dim..(at + 1) * dim], &mut dx[to..to + dim]);
    });
}

fn sources(len: usize, tokens: usize, dim: usize) -> usize {
    (len / (tokens * dim).max(1)).max(1)
}

fn for_each_token(indices: &[u32], per_row: usize, sources: usize, mut f: impl FnMut(usize, usize, usize)) {
    for (at, &token) in indices.iter().enumerate() {
        f(at, at / per_row % sources, token as usize);
    }
}

/// For each row of `rows`: `width` elements from `x`, whose rows are `x_row` long, starting at `x_at`, go into
/// `y`, whose rows are `y_row` long, starting at `y_at`. What concatenating and slicing are made of.
pub fn copy_runs<T: Real>(
    rows: usize,
    width: usize,
    (x, x_row, x_at): (&[T], usize, usize),
    (y, y_row, y_at): (&mut [T], usize, usize),
) {
    for r in 0..rows {
        let (from, to) = (r * x_row + x_at, r * y_row + y_at);
        y[to..to + width].copy_from_slice(&x[from..from + width]);
    }
}

/// Exchanges the two middle axes: (outer, a, b, inner) → (outer, b, a, inner). Splitting heads takes (B, N, h, d)
/// to (B, h, N, d); merging them takes it back.
pub fn swap_middle<T: Real>(x: &[T], [outer, a, b, inner]: [usize; 4], y: &mut [T]) {
    for o in 0..outer {
        for i in 0..a {
            for j in 0..b {
                let from = ((o * a + i) * b + j) * inner;
                let to = ((o * b + j) * a + i) * inner;
                y[to..to + inner].copy_from_slice(&x[from..from + inner]);
            }
        }
    }
}
