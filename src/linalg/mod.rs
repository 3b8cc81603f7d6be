//! Linear algebra on small dense matrices, in f64: row-major slices, and one copy of each algorithm.
//!
//! Products that may be large go through the doors of [`crate::kernels`].

mod cholesky;
mod eigen;
mod gram;
pub mod lbfgs;

pub use cholesky::{Cholesky, pivoted_cholesky};
pub use eigen::symmetric_eigenvalues;
pub use gram::gram;

/// ⟨a, b⟩ over the length of the shorter one, in eight sums that do not wait for one another.
pub fn dot(a: &[f64], b: &[f64]) -> f64 {
    let n = a.len().min(b.len());
    let ((a, a_left), (b, b_left)) = (a[..n].as_chunks::<8>(), b[..n].as_chunks::<8>());
    let mut sums = [0.0; 8];
    for (a, b) in a.iter().zip(b) {
        sums.iter_mut().zip(a.iter().zip(b)).for_each(|(sum, (a, b))| *sum += a * b);
    }
    a_left.iter().zip(b_left).map(|(a, b)| a * b).chain(sums).sum()
}

/// ‖a‖₂
pub fn norm(a: &[f64]) -> f64 {
    dot(a, a).sqrt()
}

/// a ← a + c b
pub fn add_scaled(a: &mut [f64], c: f64, b: &[f64]) {
    a.iter_mut().zip(b).for_each(|(a, b)| *a += c * b);
}

/// An orthonormal basis of the space that the rows of a row-major matrix with `cols` columns span: as many vectors as
/// its rank. By Gram–Schmidt (Golub and Van Loan, section 5.2.7).
///
/// Each row is orthogonalized twice; the second pass removes what rounding left. A row depends on those before it when
/// less than 10⁻¹⁰ of the longest row's length remains of it.
pub fn orthonormal_rows(a: &[f64], cols: usize) -> Vec<Vec<f64>> {
    let rows = || a.chunks(cols.max(1));
    let largest = rows().map(norm).fold(0.0, f64::max);
    let mut basis: Vec<Vec<f64>> = Vec::new();
    for row in rows() {
        let mut rest = row.to_vec();
        for q in basis.iter().chain(&basis) {
            let share = dot(&rest, q);
            add_scaled(&mut rest, -share, q);
        }
        let length = norm(&rest);
        if length > 1e-10 * largest {
            rest.iter_mut().for_each(|x| *x /= length);
            basis.push(rest);
        }
    }
    basis
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bases_are_orthonormal_and_as_large_as_the_rank() {
        // The second row is twice the first.
        let basis = orthonormal_rows(&[1.0, 2.0, 0.0, 1.0, 2.0, 4.0, 0.0, 2.0, 0.0, 1.0, 1.0, -1.0], 4);
        assert_eq!(basis.len(), 2);
        for (i, x) in basis.iter().enumerate() {
            for (j, y) in basis.iter().enumerate() {
                assert!((dot(x, y) - f64::from(i == j)).abs() < 1e-15);
            }
        }
    }
}
