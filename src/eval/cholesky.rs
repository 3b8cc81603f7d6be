//! Cholesky: a symmetric positive definite M as LLᵀ with L lower triangular, to solve M X = B.
//!
//! Row i of L follows from the rows above: Lᵢⱼ = (Mᵢⱼ − Σₖ Lᵢₖ Lⱼₖ) / Lⱼⱼ for j < i, and Lᵢᵢ is the root of what is
//! left of Mᵢᵢ. Then L Y = B is solved from the top, and Lᵀ X = Y from the bottom.

use rayon::prelude::*;

use crate::kernels::matmul::gemm::{Epilogue, Mat, MatMut, gemm};

/// L of M = LLᵀ.
pub(super) struct Cholesky {
    /// Row-major `[n, n]`; above the diagonal is what M held there, never read.
    l: Vec<f64>,
    n: usize,
}

impl Cholesky {
    /// Factors the symmetric positive definite `[n, n]` matrix `m`. If rounding makes it indefinite: NaN from there on.
    ///
    /// A panel of columns at a time, so that nearly all of the work is matrix products:
    ///
    /// 1. Factor the panel's diagonal block, row by row.
    /// 2. Solve each row below it against that block.
    /// 3. Subtract the panel's product with itself from what is right of it.
    pub(super) fn new(m: Vec<f64>, n: usize) -> Self {
        let mut l = m;
        for at in (0..n).step_by(PANEL) {
            let end = (at + PANEL).min(n);
            let width = end - at;
            // (1)
            for i in at..end {
                let (above, row) = l.split_at_mut(i * n);
                finish_row(&above[at * n..], &mut row[at..=i], n, at);
                row[i] = (row[i] - row[at..i].iter().map(|v| v * v).sum::<f64>()).sqrt();
            }
            // (2)
            let (panel, below) = l.split_at_mut(end * n);
            let block = &panel[at * n..];
            below.par_chunks_exact_mut(n).for_each(|row| finish_row(block, &mut row[at..end + 1], n, at));
            // (3)
            let columns: Vec<f64> = below.chunks_exact(n).flat_map(|row| row[at..end].iter().copied()).collect();
            below.par_chunks_mut(PANEL * n).enumerate().for_each(|(i, rows)| {
                // Up to the diagonal only: of the last row of this block.
                let (m, known) = (rows.len() / n, (i * PANEL + rows.len() / n).min(n - end));
                let left = Mat { data: &columns, offset: i * PANEL * width, strides: (width, 1) };
                let right = Mat { data: &columns, offset: 0, strides: (1, width) };
                gemm(
                    [m, width, known],
                    -1.0,
                    left,
                    right,
                    Epilogue::OWN,
                    MatMut { data: rows, offset: end, strides: (n, 1) },
                );
            });
        }
        Cholesky { l, n }
    }

    /// Replaces the row-major `[n, columns]` matrix B by M⁻¹B.
    pub(super) fn solve(&self, b: &mut [f64], columns: usize) {
        let Cholesky { l, n } = self;
        let at = |i: usize, j: usize| l[i * n + j];
        for i in 0..*n {
            let (solved, row) = b.split_at_mut(i * columns);
            eliminate(row, columns, solved.chunks_exact(columns).enumerate().map(|(j, y)| (at(i, j), y)), at(i, i));
        }
        for i in (0..*n).rev() {
            let (row, solved) = b.split_at_mut((i + 1) * columns);
            let solved = solved.chunks_exact(columns).enumerate().map(|(j, x)| (at(i + 1 + j, i), x));
            eliminate(&mut row[i * columns..], columns, solved, at(i, i));
        }
    }
}

/// Columns that are factored together.
const PANEL: usize = 64;

/// Lᵢⱼ = (Mᵢⱼ − Σₖ Lᵢₖ Lⱼₖ) / Lⱼⱼ for all but the last entry of `row`, which starts at column `at`; `block` holds the
/// rows of L from row `at` on, each `n` long.
fn finish_row(block: &[f64], row: &mut [f64], n: usize, at: usize) {
    for j in 0..row.len() - 1 {
        let upper = &block[j * n + at..][..=j];
        let known: f64 = row[..j].iter().zip(upper).map(|(a, b)| a * b).sum();
        row[j] = (row[j] - known) / upper[j];
    }
}

/// The first row of `rows` ← (itself − Σ factor · solved row) / diagonal.
fn eliminate<'a>(rows: &mut [f64], columns: usize, solved: impl Iterator<Item = (f64, &'a [f64])>, diagonal: f64) {
    let row = &mut rows[..columns];
    for (factor, solved) in solved {
        row.iter_mut().zip(solved).for_each(|(r, s)| *r -= factor * s);
    }
    row.iter_mut().for_each(|r| *r /= diagonal);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn panels_meet() {
        // M = LLᵀ for a known L that is three panels and a bit wide.
        let n = 3 * PANEL + 5;
        let entry = |i: usize, j: usize| if i == j { 2.0 } else { ((i * 7 + j * 3) % 11) as f64 / 50.0 - 0.1 };
        let exact: Vec<f64> = (0..n * n).map(|k| if k % n <= k / n { entry(k / n, k % n) } else { 0.0 }).collect();
        let product = |i: usize, j: usize| (0..n).map(|k| exact[i * n + k] * exact[j * n + k]).sum::<f64>();
        let factor = Cholesky::new((0..n * n).map(|k| product(k / n, k % n)).collect(), n);
        for i in 0..n {
            for j in 0..=i {
                assert!((factor.l[i * n + j] - exact[i * n + j]).abs() < 1e-9, "{i}, {j}");
            }
        }
    }

    #[test]
    fn solves_what_was_multiplied() {
        // M = LLᵀ with L = [[2], [1, 3], [−1, 2, 1]].
        let m = [[4.0, 2.0, -2.0], [2.0, 10.0, 5.0], [-2.0, 5.0, 6.0]];
        let x = [[1.0, -2.0], [0.5, 3.0], [-4.0, 0.0]];
        let mut b: Vec<f64> = (0..6).map(|ic| (0..3).map(|k| m[ic / 2][k] * x[k][ic % 2]).sum()).collect();
        let factor = Cholesky::new(m.concat(), 3);
        assert_eq!(
            [factor.l[0], factor.l[3], factor.l[4], factor.l[6], factor.l[7], factor.l[8]],
            [2., 1., 3., -1., 2., 1.]
        );
        factor.solve(&mut b, 2);
        assert!(b.iter().zip(x.as_flattened()).all(|(b, x)| (b - x).abs() < 1e-13), "{b:?}");
    }
}
