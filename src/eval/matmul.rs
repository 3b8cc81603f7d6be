//! Matrix products for the evaluations.

use rayon::prelude::*;

use super::{CancelCheck, Features};
use crate::Result;
use crate::kernels::Real;
use crate::kernels::matmul::gemm::{Epilogue, Mat, MatMut, gemm};

/// A matrix of `rows` × `cols`, element (i, j) at `data[i * row_stride + j * col_stride]`.
///
/// Only [`View::new`] and [`View::t`] make one, so every element lies inside `data`.
#[derive(Clone, Copy)]
pub(super) struct View<'a, T> {
    data: &'a [T],
    rows: usize,
    cols: usize,
    row_stride: usize,
    col_stride: usize,
}

impl<'a, T> View<'a, T> {
    /// `data` as a row-major matrix with `cols` columns.
    ///
    /// # Panics
    /// When `data` is not whole rows.
    #[track_caller]
    pub(super) fn new(data: &'a [T], cols: usize) -> Self {
        assert!(cols > 0 && data.len().is_multiple_of(cols), "View::new: {} numbers, rows of {cols}", data.len());
        View { data, rows: data.len() / cols, cols, row_stride: cols, col_stride: 1 }
    }

    /// The transpose, without moving anything.
    pub(super) fn t(self) -> Self {
        let View { data, rows, cols, row_stride, col_stride } = self;
        View { data, rows: cols, cols: rows, row_stride: col_stride, col_stride: row_stride }
    }

    fn mat(self) -> Mat<'a, T> {
        Mat { data: self.data, offset: 0, strides: (self.row_stride, self.col_stride) }
    }
}

/// The product `a · b`, row-major: `[m, k] × [k, n] → [m, n]`.
///
/// # Panics
/// When the inner dimensions differ.
#[track_caller]
pub(super) fn product<T: Real>(a: View<T>, b: View<T>) -> Vec<T> {
    assert_eq!(a.cols, b.rows, "product of [{}, {}] and [{}, {}]", a.rows, a.cols, b.rows, b.cols);
    let mut c = vec![T::ZERO; a.rows * b.cols];
    gemm([a.rows, a.cols, b.cols], T::ONE, a.mat(), b.mat(), Epilogue::NOTHING, MatMut::new(&mut c, b.cols));
    c
}

/// Rows of X that are converted to f64 at a time in [`gram`].
const BLOCK: usize = 1024;
/// Rows of the result that one task of [`gram`] computes.
const PART: usize = 64;

/// XᵀX, `[dim, dim]`, in f64: the products of f32 features are exact, so that small eigenvalues survive.
///
/// Blocks of rows one after the other, parts of the result in parallel: nothing larger than the result is held, and
/// every entry is summed in the order of the rows. `go_on` is asked before each block.
pub(super) fn gram(x: &Features, go_on: CancelCheck) -> Result<Vec<f64>> {
    let dim = x.dim();
    let mut gram = vec![0.0; dim * dim];
    for rows in x.as_slice().chunks(BLOCK * dim) {
        go_on()?;
        let rows: Vec<f64> = rows.iter().map(|&v| f64::from(v)).collect();
        gram.par_chunks_mut(PART * dim).enumerate().for_each(|(i, part)| {
            let left = Mat { data: &rows, offset: i * PART, strides: (1, dim) };
            let dims = [part.len() / dim, rows.len() / dim, dim];
            gemm(dims, 1.0, left, Mat::new(&rows, dim, false), Epilogue::OWN, MatMut::new(part, dim));
        });
    }
    Ok(gram)
}

#[cfg(test)]
mod tests {
    use super::super::{gaussian, same_on_any_thread_count};
    use super::*;

    #[test]
    fn gram_is_the_sum_over_rows_on_any_number_of_threads() {
        let x = gaussian(1, 2 * BLOCK + 3, 3);
        let sum = |i: usize, j: usize| -> f64 {
            (0..x.rows()).map(|r| f64::from(x.row(r)[i]) * f64::from(x.row(r)[j])).sum()
        };
        let gram = || gram(&x, &|| Ok(())).unwrap();
        assert!(gram().iter().enumerate().all(|(ij, g)| (g - sum(ij / 3, ij % 3)).abs() < 1e-9), "{:?}", gram());
        same_on_any_thread_count(gram);
    }

    #[test]
    fn products_known_by_hand() {
        let (a, b) = ([1.0f32, 2.0, 3.0, 4.0, 5.0, 6.0], [1.0, 0.0, 2.0]);
        assert_eq!(product(View::new(&a, 3), View::new(&b, 1)), [7.0, 16.0]);
        assert_eq!(product(View::new(&b, 1).t(), View::new(&a, 3).t()), [7.0, 16.0]);
        let g = [1.0, 2.0, 3.0, 4.0];
        assert_eq!(product(View::new(&g, 2).t(), View::new(&g, 2)), [10.0, 14.0, 14.0, 20.0]);
        assert!(product(View::new(&[], 3), View::new(&b, 1)).is_empty());
    }
}
