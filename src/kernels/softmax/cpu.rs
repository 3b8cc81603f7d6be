use crate::kernels::Real;
use crate::kernels::simd::{LANES, join, reduce, vectorized};

vectorized! {
    /// Each row of y ← softmax(row of x), shifted by its largest entry so that nothing overflows.
    pub(in crate::kernels) fn forward<T>(cols: usize, x: &[T], y: &mut [T]) {
        if cols == 0 {
            return;
        }
        let mut padded = vec![[T::ZERO; LANES]; cols.div_ceil(LANES)];
        for (x, y) in x.chunks_exact(cols).zip(y.chunks_exact_mut(cols)) {
            padded.as_flattened_mut()[..cols].copy_from_slice(x);
            forward_row(&mut padded, cols, T::ONE);
            y.copy_from_slice(&padded.as_flattened()[..cols]);
        }
    }

    /// Each row of x ← softmax(scale · row), in place, for rows that are padded to whole groups. Whatever the padding was,
    /// it becomes 0 (or NaN, in a row that does).
    pub(in crate::kernels) fn forward_padded<T>(x: &mut [[T; LANES]], cols: usize, scale: T) {
        if cols == 0 {
            return;
        }
        for row in x.chunks_exact_mut(cols.div_ceil(LANES)) {
            forward_row(row, cols, scale);
        }
    }

    /// dx ← y ⊙ (dy − ⟨y, dy⟩) for each row, where y = softmax(x).
    pub(super) fn backward<T>(cols: usize, y: &[T], dy: &[T], dx: &mut [T]) {
        if cols == 0 {
            return;
        }
        dx.copy_from_slice(dy);
        for (y, dx) in y.chunks_exact(cols).zip(dx.chunks_exact_mut(cols)) {
            backward_row(y, dx);
        }
    }

    /// [`backward`] in place, for rows of y and dy that are padded to whole groups, y as [`forward_padded`] left it.
    /// Whatever the padding of dy was, it counts for 0: it may be what another row left there.
    pub(in crate::kernels) fn backward_padded<T>(y: &[T], dy: &mut [T], cols: usize) {
        if cols == 0 {
            return;
        }
        let row = cols.next_multiple_of(LANES);
        for (y, dy) in y.chunks_exact(row).zip(dy.chunks_exact_mut(row)) {
            dy[cols..].fill(T::ZERO);
            backward_row(y, dy);
        }
    }
}

/// dy ← y ⊙ (dy − ⟨y, dy⟩) for one row.
#[inline(always)]
fn backward_row<T: Real>(y: &[T], dy: &mut [T]) {
    let inner = reduce(y, dy, T::ZERO, |s, y, dy| s + y * dy, |a, b| a + b);
    for (dy, &y) in dy.iter_mut().zip(y) {
        *dy = y * (*dy - inner);
    }
}

/// One row of `cols` numbers in groups; what the last group has beyond them does not count.
#[inline(always)]
fn forward_row<T: Real>(row: &mut [[T; LANES]], cols: usize, scale: T) {
    let max = |a: T, b: T| if b > a { b } else { a };
    // A u32, as wide as an f32, so that one instruction compares all lanes of a group.
    let there = |group: usize| (cols - group * LANES).min(LANES) as u32;
    let first = row[0][0];
    let mut largest = [first; LANES];
    for (i, group) in row.iter().enumerate() {
        for lane in 0..LANES {
            let x = if (lane as u32) < there(i) { group[lane] } else { first };
            largest[lane] = max(largest[lane], x);
        }
    }
    let largest = join(largest, max);
    let mut sums = [T::ZERO; LANES];
    for (i, group) in row.iter_mut().enumerate() {
        for lane in 0..LANES {
            let x = (scale * (group[lane] - largest)).exp();
            group[lane] = if (lane as u32) < there(i) { x } else { T::ZERO };
            sums[lane] += group[lane];
        }
    }
    let inverse = T::ONE / join(sums, |a, b| a + b);
    for x in row.as_flattened_mut() {
        *x *= inverse;
    }
}
