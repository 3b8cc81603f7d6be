//! Of tokens: how much predictions and targets vary, and with what; and what a token resembles (Fig. 6).

use super::feature_std;
use crate::autograd::Var;
use crate::linalg::dot;
use crate::tensor::{DType, Tensor};

/// √(mean of x²): the root mean square of the entries, of any shape.
pub fn rms(x: &Tensor) -> f64 {
    x.norm() / (x.elements() as f64).sqrt()
}

/// ½ E‖F₁ − F₂‖², as a mean over all entries: how much of the predictions is the noise's.
///
/// `first` and `second` \[R, N, D\] are predictions for the same images and masks under two independent draws of n. An
/// entry of F₁ − F₂ has mean 0 and twice the variance of a prediction given the image, so this is that variance,
/// averaged over images, tokens and features. Targets of unit variance make it a share: 0 when the predictor does not
/// read the noise, however much there is; 1 when a prediction moves as much as the targets do.
///
/// # Panics
/// When the shapes differ.
#[track_caller]
pub fn noise_sensitivity(first: &Tensor, second: &Tensor) -> f64 {
    assert_eq!(first.shape(), second.shape(), "noise_sensitivity: two predictions");
    0.5 * rms((Var::from(first.clone()) - Var::from(second.clone())).value()).powi(2)
}

/// The standard deviation of a target over images, at a fixed position and feature, averaged over both: targets
/// \[B, K, D\] of B images at all K positions.
///
/// 0 when a target says where it is and nothing about what is there: then predicting is knowing the position.
///
/// # Panics
/// When `targets` has not three dimensions, or no features.
#[track_caller]
pub fn target_std(targets: &Tensor) -> f64 {
    let [images, positions, dim] = targets.dims("target_std");
    feature_std(&targets.to_dtype(DType::F32).reshape([images, positions * dim]))
}

/// The cosine of the angle between `query` and each of the vectors in `rows`, `[n, query.len()]` → `[n]`. Zero vectors
/// give 0.
///
/// # Panics
/// When `rows` is not whole vectors.
#[track_caller]
pub fn cosines(query: &[f64], rows: &[f64]) -> Vec<f64> {
    let dim = query.len();
    assert!(dim > 0 && rows.len().is_multiple_of(dim), "cosines: {} numbers, vectors of {dim}", rows.len());
    let cosine = |row: &[f64]| match (dot(query, query) * dot(row, row)).sqrt() {
        0.0 => 0.0,
        lengths => dot(query, row) / lengths,
    };
    rows.chunks_exact(dim).map(cosine).collect()
}

/// The heat map of Fig. 6: softmax over the tokens of cos(`query`, token) / `temperature`, \[K\], which sums to 1.
/// `query` \[d\] is a predicted token, `tokens` \[K, d\] are those of the image.
///
/// # Panics
/// When `tokens` is not whole vectors, or `temperature` is not positive.
#[doc(alias = "Fig. 6")]
#[track_caller]
pub fn resemblance(query: &[f64], tokens: &[f64], temperature: f64) -> Vec<f64> {
    assert!(temperature > 0.0, "resemblance: a temperature of {temperature}");
    // No cosine exceeds 1: taking that off keeps the exponentials from overflowing at any temperature.
    let powers: Vec<f64> = cosines(query, tokens).iter().map(|cosine| ((cosine - 1.0) / temperature).exp()).collect();
    let sum: f64 = powers.iter().sum();
    powers.iter().map(|power| power / sum).collect()
}

#[cfg(test)]
mod tests {
    use approx::assert_abs_diff_eq;

    use super::*;

    fn tensor<const N: usize>(shape: [usize; 3], entries: [f64; N]) -> Tensor {
        Tensor::new(shape, entries.to_vec())
    }

    #[test]
    fn sensitivity_is_half_the_mean_square_of_the_difference() {
        assert_abs_diff_eq!(rms(&Tensor::new([2], vec![3.0f32, -4.0])), 12.5f64.sqrt(), epsilon = 1e-15);
        let (first, second) = (tensor([1, 2, 2], [1.0, 2.0, 3.0, 4.0]), tensor([1, 2, 2], [1.0, 0.0, 3.0, 8.0]));
        assert_abs_diff_eq!(noise_sensitivity(&first, &second), 0.5 * (4.0 + 16.0) / 4.0, epsilon = 1e-14);
    }

    #[test]
    fn target_std_is_over_images_not_over_positions() {
        // Two images, two positions, two features: deviations 1 and 0 at the first, 0 and 3 at the second.
        let targets = tensor([2, 2, 2], [1.0, 9.0, -7.0, 0.0, 3.0, 9.0, -7.0, 6.0]);
        assert_eq!(target_std(&targets), 1.0);
        let positions_only = tensor([3, 2, 1], [5.0, -5.0, 5.0, -5.0, 5.0, -5.0]);
        assert_eq!(target_std(&positions_only), 0.0);
    }

    #[test]
    fn cosines_known_by_hand() {
        let found = cosines(&[3.0, 0.0], &[2.0, 0.0, -2.0, 0.0, 1.0, 1.0, 0.0, 0.0, 0.0, 7.0]);
        let expected = [1.0, -1.0, 0.5f64.sqrt(), 0.0, 0.0];
        assert!(found.iter().zip(expected).all(|(f, e)| (f - e).abs() < 1e-15), "{found:?}");
        assert_eq!(cosines(&[0.0], &[1.0]), [0.0]);
    }

    #[test]
    fn a_token_resembles_itself_most() {
        // Cosines 0.6, 1 and -1 at temperature 0.5.
        let map = resemblance(&[0.0, 2.0], &[4.0, 3.0, 0.0, 0.1, 0.0, -9.0], 0.5);
        let powers = [1.2, 2.0, -2.0].map(f64::exp);
        let sum: f64 = powers.iter().sum();
        assert!(map.iter().zip(powers).all(|(m, p)| (m - p / sum).abs() < 1e-15), "{map:?}");
        assert!((map.iter().sum::<f64>() - 1.0).abs() < 1e-15);
        // Without a direction it resembles all alike.
        assert_eq!(resemblance(&[0.0, 0.0], &[1.0, 0.0, 0.0, 1.0], 1.0), [0.5, 0.5]);
    }
}
