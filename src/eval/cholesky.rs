//! Cholesky: a symmetric positive definite M as LLᵀ with L lower triangular, to solve M X = B.
//!
//! Row i of L follows from the rows above: Lᵢⱼ = (Mᵢⱼ − Σₖ Lᵢₖ Lⱼₖ) / Lⱼⱼ for j < i, and Lᵢᵢ is the root of what is
//! left of Mᵢᵢ. Then L Y = B is solved from the top, and Lᵀ X = Y from the bottom.

/// L of M = LLᵀ.
pub(super) struct Cholesky {
    /// Row-major `[n, n]`; above the diagonal is what M held there, never read.
    l: Vec<f64>,
    n: usize,
}

impl Cholesky {
    /// Factors the symmetric positive definite `[n, n]` matrix `m`. If rounding makes it indefinite: NaN from there on.
    pub(super) fn new(m: Vec<f64>, n: usize) -> Self {
        let mut l = m;
        for i in 0..n {
            let (above, row) = l.split_at_mut(i * n);
            for j in 0..i {
                let upper = &above[j * n..j * n + j + 1];
                let known: f64 = row[..j].iter().zip(upper).map(|(a, b)| a * b).sum();
                row[j] = (row[j] - known) / upper[j];
            }
            row[i] = (row[i] - row[..i].iter().map(|v| v * v).sum::<f64>()).sqrt();
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
