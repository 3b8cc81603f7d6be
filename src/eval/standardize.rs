//! Standardization: every feature to mean 0 and standard deviation 1, as measured on the training images.
//!
//! It makes a linear probe blind to the scale and offset of each feature, so that one grid of L2 strengths suits
//! every encoder, and it conditions the probe's optimization.

use crate::tensor::Tensor;

/// Per-feature statistics of the images it was fitted on.
#[derive(Clone, Debug)]
pub struct Standardizer {
    /// Mean of each feature over images, `[dim]`.
    pub mean: Vec<f64>,
    /// Standard deviation of each feature over images, `[dim]`, dividing by the number of images.
    pub std: Vec<f64>,
}

impl Standardizer {
    /// Mean and standard deviation of each column of f32 features `[images, dim]`, in two passes in f64. Without images:
    /// NaN.
    pub fn fit(x: &Tensor) -> Self {
        let [rows, dim] = x.dims("Standardizer::fit");
        let mean_of = |f: &dyn Fn(usize, f64) -> f64| {
            let mut sum = vec![0.0; dim];
            for row in x.as_slice::<f32>().chunks_exact(dim.max(1)) {
                row.iter().zip(&mut sum).enumerate().for_each(|(j, (&v, sum))| *sum += f(j, f64::from(v)));
            }
            sum.iter_mut().for_each(|sum| *sum /= rows as f64);
            sum
        };
        let mean = mean_of(&|_, v| v);
        let variance = mean_of(&|j, v| (v - mean[j]).powi(2));
        Standardizer { std: variance.iter().map(|v| v.sqrt()).collect(), mean }
    }

    /// (x − mean) / std, column by column. A column that was constant becomes 0, whatever it is here.
    ///
    /// # Panics
    /// When `x` has another dim than the features it was fitted on.
    #[track_caller]
    pub fn apply(&self, x: &mut Tensor) {
        let dim = self.mean.len();
        assert_eq!(x.last_dim(), dim, "Standardizer::apply: dim {} after fitting {dim}", x.last_dim());
        // The mean of equal f32 numbers is exact in f64, so that a constant column has a deviation of exactly 0.
        let scale: Vec<f64> = self.std.iter().map(|&s| if s > 0.0 { 1.0 / s } else { 0.0 }).collect();
        for row in x.as_mut_slice::<f32>().chunks_exact_mut(dim.max(1)) {
            row.iter_mut().zip(&self.mean).zip(&scale).for_each(|((v, m), s)| *v = ((f64::from(*v) - m) * s) as f32);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::features;
    use super::*;

    #[test]
    fn statistics_come_from_the_fitted_set_and_constant_columns_become_zero() {
        let train = features(4, 3, vec![1.0, 0.1, 0.0, 3.0, 0.1, 0.0, 5.0, 0.1, 0.0, 7.0, 0.1, 0.0]);
        let standardizer = Standardizer::fit(&train);
        assert_eq!((standardizer.mean[0], standardizer.std[0]), (4.0, 5f64.sqrt()));
        let mut test = features(1, 3, vec![4.0 + 5f32.sqrt(), 9.0, 9.0]);
        standardizer.apply(&mut test);
        assert!((test.as_slice::<f32>()[0] - 1.0).abs() < 1e-6, "f32 rounding only");
        assert_eq!(test.as_slice::<f32>()[1..], [0.0, 0.0]);
    }
}
