//! The definition, in its simplest loops: computed in f64, each number rounded once when it is written.
#![allow(clippy::needless_range_loop, reason = "index expressions are written out")]

use super::{Gather, Run};
use crate::kernels::Real;

/// y\[r, k\] ← x\[r mod sources, indices\[r, k\]\].
pub(super) fn gather<T: Real>(g: Gather, x: &[T], indices: &[u32], y: &mut [T]) {
    for at in 0..indices.len() {
        let source = (at / g.per_row) % g.sources;
        for e in 0..g.dim {
            y[at * g.dim + e] = x[(source * g.tokens + indices[at] as usize) * g.dim + e];
        }
    }
}

/// dx\[r mod sources, indices\[r, k\]\] ← the sum of dy\[r, k\].
pub(super) fn scatter_add<T: Real>(g: Gather, dy: &[T], indices: &[u32], dx: &mut [T]) {
    let mut sums = vec![0.0; dx.len()];
    for at in 0..indices.len() {
        let source = (at / g.per_row) % g.sources;
        for e in 0..g.dim {
            sums[(source * g.tokens + indices[at] as usize) * g.dim + e] += dy[at * g.dim + e].to_f64();
        }
    }
    for i in 0..dx.len() {
        dx[i] = T::from_f64(sums[i]);
    }
}

/// The runs of all parts one after the other, in each row of y.
pub(super) fn concat<T: Real>(rows: usize, widths: &[usize], parts: &[&[T]], y: &mut [T]) {
    let mut at = 0;
    for r in 0..rows {
        for part in 0..parts.len() {
            for e in 0..widths[part] {
                y[at] = parts[part][r * widths[part] + e];
                at += 1;
            }
        }
    }
}

/// y ← `width` elements of each row of x.
pub(super) fn slice<T: Real>(rows: usize, run: Run, width: usize, x: &[T], y: &mut [T]) {
    for r in 0..rows {
        for e in 0..width {
            y[r * width + e] = x[r * run.row + run.start + e];
        }
    }
}

/// `width` elements of each row of dx ← dy, the others ← 0.
pub(super) fn unslice<T: Real>(rows: usize, run: Run, width: usize, dy: &[T], dx: &mut [T]) {
    for r in 0..rows {
        for e in 0..run.row {
            let inside = run.start <= e && e < run.start + width;
            dx[r * run.row + e] = if inside { dy[r * width + e - run.start] } else { T::ZERO };
        }
    }
}

/// (outer, a, mid, b, inner) → (outer, b, mid, a, inner).
pub(super) fn swap_axes<T: Real>([outer, a, mid, b, inner]: [usize; 5], x: &[T], y: &mut [T]) {
    for o in 0..outer {
        for i in 0..a {
            for k in 0..mid {
                for j in 0..b {
                    for e in 0..inner {
                        y[(((o * b + j) * mid + k) * a + i) * inner + e] =
                            x[(((o * a + i) * mid + k) * b + j) * inner + e];
                    }
                }
            }
        }
    }
}
