use super::{Gather, Run};
use crate::kernels::Real;
use crate::kernels::elementwise::cpu::accumulate;

/// y\[r, k\] ← x\[r mod sources, indices\[r, k\]\].
pub(super) fn gather<T: Real>(g: Gather, x: &[T], indices: &[u32], y: &mut [T]) {
    for_each_token(g, indices, |at, token| {
        y[at * g.dim..(at + 1) * g.dim].copy_from_slice(&x[token * g.dim..(token + 1) * g.dim]);
    });
}

/// dx\[r mod sources, indices\[r, k\]\] ← the sum of dy\[r, k\].
pub(super) fn scatter_add<T: Real>(g: Gather, dy: &[T], indices: &[u32], dx: &mut [T]) {
    dx.fill(T::ZERO);
    for_each_token(g, indices, |at, token| {
        accumulate(&dy[at * g.dim..(at + 1) * g.dim], &mut dx[token * g.dim..(token + 1) * g.dim]);
    });
}

/// Calls `f` with the place of each index and that of its token in x.
fn for_each_token(g: Gather, indices: &[u32], mut f: impl FnMut(usize, usize)) {
    for (at, &token) in indices.iter().enumerate() {
        f(at, at / g.per_row % g.sources * g.tokens + token as usize);
    }
}

/// `width` elements of each of `rows` rows.
fn copy<T: Real>(rows: usize, width: usize, (x, from): (&[T], Run), (y, to): (&mut [T], Run)) {
    for r in 0..rows {
        let (from, to) = (r * from.row + from.start, r * to.row + to.start);
        y[to..to + width].copy_from_slice(&x[from..from + width]);
    }
}

/// The runs of all parts one after the other, in each row of y.
pub(super) fn concat<T: Real>(rows: usize, widths: &[usize], parts: &[&[T]], y: &mut [T]) {
    let mut to = Run { row: widths.iter().sum(), start: 0 };
    for (x, &width) in parts.iter().zip(widths) {
        copy(rows, width, (x, Run { row: width, start: 0 }), (y, to));
        to.start += width;
    }
}

/// y ← `width` elements of each row of x.
pub(super) fn slice<T: Real>(rows: usize, run: Run, width: usize, x: &[T], y: &mut [T]) {
    copy(rows, width, (x, run), (y, Run { row: width, start: 0 }));
}

/// `width` elements of each row of dx ← dy, the others ← 0.
pub(super) fn unslice<T: Real>(rows: usize, run: Run, width: usize, dy: &[T], dx: &mut [T]) {
    dx.fill(T::ZERO);
    copy(rows, width, (dy, Run { row: width, start: 0 }), (dx, run));
}

/// (outer, a, mid, b, inner) → (outer, b, mid, a, inner).
pub(super) fn swap_axes<T: Real>([outer, a, mid, b, inner]: [usize; 5], x: &[T], y: &mut [T]) {
    for o in 0..outer {
        for i in 0..a {
            for k in 0..mid {
                for j in 0..b {
                    let from = (((o * a + i) * mid + k) * b + j) * inner;
                    let to = (((o * b + j) * mid + k) * a + i) * inner;
                    y[to..to + inner].copy_from_slice(&x[from..from + inner]);
                }
            }
        }
    }
}
