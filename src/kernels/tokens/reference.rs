//! The definition, in its simplest loops: computed in f64, each number rounded once when it is written.
#![allow(clippy::needless_range_loop, reason = "index expressions are written out")]

use super::Gather;
use crate::kernels::Real;
pub(super) use crate::kernels::elementwise::reference::copy;

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
