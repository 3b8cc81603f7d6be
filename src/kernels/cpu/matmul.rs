//! Matrix products. Every transpose is a pair of strides, never a copy.

use rayon::prelude::*;

use crate::kernels::real::Strides;
use crate::kernels::{Real, meter};

/// A matrix inside a slice: where it starts, how long it is, how it is laid out.
#[derive(Clone, Copy, Debug)]
pub struct Mat<'a, T> {
    /// The slice it lies in.
    pub data: &'a [T],
    /// Index of its first element.
    pub offset: usize,
    /// Elements to the next row, elements to the next column.
    pub strides: Strides,
}

impl<'a, T> Mat<'a, T> {
    /// A row-major matrix with `cols` columns, or its transpose.
    pub fn new(data: &'a [T], cols: usize, transposed: bool) -> Self {
        Mat { data, offset: 0, strides: if transposed { (1, cols) } else { (cols, 1) } }
    }
}

/// A matrix inside a slice, to be written.
#[derive(Debug)]
pub struct MatMut<'a, T> {
    /// The slice it lies in.
    pub data: &'a mut [T],
    /// Index of its first element.
    pub offset: usize,
    /// Elements to the next row, elements to the next column.
    pub strides: Strides,
}

impl<'a, T> MatMut<'a, T> {
    /// A row-major matrix with `cols` columns.
    pub fn new(data: &'a mut [T], cols: usize) -> Self {
        MatMut { data, offset: 0, strides: (cols, 1) }
    }
}

/// Index one past the last element that a (rows, cols) matrix touches; `offset` when it has none.
fn end(offset: usize, strides: Strides, rows: usize, cols: usize) -> usize {
    if rows == 0 || cols == 0 { offset } else { offset + (rows - 1) * strides.0 + (cols - 1) * strides.1 + 1 }
}

/// c ← α a b + β c, with a of (m, k), b of (k, n), and c of (m, n).
/// With β = 0 what was in `c` does not matter, not even NaN.
///
/// # Panics
/// When a matrix reaches out of its slice, or `c`'s rows overlap.
pub fn gemm<T: Real>([m, k, n]: [usize; 3], alpha: T, a: Mat<'_, T>, b: Mat<'_, T>, beta: T, c: MatMut<'_, T>) {
    assert!(end(a.offset, a.strides, m, k) <= a.data.len(), "gemm: a reaches out of its slice");
    assert!(end(b.offset, b.strides, k, n) <= b.data.len(), "gemm: b reaches out of its slice");
    assert!(end(c.offset, c.strides, m, n) <= c.data.len(), "gemm: c reaches out of its slice");
    assert!(c.strides.1 == 1 && (c.strides.0 >= n || m <= 1), "gemm: the rows of c overlap");
    if m == 0 || n == 0 {
        return;
    }
    meter::product([m, k, n]);
    // SAFETY: the four assertions above: all three matrices lie inside their slices (with k = 0 nothing of a or b
    // is read), and the elements of c are distinct.
    unsafe {
        T::gemm(
            m,
            k,
            n,
            alpha,
            a.data.as_ptr().add(a.offset),
            a.strides,
            b.data.as_ptr().add(b.offset),
            b.strides,
            beta,
            c.data.as_mut_ptr().add(c.offset),
            c.strides,
        );
    }
}

/// Multiply-adds above which a product is cut into blocks of rows that run in parallel.
///
/// No product inside a chunk of the toy model comes near it (they are parallel from outside already); those of a
/// ViT-B and of a linear probe do. The cut depends on the shape alone, so the bits do not depend on the threads.
const PARALLEL_FROM: usize = 1 << 28;
/// Rows of one such block.
const BLOCK_ROWS: usize = 256;

/// c ← a b for row-major operands, each optionally read transposed: c is (m, n), a is (m, k), b is (k, n).
pub fn matmul<T: Real>(dims: [usize; 3], a: &[T], transpose_a: bool, b: &[T], transpose_b: bool, c: &mut [T]) {
    let [m, k, n] = dims;
    let b = Mat::new(b, if transpose_b { k } else { n }, transpose_b);
    let a = Mat::new(a, if transpose_a { m } else { k }, transpose_a);
    if m * k * n < PARALLEL_FROM || n == 0 {
        return gemm(dims, T::ONE, a, b, T::ZERO, MatMut::new(c, n));
    }
    let here = meter::here();
    c.par_chunks_mut(BLOCK_ROWS * n).enumerate().for_each(|(i, c)| {
        let _there = here.enter();
        let a = Mat { offset: i * BLOCK_ROWS * a.strides.0, ..a };
        gemm([c.len() / n, k, n], T::ONE, a, b, T::ZERO, MatMut::new(c, n));
    });
}

