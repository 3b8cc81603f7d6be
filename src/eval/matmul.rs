//! Matrix products for the evaluations: `matrixmultiply` behind a safe door.

use rayon::prelude::*;

use super::Features;

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
}

macro_rules! product {
    ($name:ident, $element:ty, $gemm:path) => {
        /// The product `a · b`, row-major: `[m, k] × [k, n] → [m, n]`.
        ///
        /// # Panics
        /// When the inner dimensions differ.
        #[track_caller]
        pub(super) fn $name(a: View<$element>, b: View<$element>) -> Vec<$element> {
            assert_eq!(a.cols, b.rows, "product of [{}, {}] and [{}, {}]", a.rows, a.cols, b.rows, b.cols);
            let mut c = vec![0.0; a.rows * b.cols];
            // SAFETY: the pointers must be valid for every element that dimensions and strides reach. For `a` and
            // `b` the constructors of `View` keep (rows - 1) * row_stride + (cols - 1) * col_stride < data.len();
            // `c` was allocated above with m * n elements, and is not aliased.
            unsafe {
                $gemm(
                    a.rows,
                    a.cols,
                    b.cols,
                    1.0,
                    a.data.as_ptr(),
                    a.row_stride as isize,
                    a.col_stride as isize,
                    b.data.as_ptr(),
                    b.row_stride as isize,
                    b.col_stride as isize,
                    0.0,
                    c.as_mut_ptr(),
                    b.cols as isize,
                    1,
                );
            }
            c
        }
    };
}

product!(product_f32, f32, matrixmultiply::sgemm);
product!(product_f64, f64, matrixmultiply::dgemm);

/// Rows per partial product of [`gram`].
const BLOCK: usize = 1024;

/// XᵀX, `[dim, dim]`, in f64: the products of f32 features are exact, so that small eigenvalues survive.
pub(super) fn gram(x: &Features) -> Vec<f64> {
    let partial = |rows: &[f32]| {
        let rows: Vec<f64> = rows.iter().map(|&v| f64::from(v)).collect();
        product_f64(View::new(&rows, x.dim()).t(), View::new(&rows, x.dim()))
    };
    let partials: Vec<Vec<f64>> = x.as_slice().par_chunks(BLOCK * x.dim()).map(partial).collect();
    let mut gram = vec![0.0; x.dim() * x.dim()];
    for partial in &partials {
        gram.iter_mut().zip(partial).for_each(|(g, p)| *g += p);
    }
    gram
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
        assert!(gram(&x).iter().enumerate().all(|(ij, g)| (g - sum(ij / 3, ij % 3)).abs() < 1e-9), "{:?}", gram(&x));
        same_on_any_thread_count(|| gram(&x));
    }

    #[test]
    fn products_known_by_hand() {
        let (a, b) = ([1.0, 2.0, 3.0, 4.0, 5.0, 6.0], [1.0, 0.0, 2.0]);
        assert_eq!(product_f32(View::new(&a, 3), View::new(&b, 1)), [7.0, 16.0]);
        assert_eq!(product_f32(View::new(&b, 1).t(), View::new(&a, 3).t()), [7.0, 16.0]);
        let g = [1.0, 2.0, 3.0, 4.0];
        assert_eq!(product_f64(View::new(&g, 2).t(), View::new(&g, 2)), [10.0, 14.0, 14.0, 20.0]);
        assert!(product_f32(View::new(&[], 3), View::new(&b, 1)).is_empty());
    }
}
