//! Standardization: every feature to mean 0 and standard deviation 1, as measured on the training images.
//!
//! It makes a linear probe blind to the scale and offset of each feature, so that one grid of L2 strengths suits
//! every encoder, and it conditions the probe's optimization.

use super::Features;

/// Per-feature statistics of the images it was fitted on.
#[derive(Clone, Debug)]
pub struct Standardizer {
    /// Mean of each feature over images, `[dim]`.
    pub mean: Vec<f64>,
    /// Standard deviation of each feature over images, `[dim]`, dividing by the number of images.
    pub std: Vec<f64>,
}

impl Standardizer {
    /// Mean and standard deviation of each column, in two passes in f64. Without rows: NaN.
    pub fn fit(x: &Features) -> Self {
        let rows = || x.as_slice().chunks_exact(x.dim());
        let mut mean = vec![0.0; x.dim()];
        for row in rows() {
            mean.iter_mut().zip(row).for_each(|(m, &v)| *m += f64::from(v));
        }
        mean.iter_mut().for_each(|m| *m /= x.rows() as f64);

        let mut std = vec![0.0; x.dim()];
        for row in rows() {
            std.iter_mut().zip(row).zip(&mean).for_each(|((s, &v), m)| *s += (f64::from(v) - m).powi(2));
        }
        std.iter_mut().for_each(|s| *s = (*s / x.rows() as f64).sqrt());
        Standardizer { mean, std }
    }

    /// (x − mean) / std, column by column. A column that was constant becomes 0, whatever it is here.
    ///
    /// # Panics
    /// When `x` has another dim than the features it was fitted on.
    #[track_caller]
    pub fn apply(&self, x: &mut Features) {
        assert_eq!(x.dim, self.mean.len(), "Standardizer::apply: dim {} after fitting {}", x.dim, self.mean.len());
        // The mean of equal f32 numbers is exact in f64, so that a constant column has a deviation of exactly 0.
        let scale: Vec<f64> = self.std.iter().map(|&s| if s > 0.0 { 1.0 / s } else { 0.0 }).collect();
        for row in x.data.chunks_exact_mut(self.mean.len()) {
            row.iter_mut().zip(&self.mean).zip(&scale).for_each(|((v, m), s)| *v = ((f64::from(*v) - m) * s) as f32);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statistics_come_from_the_fitted_set_and_constant_columns_become_zero() {
        let train = Features::new(vec![1.0, 0.1, 0.0, 3.0, 0.1, 0.0, 5.0, 0.1, 0.0, 7.0, 0.1, 0.0], 4, 3);
        let standardizer = Standardizer::fit(&train);
        assert_eq!(standardizer.mean[0], 4.0);
        assert_eq!(standardizer.std[0], 5f64.sqrt());
        let mut test = Features::new(vec![4.0 + 5f32.sqrt(), 9.0, 9.0], 1, 3);
        standardizer.apply(&mut test);
        assert!((test.row(0)[0] - 1.0).abs() < 1e-6, "f32 rounding only");
        assert_eq!(test.row(0)[1..], [0.0, 0.0]);
    }
}
