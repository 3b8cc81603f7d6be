//! Cholesky: a symmetric positive definite M as LLᵀ with L lower triangular, to solve MX = B; and of a semi-definite M.
//!
//! Row i of L follows from the rows above: Lᵢⱼ = (Mᵢⱼ − Σₖ Lᵢₖ Lⱼₖ) / Lⱼⱼ for j < i, and Lᵢᵢ is the root of what is
//! left of Mᵢᵢ. Then LY = B is solved from the top, and LᵀX = Y from the bottom.
//!
//! - G. H. Golub, C. F. Van Loan, Matrix Computations, 4th ed., sections 4.2.5 and 4.2.6.
//! - N. J. Higham, Analysis of the Cholesky decomposition of a semi-definite matrix, 1990 (the pivoted form).

use rayon::prelude::*;

use super::{add_scaled, dot};
use crate::kernels::matmul::matmul;
use crate::tensor::Tensor;

/// L of M = LLᵀ.
#[derive(Clone, Debug, PartialEq)]
pub struct Cholesky {
    /// Row-major `[n, n]`; above the diagonal is what M held there, never read.
    l: Vec<f64>,
    n: usize,
}

/// Columns that are factored together, and rows that a solution passes together.
const PANEL: usize = 64;

impl Cholesky {
    /// Factors the symmetric `[n, n]` matrix `m`, of which only the lower triangle is read. `None` if it is not positive
    /// definite, or not by more than rounding.
    ///
    /// A panel of columns at a time, so that nearly all of the work is matrix products:
    ///
    /// 1. Factor the panel's diagonal block, row by row.
    /// 2. Solve each row below it against that block.
    /// 3. Subtract the panel's product with itself from what is right of it.
    ///
    /// # Panics
    /// When `m` is not `[n, n]`.
    #[track_caller]
    pub fn new(m: Vec<f64>, n: usize) -> Option<Self> {
        assert_eq!(m.len(), n * n, "Cholesky: {} numbers for {n} × {n}", m.len());
        let mut l = m;
        for at in (0..n).step_by(PANEL) {
            let end = (at + PANEL).min(n);
            let width = end - at;
            // (1)
            for i in at..end {
                let (above, row) = l.split_at_mut(i * n);
                finish_row(&above[at * n..], &mut row[at..=i], n, at);
                let left = row[i] - dot(&row[at..i], &row[at..i]);
                // A comparison with NaN is false.
                row[i] = if left > 0.0 { left.sqrt() } else { return None };
            }
            // (2)
            let (panel, below) = l.split_at_mut(end * n);
            let block = &panel[at * n..];
            below.par_chunks_exact_mut(n).for_each(|row| finish_row(block, &mut row[at..end + 1], n, at));
            // (3)
            let columns: Vec<f64> = below.chunks_exact(n).flat_map(|row| row[at..end].iter().copied()).collect();
            let matrix = |rows: &[f64]| Tensor::new([rows.len() / width, width], rows.to_vec());
            below.par_chunks_mut(PANEL * n).enumerate().for_each(|(i, rows)| {
                // Up to the diagonal only: of the last row of this block.
                let (start, known) = (i * PANEL, (i * PANEL + rows.len() / n).min(n - end));
                let (left, right) = (matrix(&columns[start * width..known * width]), matrix(&columns[..known * width]));
                let product = matmul(1, [known - start, width, known], left.buffer(), false, right.buffer(), true);
                for (row, product) in rows.chunks_exact_mut(n).zip(product.as_slice::<f64>("Cholesky").chunks(known)) {
                    add_scaled(&mut row[end..end + known], -1.0, product);
                }
            });
        }
        Some(Cholesky { l, n })
    }

    /// Row i of L, up to the diagonal.
    pub fn row(&self, i: usize) -> &[f64] {
        &self.l[i * self.n..][..=i]
    }

    /// L⁻¹z. Where z is drawn from N(0, M), its entries are independent draws of N(0, 1).
    ///
    /// # Panics
    /// When z has not n entries.
    #[track_caller]
    pub fn whiten(&self, z: &[f64]) -> Vec<f64> {
        assert_eq!(z.len(), self.n, "Cholesky: the vector's length and the matrix's");
        let mut white: Vec<f64> = Vec::with_capacity(self.n);
        for (i, z) in z.iter().enumerate() {
            white.push((z - dot(self.row(i), &white)) / self.row(i)[i]);
        }
        white
    }

    /// Replaces the row-major `[n, columns]` matrix B by M⁻¹B.
    ///
    /// Columns are solved in parallel, a panel of rows of L for all of them before the next: L is read twice, row by row, and a panel
    /// stays in the cache for all columns.
    ///
    /// # Panics
    /// When B is not `[n, columns]`.
    #[track_caller]
    pub fn solve(&self, b: &mut [f64], columns: usize) {
        let n = self.n;
        assert_eq!(b.len(), n * columns, "Cholesky::solve: {} numbers for {n} × {columns}", b.len());
        let mut solved: Vec<f64> = (0..columns).flat_map(|c| b.iter().skip(c).step_by(columns)).copied().collect();
        let panels = (0..n).step_by(PANEL).map(|at| at..(at + PANEL).min(n));
        for panel in panels.clone() {
            solved.par_chunks_exact_mut(n).for_each(|y| {
                for i in panel.clone() {
                    y[i] = (y[i] - dot(&y[..i], self.row(i))) / self.row(i)[i];
                }
            });
        }
        for panel in panels.rev() {
            solved.par_chunks_exact_mut(n).for_each(|x| {
                for i in panel.clone().rev() {
                    x[i] /= self.row(i)[i];
                    let (above, below) = x.split_at_mut(i);
                    add_scaled(above, -below[0], self.row(i));
                }
            });
        }
        for (c, x) in solved.chunks_exact(n.max(1)).enumerate() {
            b.iter_mut().skip(c).step_by(columns).zip(x).for_each(|(b, x)| *b = *x);
        }
    }
}

