//! How many directions do the features use? Two numbers that show a collapse while training, without labels.
//!
//! RankMe (Q. Garrido et al., ICML 2023, Eq. 1) is the exponential of the entropy of the singular values σ of the
//! feature matrix `[n, d]`: 1 when every image has the same features up to scale, d when all directions carry alike.
//!
//! ```text
//! RankMe = exp(−Σₖ pₖ log pₖ),   pₖ = σₖ / Σσ
//! ```
//!
//! As there, the matrix is not centerd: a shared mean counts as one strong direction. The paper adds ε = 1e-7 to each
//! pₖ to keep the logarithm finite; here 0 log 0 is 0, the limit.

use std::borrow::Cow;

use rand::seq::index;

use super::eigen::symmetric_eigenvalues;
use super::matmul::gram;
use super::standardize::Standardizer;
use super::{CancelCheck, Features};
use crate::Result;
use crate::rng::{Purpose, stream};

/// The most rows and columns of the matrix whose eigenvalues are found: 128 MiB, and under a minute.
const MOST: usize = 4096;

/// Singular values of the feature matrix, largest first: `min(rows, dim)` of them. NaN if a feature is not finite.
///
/// They are the roots of the eigenvalues of XᵀX, or of XXᵀ when that is smaller. Squaring halves the digits: values
/// below 1e-8 of the largest are noise, which is what features in f32 carry anyway.
///
/// Where both rows and features are more than 4096, the matrix is that of 4096 of the rows, drawn always alike.
///
/// # Errors
/// When `go_on`, which is asked all along, says so.
pub fn singular_values(x: &Features, go_on: CancelCheck) -> Result<Vec<f64>> {
    let x = some_rows(x, MOST);
    let (rows, dim) = (x.rows(), x.dim());
    let n = rows.min(dim);
    if n == 0 || x.as_slice().iter().any(|v| !v.is_finite()) {
        return Ok(vec![f64::NAN; n]);
    }
    let gram = if rows < dim { gram(&x.transposed(), go_on)? } else { gram(&x, go_on)? };
    // Rounding can leave an eigenvalue of a singular Gram matrix a little below 0.
    Ok(symmetric_eigenvalues(gram, n, go_on)?.into_iter().map(|value| value.max(0.0).sqrt()).collect())
}

/// So many of the rows that rows or features are at most `most`.
fn some_rows(x: &Features, most: usize) -> Cow<'_, Features> {
    if x.rows().min(x.dim()) <= most {
        return Cow::Borrowed(x);
    }
    let mut rows = index::sample(&mut stream(0, Purpose::Eval, [0, 1]), x.rows(), most).into_vec();
    rows.sort_unstable();
    Cow::Owned(x.select(&rows))
}

/// RankMe: the effective number of directions, from 1 to `min(rows, dim)`. 0 when all features are zero. Of
/// [at most 4096 rows](singular_values) where there are more features than that.
///
/// # Errors
/// When `go_on`, which is asked all along, says so.
pub fn rank_me(x: &Features, go_on: CancelCheck) -> Result<f64> {
    Ok(effective_rank(&singular_values(x, go_on)?))
}

/// exp of the entropy of `values` scaled to sum 1.
fn effective_rank(values: &[f64]) -> f64 {
    let sum: f64 = values.iter().sum();
    if sum == 0.0 {
        return 0.0;
    }
    let entropy = |p: f64| if p == 0.0 { 0.0 } else { -p * p.ln() };
    values.iter().map(|value| entropy(value / sum)).sum::<f64>().exp()
}

