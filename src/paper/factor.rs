//! The three factorizations that the propositions and diagnostics need, for small dense matrices in f64.
//!
//! | | of | ends when |
//! |---|---|---|
//! | [`cholesky`] | a positive definite M = LLᵀ | M turns out not to be |
//! | [`pivoted_cholesky`] | a positive semi-definite M = LLᵀ, with as few columns as M has rank | nothing is left of M |
//! | [`orthonormal_rows`] | the space that rows span | |

use crate::tensor::Tensor;

/// L of a symmetric positive definite M = LLᵀ, both row-major \[n, n\]: lower triangular, what lies above the diagonal
/// is not to be read. `None` if M is not positive definite. Of M only the lower triangle is read.
pub fn cholesky(m: &[f64], n: usize) -> Option<Vec<f64>> {
    let mut l = m.to_vec();
    for i in 0..n {
        for j in 0..=i {
            let left = l[i * n + j] - (0..j).map(|k| l[i * n + k] * l[j * n + k]).sum::<f64>();
            match i == j {
                true if left > 0.0 => l[i * n + i] = left.sqrt(),
                true => return None,
                false => l[i * n + j] = left / l[j * n + j],
            }
        }
    }
    Some(l)
}

/// The columns of L, LLᵀ = M, for a symmetric positive semi-definite row-major M \[n, n\]; beside each its pivot, the
/// row at which all later columns are 0.
///
/// Each step takes the largest of what is left of the diagonal for its pivot, and the factor ends when that is not
/// above `tolerance` or beyond what n roundings of the first leave: so there are as many columns as M has rank.
///
/// - N. J. Higham, Analysis of the Cholesky decomposition of a semi-definite matrix, 1990.
pub fn pivoted_cholesky(m: &[f64], n: usize, tolerance: f64) -> Vec<(usize, Vec<f64>)> {
    let mut left: Vec<f64> = m.iter().step_by(n + 1).copied().collect();
    let largest = left.iter().copied().fold(0.0, f64::max);
    let tolerance = tolerance.max(n as f64 * f64::EPSILON * largest);
    let mut l: Vec<(usize, Vec<f64>)> = Vec::new();
    while let Some(pivot) = (0..n).filter(|&i| left[i] > tolerance).max_by(|&i, &j| left[i].total_cmp(&left[j])) {
        let mut column = m[pivot * n..(pivot + 1) * n].to_vec();
        l.iter().for_each(|(_, known)| subtract(&mut column, known[pivot], known));
        l.iter().for_each(|(done, _)| column[*done] = 0.0);
        let root = left[pivot].sqrt();
        column.iter_mut().for_each(|c| *c /= root);
        left.iter_mut().zip(&column).for_each(|(left, c)| *left -= c * c);
        left[pivot] = 0.0;
        l.push((pivot, column));
    }
    l
}

/// x ← x − factor · y
pub fn subtract(x: &mut [f64], factor: f64, y: &[f64]) {
    x.iter_mut().zip(y).for_each(|(x, y)| *x -= factor * y);
}

/// An orthonormal basis of the space that the rows of a matrix span.
///
/// Gram–Schmidt, each row twice (the second pass removes what rounding left). A row is dependent on those before when
/// less than 10⁻¹⁰ of it remains.
pub fn orthonormal_rows(a: &Tensor) -> Vec<Vec<f64>> {
    let dot = |x: &[f64], y: &[f64]| x.iter().zip(y).map(|(x, y)| x * y).sum::<f64>();
    let norm = |x: &[f64]| dot(x, x).sqrt();
    let rows = a.to_f64_vec();
    let largest = rows.chunks(a.last_dim().max(1)).map(norm).fold(0.0, f64::max);
    let mut basis: Vec<Vec<f64>> = Vec::new();
    for row in rows.chunks(a.last_dim().max(1)) {
        let mut rest = row.to_vec();
        for _ in 0..2 {
            for q in &basis {
                let share = dot(&rest, q);
                rest.iter_mut().zip(q).for_each(|(x, q)| *x -= share * q);
            }
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
    fn cholesky_by_hand() {
        let m = [4.0, 99.0, 99.0, 2.0, 5.0, 99.0, -2.0, 1.0, 6.0];
        let l = cholesky(&m, 3).unwrap(); // rows 2; 1, 2; −1, 1, 2
        assert_eq!([l[0], l[3], l[4], l[6], l[7], l[8]], [2.0, 1.0, 2.0, -1.0, 1.0, 2.0]);
        assert!(cholesky(&[1.0, 2.0, 2.0, 4.0], 2).is_none(), "singular");
        assert!(cholesky(&[1.0, 2.0, 2.0, 1.0], 2).is_none(), "indefinite");
        assert!(cholesky(&[f64::NAN], 1).is_none());
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

    #[test]
    fn bases_are_orthonormal_and_as_large_as_the_rank() {
        let a = Tensor::new([3, 4], vec![1.0, 2.0, 0.0, 1.0, 2.0, 4.0, 0.0, 2.0, 0.0, 1.0, 1.0, -1.0]);
        let basis = orthonormal_rows(&a); // the second row is twice the first
        assert_eq!(basis.len(), 2);
        for (i, x) in basis.iter().enumerate() {
            for (j, y) in basis.iter().enumerate() {
                let product: f64 = x.iter().zip(y).map(|(x, y)| x * y).sum();
                assert!((product - if i == j { 1.0 } else { 0.0 }).abs() < 1e-15);
            }
        }
    }
}
