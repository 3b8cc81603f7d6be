//! How many directions do the features use? Two numbers that show a collapse during training, without labels.
//!
//! RankMe (Q. Garrido et al., ICML 2023, Eq. 1) is the exponential of the entropy of the singular values σ of the
//! feature matrix `[n, d]`: 1 when every image has the same features up to scale, d when all directions carry alike.
//!
//! ```text
//! RankMe = exp(−Σₖ pₖ log pₖ),   pₖ = σₖ / Σσ
//! ```
//!
//! As there, the matrix is not centered: a shared mean counts as one strong direction. The paper adds ε = 1e-7 to each
//! pₖ to keep the logarithm finite; here 0 log 0 is 0, the limit.

use rand::seq::index;

use super::standardize::Standardizer;
use super::{CancelCheck, row_blocks, select_rows};
use crate::Result;
use crate::linalg::{gram, symmetric_eigenvalues};
use crate::rng::{Purpose, stream};
use crate::tensor::Tensor;

/// The most rows and columns of the matrix whose eigenvalues are found: 128 MiB, and under a minute.
const MOST: usize = 4096;

/// RankMe: the effective number of directions, from 1 to `min(rows, dim)`. 0 when all features are zero, NaN if one is
/// not finite.
///
/// Singular values are the roots of the eigenvalues of XᵀX, or of XXᵀ when that is smaller. Squaring halves the digits:
/// values below 1e-8 of the largest are noise, which is what features in f32 carry anyway.
///
/// Where both rows and features are more than 4096, the matrix is that of 4096 of the rows, drawn always alike.
///
/// # Errors
/// The first of `cancel`, which is asked again and again.
pub fn rank_me(x: &Tensor, cancel: CancelCheck) -> Result<f64> {
    /// Rows that are multiplied at a time.
    const BLOCK: usize = 1024;
    let x = some_rows(x, MOST);
    let [rows, dim] = x.dims("rank_me");
    if !x.is_finite() {
        return Ok(f64::NAN);
    }
    let n = rows.min(dim);
    let tall = if rows < dim { x.transpose(0, 1) } else { x };
    let squares = symmetric_eigenvalues(gram(row_blocks(&tall, BLOCK), n, cancel)?, n, cancel)?;
    // Rounding can leave an eigenvalue of a singular Gram matrix a little below 0.
    let values: Vec<f64> = squares.into_iter().map(|value| value.max(0.0).sqrt()).collect();
    let sum: f64 = values.iter().sum();
    if sum == 0.0 {
        return Ok(0.0);
    }
    let entropy = |p: f64| if p == 0.0 { 0.0 } else { -p * p.ln() };
    Ok(values.iter().map(|value| entropy(value / sum)).sum::<f64>().exp())
}

/// So many of the rows that rows or features are at most `most`.
fn some_rows(x: &Tensor, most: usize) -> Tensor {
    let rows = x.shape()[0];
    if rows.min(x.last_dim()) <= most {
        return x.clone();
    }
    let mut chosen = index::sample(&mut stream(0, Purpose::Eval, [0, 1]), rows, most).into_vec();
    chosen.sort_unstable();
    select_rows(x, &chosen.into_iter().map(|row| row as u32).collect::<Vec<_>>())
}

/// The standard deviation of a feature over images, averaged over features. 0 is complete collapse.
pub fn feature_std(x: &Tensor) -> f64 {
    let Standardizer { std, .. } = Standardizer::fit(x);
    std.iter().sum::<f64>() / std.len() as f64
}

#[cfg(test)]
mod tests {
    use super::super::testing::{ended_after, features, gaussian};
    use super::*;
    use crate::Error;

    #[test]
    fn ranks_known_by_hand() {
        let rank_one = (0..50).flat_map(|i| (0..8).map(move |j| (i - 20) as f32 * (j + 1) as f32)).collect();
        let scaled_identity = (0..36).map(|i| if i % 7 == 0 { 3.0 } else { 0.0 }).collect();
        // Spectrum (2, 1, 1): p = ½, ¼, ¼ has an entropy of 1.5 bits. The same features, wide and tall.
        let wide = vec![0., 2., 0., 0., 0., 0., 0., 1., 1., 0., 0., 0.];
        let tall = vec![0., 0., 1., 2., 0., 0., 0., 0., 0., 0., 1., 0.];
        for (x, expected) in [
            (features(50, 8, rank_one), 1.0),
            (features(6, 6, scaled_identity), 6.0),
            (features(3, 4, wide), 2f64.powf(1.5)),
            (features(4, 3, tall), 2f64.powf(1.5)),
            (features(2, 3, vec![0.0; 6]), 0.0),
            (features(0, 3, vec![]), 0.0),
        ] {
            let rank = rank_me(&x, &|| Ok(())).unwrap();
            // Singular values that should be 0 come out as up to 1e-8 of the largest, and −p log p is steep there.
            assert!((rank - expected).abs() < 1e-5, "{rank} instead of {expected}");
        }
        assert!(rank_me(&features(1, 2, vec![1.0, f32::NAN]), &|| Ok(())).unwrap().is_nan());
    }

    #[test]
    fn rows_are_drawn_only_where_rows_and_features_are_both_many() {
        let of = |rows: usize, dim: usize| features(rows, dim, (0..rows * dim).map(|i| i as f32).collect());
        assert_eq!([(4, 9), (9, 4)].map(|(rows, dim)| some_rows(&of(rows, dim), 4).shape()[0]), [4, 9]);
        let some = some_rows(&of(9, 5), 4);
        let firsts: Vec<f32> = some.as_slice::<f32>().iter().step_by(5).map(|x| x / 5.0).collect();
        assert!(some.shape()[..] == [4, 5] && firsts.is_sorted_by(|a, b| a < b), "{firsts:?}");
        assert!(firsts != [0.0, 1.0, 2.0, 3.0], "drawn, and not the first: they are of one class");
        assert_eq!(some.max_abs_diff(&some_rows(&of(9, 5), 4)), 0.0);
    }

    #[test]
    fn a_search_for_singular_values_can_be_ended() {
        let x = gaussian(1, 9, 6);
        for after in [0, 1, 3] {
            assert!(matches!(ended_after(after, |cancel| rank_me(&x, cancel)).0, Err(Error::Interrupted)), "{after}");
        }
    }
}