/// The standard deviation of a feature over images, averaged over features. 0 is complete collapse.
pub fn feature_std(x: &Features) -> f64 {
    let Standardizer { std, .. } = Standardizer::fit(x);
    std.iter().sum::<f64>() / std.len() as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 1e-5: singular values that should be 0 come out as up to 1e-8 of the largest, and −p log p is steep there.
    #[track_caller]
    fn assert_rank(x: &Features, expected: f64) {
        let rank = rank_me(x, &|| Ok(())).unwrap();
        assert!((rank - expected).abs() < 1e-5, "{rank} instead of {expected}");
    }

    #[test]
    fn ranks_known_by_hand() {
        let rank_one: Vec<f32> = (0..50).flat_map(|i| (0..8).map(move |j| (i - 20) as f32 * (j + 1) as f32)).collect();
        assert_rank(&Features::new(rank_one, 50, 8), 1.0);
        let scaled_identity: Vec<f32> = (0..36).map(|i| if i % 7 == 0 { 3.0 } else { 0.0 }).collect();
        assert_rank(&Features::new(scaled_identity, 6, 6), 6.0);
        // Spectrum (2, 1, 1): p = ½, ¼, ¼ has an entropy of 1.5 bits. The same features, wide and tall.
        let wide = vec![0., 2., 0., 0., 0., 0., 0., 1., 1., 0., 0., 0.];
        let tall = vec![0., 0., 1., 2., 0., 0., 0., 0., 0., 0., 1., 0.];
        assert_rank(&Features::new(wide, 3, 4), 2f64.powf(1.5));
        assert_rank(&Features::new(tall, 4, 3), 2f64.powf(1.5));
        assert_rank(&Features::new(vec![0.0; 6], 2, 3), 0.0);
        assert_rank(&Features::new(vec![], 0, 3), 0.0);
        assert!(rank_me(&Features::new(vec![1.0, f32::NAN], 1, 2), &|| Ok(())).unwrap().is_nan());
    }

    #[test]
    fn singular_values_of_orthogonal_columns_are_their_lengths() {
        // Hadamard columns of length 2, scaled by 1, 2, 3, 4.
        let signs = [[1, 1, 1, 1], [1, -1, 1, -1], [1, 1, -1, -1], [1, -1, -1, 1]];
        let x = signs.iter().flat_map(|row| (0..4).map(|j| (row[j] * (j as i32 + 1)) as f32)).collect();
        let found = singular_values(&Features::new(x, 4, 4), &|| Ok(())).unwrap();
        assert!(found.iter().zip([8.0, 6.0, 4.0, 2.0]).all(|(f, e)| (f - e).abs() < 1e-12), "{found:?}");
    }

    #[test]
    fn rows_are_drawn_only_where_rows_and_features_are_both_many() {
        let of = |rows: usize, dim: usize| Features::new((0..rows * dim).map(|i| i as f32).collect(), rows, dim);
        for x in [of(4, 9), of(9, 4)] {
            assert!(matches!(some_rows(&x, 4), Cow::Borrowed(_)), "{} x {}", x.rows(), x.dim());
        }
        let x = of(9, 5);
        let some = some_rows(&x, 4);
        let firsts: Vec<usize> = (0..4).map(|r| some.row(r)[0] as usize / 5).collect();
        assert!((some.rows(), some.dim()) == (4, 5) && firsts.is_sorted_by(|a, b| a < b), "{firsts:?}");
        assert!(firsts != [0, 1, 2, 3], "drawn, and not the first: they are of one class");
        assert_eq!(some, some_rows(&x, 4));
    }

    #[test]
    fn a_search_for_singular_values_can_be_ended() {
        use std::sync::atomic::{AtomicUsize, Ordering};
        let x = super::super::gaussian(1, 9, 6);
        for after in [0, 1, 3] {
            let asked = AtomicUsize::new(0);
            let go_on = || match asked.fetch_add(1, Ordering::Relaxed) < after {
                true => Ok(()),
                false => Err(crate::Error::Interrupted),
            };
            assert!(matches!(rank_me(&x, &go_on), Err(crate::Error::Interrupted)), "after {after}");
        }
    }

    #[test]
    fn feature_std_averages_over_features() {
        let x = Features::new(vec![1.0, 5.0, 3.0, 5.0], 2, 2);
        assert_eq!(feature_std(&x), 0.5);
    }
}
