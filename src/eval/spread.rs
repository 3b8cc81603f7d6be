//! How much do predictions and targets vary, and with what? Three numbers about tensors of tokens.

use super::feature_std;
use crate::autograd::Var;
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
}
