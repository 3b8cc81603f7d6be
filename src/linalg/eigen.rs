//! Eigenvalues of a symmetric matrix: Householder's tridiagonal form, then bisection by Sturm counts.
//!
//! A reflection P = I − 2vvᵀ/vᵀv can turn the part of column k below the diagonal into a multiple of the first unit
//! vector. PAP has the eigenvalues of A, and n − 2 such reflections leave only a diagonal d and an off-diagonal e:
//! ⁴⁄₃ n³ multiplications. Of a tridiagonal T the factorization T − xI = LDLᵀ needs only its pivots
//!
//! ```text
//! q₀ = d₀ − x,   qᵢ = dᵢ − x − eᵢ₋₁² / qᵢ₋₁
//! ```
//!
//! and by Sylvester's law of inertia as many of them are negative as T has eigenvalues below x. So the k-th
//! eigenvalue is found by bisection, each on its own, and the search cannot fail to converge.
//!
//! - G. H. Golub, C. F. Van Loan, Matrix Computations, 4th ed., sections 8.3.1 and 8.4.1.

use rayon::prelude::*;

use super::{add_scaled, dot, norm};

/// Numbers of the matrix that are worth a task of their own.
const TASK: usize = 1 << 14;

/// All eigenvalues, largest first, of the symmetric row-major `[n, n]` matrix `a`, to about 1e-15 of the largest.
///
/// # Errors
/// The first of `cancel`, which is asked before each reflection.
///
/// # Panics
/// When `a` is not `[n, n]`.
#[track_caller]
pub fn symmetric_eigenvalues<E>(a: Vec<f64>, n: usize, cancel: impl Fn() -> Result<(), E>) -> Result<Vec<f64>, E> {
    assert_eq!(a.len(), n * n, "symmetric_eigenvalues: {} numbers for {n} × {n}", a.len());
    let (d, e) = tridiagonal(a, n, cancel)?;
    // Gershgorin: every eigenvalue lies within |eᵢ₋₁| + |eᵢ| of some dᵢ.
    let reach = |i: usize| d[i].abs() + e.get(i).map_or(0.0, |e| e.abs()) + if i > 0 { e[i - 1].abs() } else { 0.0 };
    let bound = (0..n).map(reach).fold(0.0, f64::max);
    let precision = bound * f64::EPSILON;
    let kth_largest = |k: usize| {
        let (mut low, mut high) = (-bound, bound);
        while high - low > 2.0 * precision {
            let middle = 0.5 * (low + high);
            if count_below(&d, &e, middle, precision) < n - k { low = middle } else { high = middle }
        }
        0.5 * (low + high)
    };
    Ok((0..n).into_par_iter().map(kth_largest).collect())
}

/// The diagonal `[n]` and off-diagonal `[n − 1]` of a tridiagonal matrix with the eigenvalues of `a`.
///
/// PBP = B − v wᵀ − w vᵀ for the block B below and right of k, with p = 2Bv/vᵀv and w = p − (vᵀp/vᵀv) v. A large B comes from memory
/// once for each reflection: its rows undergo the last one, and are multiplied with the v of the next, which row k alone decides.
fn tridiagonal<E>(mut a: Vec<f64>, n: usize, cancel: impl Fn() -> Result<(), E>) -> Result<(Vec<f64>, Vec<f64>), E> {
    let (mut d, mut e) = (Vec::with_capacity(n), Vec::with_capacity(n));
    // The last reflection, which the rows from k on have not undergone: at first none.
    let (mut v, mut w) = (vec![0.0; n], vec![0.0; n]);
    for k in 0..n {
        cancel()?;
        let (row, below) = a[k * n..].split_at_mut(n);
        reflect(&mut row[k..], (v[0], w[0]), (&v, &w));
        d.push(row[k]);
        if k + 1 == n {
            break;
        }
        // Row k right of the diagonal is, by symmetry, the column to be reflected onto (alpha, 0, 0, …).
        let mut next = row[k + 1..].to_vec();
        // The sign that avoids cancellation in v₀ − alpha.
        let alpha = if next[0] > 0.0 { -norm(&next) } else { norm(&next) };
        e.push(alpha);
        next[0] -= alpha;
        let vv = dot(&next, &next);
        let per_vv = |x: f64| if vv == 0.0 { 0.0 } else { x / vv };
        let (last_v, last_w) = (&v[1..], &w[1..]);
        let rows = below.par_chunks_exact_mut(n).zip(last_v.par_iter().zip(last_w)).with_min_len(TASK.div_ceil(n - k));
        let p = rows.map(|(row, (vi, wi))| {
            reflect(&mut row[k + 1..], (*vi, *wi), (last_v, last_w));
            per_vv(2.0 * dot(&row[k + 1..], &next))
        });
        w = p.collect();
        v = next;
        let along = per_vv(dot(&v, &w));
        add_scaled(&mut w, -along, &v);
    }
    Ok((d, e))
}