/// Lᵢⱼ = (Mᵢⱼ − Σₖ Lᵢₖ Lⱼₖ) / Lⱼⱼ for all but the last entry of `row`, which starts at column `at`; `block` holds the
/// rows of L from row `at` on, each `n` long.
fn finish_row(block: &[f64], row: &mut [f64], n: usize, at: usize) {
    for j in 0..row.len() - 1 {
        let upper = &block[j * n + at..][..=j];
        row[j] = (row[j] - dot(&row[..j], upper)) / upper[j];
    }
}

/// The columns of L, LLᵀ = M, for a symmetric positive semi-definite row-major M `[n, n]`; beside each its pivot, the
/// row at which all later columns are 0.
///
/// Each step takes the largest of what is left of the diagonal for its pivot, and the factor ends when that is not
/// above `tolerance` or beyond what n roundings of the first leave: so there are as many columns as M has rank.
pub fn pivoted_cholesky(m: &[f64], n: usize, tolerance: f64) -> Vec<(usize, Vec<f64>)> {
    let mut left: Vec<f64> = m.iter().step_by(n + 1).copied().collect();
    let largest = left.iter().copied().fold(0.0, f64::max);
    let tolerance = tolerance.max(n as f64 * f64::EPSILON * largest);
    let mut l: Vec<(usize, Vec<f64>)> = Vec::new();
    while let Some(pivot) = (0..n).filter(|&i| left[i] > tolerance).max_by(|&i, &j| left[i].total_cmp(&left[j])) {
        let mut column = m[pivot * n..(pivot + 1) * n].to_vec();
        l.iter().for_each(|(_, known)| add_scaled(&mut column, -known[pivot], known));
        l.iter().for_each(|(done, _)| column[*done] = 0.0);
        let root = left[pivot].sqrt();
        column.iter_mut().for_each(|c| *c /= root);
        left.iter_mut().zip(&column).for_each(|(left, c)| *left -= c * c);
        left[pivot] = 0.0;
        l.push((pivot, column));
    }
    l
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn panels_meet() {
        // M = LLᵀ for a known L that is three panels and a bit wide.
        let n = 3 * PANEL + 5;
        let entry = |i: usize, j: usize| if i == j { 2.0 } else { ((i * 7 + j * 3) % 11) as f64 / 50.0 - 0.1 };
        let exact: Vec<Vec<f64>> = (0..n).map(|i| (0..=i).map(|j| entry(i, j)).collect()).collect();
        let product = |i: usize, j: usize| dot(&exact[i], &exact[j]); // as long as the shorter one
        let factor = Cholesky::new((0..n * n).map(|k| product(k / n, k % n)).collect(), n).unwrap();
        for (i, exact) in exact.iter().enumerate() {
            assert!(factor.row(i).iter().zip(exact).all(|(l, e)| (l - e).abs() < 1e-9), "row {i}");
        }
        let (columns, at) = (3, |i: usize, j: usize| product(i.max(j), i.min(j)));
        let x: Vec<f64> = (0..n * columns).map(|i| (i % 13) as f64 - 6.0).collect();
        let mut b: Vec<f64> = (0..n * columns)
            .map(|ic| (0..n).map(|j| at(ic / columns, j) * x[j * columns + ic % columns]).sum())
            .collect();
        factor.solve(&mut b, columns);
        assert!(b.iter().zip(&x).all(|(b, x)| (b - x).abs() < 1e-9));
    }

    #[test]
    fn a_case_worked_by_hand() {
        // M = LLᵀ with L = [[2], [1, 3], [−1, 2, 1]]; above M's diagonal stands what is not to be read.
        let m = [[4.0, 99.0, 99.0], [2.0, 10.0, 99.0], [-2.0, 5.0, 6.0]];
        let factor = Cholesky::new(m.concat(), 3).unwrap();
        assert_eq!([0, 1, 2].map(|i| factor.row(i)), [&[2.0][..], &[1.0, 3.0], &[-1.0, 2.0, 1.0]]);
        assert_eq!(factor.whiten(&[2.0, 7.0, 4.0]), [1.0, 2.0, 1.0]);
        let (at, x) = (|i: usize, j: usize| m[i.max(j)][i.min(j)], [[1.0, -2.0], [0.5, 3.0], [-4.0, 0.0]]);
        let mut b: Vec<f64> = (0..6).map(|ic| (0..3).map(|k| at(ic / 2, k) * x[k][ic % 2]).sum()).collect();
        factor.solve(&mut b, 2);
        assert!(b.iter().zip(x.as_flattened()).all(|(b, x)| (b - x).abs() < 1e-13), "{b:?}");
        for (m, n) in [(vec![1.0, 2.0, 2.0, 4.0], 2), (vec![1.0, 2.0, 2.0, 1.0], 2), (vec![f64::NAN], 1)] {
            assert_eq!(Cholesky::new(m.clone(), n), None, "singular, indefinite, or no numbers: {m:?}");
        }
    }

    #[test]
    fn a_pivoted_factor_has_as_many_columns_as_the_rank() {
        let m = [1.0, 2.0, 3.0, 2.0, 4.0, 6.0, 3.0, 6.0, 10.0]; // (1, 2, 3)(1, 2, 3)ᵀ, and 1 in the corner
        let l = pivoted_cholesky(&m, 3, 0.0);
        assert_eq!(l.len(), 2);
        for (i, m) in m.iter().enumerate() {
            let product: f64 = l.iter().map(|(_, column)| column[i / 3] * column[i % 3]).sum();
            assert!((product - m).abs() < 1e-14);
        }
    }
}
