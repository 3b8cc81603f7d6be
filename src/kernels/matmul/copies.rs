//! Copies of what a product reads, in the order in which it reads it.

use super::registers::{MadeOf, Register};
use crate::kernels::Element;
use crate::kernels::real::Strides;

/// Copies the rows of a tile from a transposed a, `depth` steps of them without gaps. It writes whole registers: what it writes
/// beyond a step, the next one writes over, or nobody reads.
///
/// # Safety
/// All of these elements can be read, and as many and a register more be written.
#[inline(always)]
pub(super) unsafe fn pack_tile<R: Register>(
    (a, strides): (*const f32, Strides),
    [rows, depth]: [usize; 2],
    tile: *mut f32,
) {
    for l in 0..depth {
        for r in (0..rows).step_by(R::LANES) {
            // SAFETY: the caller's promise; the mask hides what is beyond the last row.
            unsafe {
                let some = R::load(a.add(l * strides.1 + r), R::first(rows - r));
                some.store(tile.add(l * rows + r), R::first(R::LANES));
            }
        }
    }
}

/// Copies `depth` rows of `columns` numbers, with these strides, into operands of `width` lanes at `to`, a row for each
/// step, in whole registers: what it writes beyond `columns` is some number.
///
/// # Safety
/// All of these elements can be read, and a row of `width` written for each step; `columns` rounded up to whole registers
/// is at most `width`. The processor has what `R` needs.
#[inline(always)]
pub(super) unsafe fn copy_panel<S: Element, R: MadeOf<S, K>, const K: usize>(
    from: *const S,
    (row, column): Strides,
    [depth, columns]: [usize; 2],
    (to, width): (*mut f32, usize),
) {
    let (steps, mut done) = (depth.div_ceil(K), 0);
    // SAFETY: rows stay below `depth` and columns below `columns`, by masks, by `last` or by a least.
    unsafe {
        if column == 1 {
            let whole = columns / R::LANES * R::LANES;
            for l in 0..depth / K {
                let (from, to) = (from.add(l * K * row), to.add(l * width));
                for j in (0..whole).step_by(R::LANES) {
                    let next = if K == 2 { R::row(from.add(row + j), None) } else { R::splat(0.0) };
                    R::row(from.add(j), None).operand(next).store(to.add(j), R::first(R::LANES));
                }
                if whole < columns {
                    let mask = Some(R::first(columns - whole));
                    let next = if K == 2 { R::row(from.add(row + whole), mask) } else { R::splat(0.0) };
                    R::row(from.add(whole), mask).operand(next).store(to.add(whole), R::first(R::LANES));
                }
            }
            // The last step of an odd depth by itself: the others need not ask.
            for j in (0..columns).step_by(R::LANES).filter(|_| depth % K > 0) {
                let last = R::row(from.add((depth - 1) * row + j), Some(R::first(columns - j)));
                last.operand(R::splat(0.0)).store(to.add(depth / K * width + j), R::first(R::LANES));
            }
            return;
        }
        if row == 1 {
            done = depth / (4 * K) * 4;
            for j in (0..columns).step_by(R::LANES) {
                let last = R::LANES.min(columns - j) - 1;
                for l in (0..done).step_by(4) {
                    R::turned(from.add(l * K + j * column), column, last, to.add(l * width + j), width);
                }
            }
        }
        for l in done..steps {
            let two = K == 2 && 2 * l + 1 < depth;
            for j in 0..columns.next_multiple_of(R::LANES) {
                let from = from.add(l * K * row + j.min(columns - 1) * column);
                *to.add(l * width + j) = R::lane(*from, if two { *from.add(row) } else { S::default() });
            }
        }
    }
}