/// row ← row − vᵢ w − wᵢ v
fn reflect(row: &mut [f64], (vi, wi): (f64, f64), (v, w): (&[f64], &[f64])) {
    row.iter_mut().zip(v.iter().zip(w)).for_each(|(x, (v, w))| *x -= vi * w + wi * v);
}

/// How many eigenvalues of the tridiagonal matrix lie below `x`.
fn count_below(d: &[f64], e: &[f64], x: f64, precision: f64) -> usize {
    let mut pivot = 1.0;
    let mut below = 0;
    for (i, d) in d.iter().enumerate() {
        let e = if i > 0 { e[i - 1] } else { 0.0 };
        pivot = d - x - e * e / pivot;
        // A vanishing pivot means that x is an eigenvalue of a leading block: moving it by `precision` is harmless.
        if pivot.abs() < precision {
            pivot = -precision;
        }
        below += usize::from(pivot < 0.0);
    }
    below
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;
    use crate::rng::{Purpose, stream};
    use crate::tensor::{DType, Tensor};

    /// A with the given eigenvalues: two reflections H of the diagonal matrix D, HDH, which mix all rows and columns.
    fn with_spectrum(spectrum: &[f64]) -> Vec<f64> {
        let n = spectrum.len();
        let mut a: Vec<f64> = (0..n * n).map(|i| if i % (n + 1) == 0 { spectrum[i / n] } else { 0.0 }).collect();
        let normal = Tensor::normal([2, n], 1.0, DType::F64, &mut stream(n as u64, Purpose::Eval, [0, 0]));
        for v in normal.as_slice::<f64>().chunks_exact(n) {
            // Each row a ← a − 2(a·v)v/v·v, then the same of the transpose.
            for _ in 0..2 {
                for row in a.chunks_exact_mut(n) {
                    let share = 2.0 * dot(row, v) / dot(v, v);
                    add_scaled(row, -share, v);
                }
                a = (0..n * n).map(|ij| a[ij % n * n + ij / n]).collect();
            }
        }
        a
    }

    #[test]
    fn known_spectra_are_found() {
        for spectrum in [
            vec![],
            vec![-3.0],
            vec![2.0, -1.0],
            vec![1.0, 1.0, 1.0],
            vec![0.0; 4],
            vec![5.0, 0.0, 0.0, 0.0, 0.0],
            vec![1e6, 1.0, 1e-3, 0.0, -7.0, -7.0, -1e3],
            (0..31).map(|i| f64::from(15 - i)).collect(),
        ] {
            let largest = spectrum.iter().fold(0.0, |m: f64, v| m.max(v.abs()));
            let mut expected = spectrum.clone();
            expected.sort_by(|a, b| b.total_cmp(a));
            let a = if spectrum.is_empty() { vec![] } else { with_spectrum(&spectrum) };
            let Ok(found) = symmetric_eigenvalues(a, spectrum.len(), || Ok::<_, Infallible>(()));
            // Backward stable: n roundings relative to the largest eigenvalue.
            let close = |(f, e): (&f64, &f64)| (f - e).abs() <= 1e-13 * largest;
            assert!(found.len() == expected.len() && found.iter().zip(&expected).all(close), "{found:?} {expected:?}");
        }
    }

    #[test]
    fn a_large_matrix_has_the_same_eigenvalues_on_any_number_of_threads() {
        let n = 300; // several tasks
        let spectrum: Vec<f64> = (0..n).map(|i| 1.0 - i as f64 / 100.0).collect();
        let a = with_spectrum(&spectrum);
        let on = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let Ok(found) = pool.install(|| symmetric_eigenvalues(a.clone(), n, || Ok::<_, Infallible>(())));
            found
        };
        assert!(on(1).iter().zip(&spectrum).all(|(f, e)| (f - e).abs() < 1e-12));
        assert_eq!(on(1), on(3));
    }
}