/// A product for each (m, n) matrix of c; the operands' matrices lie `step` elements apart (0: one serves all).
/// In parallel over the batch where there is much to do, as [`matmul`] is over rows.
pub fn batched<T: Real>(
    dims: [usize; 3],
    (a, step_a, transpose_a): (&[T], usize, bool),
    (b, step_b, transpose_b): (&[T], usize, bool),
    c: &mut [T],
) {
    let [m, k, n] = dims;
    if c.is_empty() {
        return;
    }
    let here = meter::here();
    let one = |(i, c): (usize, &mut [T])| {
        let _there = here.enter();
        let (a, b) = (&a[i * step_a..][..m * k], &b[i * step_b..][..k * n]);
        matmul(dims, a, transpose_a, b, transpose_b, c);
    };
    match c.len() * k < PARALLEL_FROM {
        true => c.chunks_exact_mut(m * n).enumerate().for_each(one),
        false => c.par_chunks_exact_mut(m * n).enumerate().for_each(one),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::cpu::testing::{close, numbers};

    #[test]
    fn every_transpose_equals_the_triple_loop() {
        for [m, k, n] in [[1, 1, 1], [3, 5, 7], [8, 8, 8], [17, 1, 13], [2, 31, 1], [4, 0, 3], [33, 64, 65]] {
            for (ta, tb) in [(false, false), (true, false), (false, true), (true, true)] {
                let (a, b) = (numbers(m * k, 1), numbers(k * n, 2));
                let mut c = vec![f64::NAN; m * n];
                matmul([m, k, n], &a, ta, &b, tb, &mut c);
                for i in 0..m {
                    for j in 0..n {
                        let at = |i: usize, l: usize| if ta { a[l * m + i] } else { a[i * k + l] };
                        let bt = |l: usize, j: usize| if tb { b[j * k + l] } else { b[l * n + j] };
                        let exact: f64 = (0..k).map(|l| at(i, l) * bt(l, j)).sum();
                        close(c[i * n + j], exact, 1e-13);
                    }
                }
            }
        }
    }

    #[test]
    fn a_product_cut_into_blocks_is_the_same_product() {
        let [m, k, n] = [600, 700, 700];
        assert!(m * k * n >= PARALLEL_FROM);
        let (a, b) = (numbers(m * k, 1), numbers(k * n, 2));
        let (mut blocks, mut whole) = (vec![0.0; m * n], vec![0.0; m * n]);
        matmul([m, k, n], &a, false, &b, false, &mut blocks);
        gemm([m, k, n], 1.0, Mat::new(&a, k, false), Mat::new(&b, n, false), 0.0, MatMut::new(&mut whole, n));
        for (x, y) in blocks.iter().zip(&whole) {
            close(*x, *y, 1e-12);
        }
    }

    #[test]
    fn a_batch_in_parallel_is_the_same_batch() {
        let ([m, k, n], batch) = ([64, 512, 128], 70);
        assert!(batch * m * k * n >= PARALLEL_FROM && m * k * n < PARALLEL_FROM);
        let (a, b) = (numbers(batch * m * k, 1), numbers(k * n, 2));
        let mut c = vec![f64::NAN; batch * m * n];
        batched([m, k, n], (&a, m * k, false), (&b, 0, false), &mut c);
        for i in [0, 1, batch - 1] {
            let mut one = vec![0.0; m * n];
            matmul([m, k, n], &a[i * m * k..][..m * k], false, &b, false, &mut one);
            assert!(c[i * m * n..][..m * n] == one[..]);
        }
    }

    #[test]
    #[should_panic(expected = "b reaches out of its slice")]
    fn operands_are_checked_before_the_pointer_is_made() {
        matmul([2, 2, 2], &[0.0f32; 4], false, &[0.0; 3], false, &mut [0.0; 4]);
    }
}
