//! Eq. (15) and Proposition 3.2: convolution with a Gaussian.
//!
//! Expectations under a Gaussian are taken by the trapezoidal rule on the whole line. For a function that is analytic
//! and does not grow too fast its error falls faster than any power of the step: sin ωx is wrong by the factor
//! exp(−(2π/h)²/2 + 2πω/h), below 10⁻¹²⁵ for ω = 1 and h = ¼. Where the function has a kink or a jump it is of the
//! order of h² or h.

use crate::linalg::{Cholesky, dot};
use crate::tensor::Tensor;

/// The step h and the number of steps to either side: nodes from −12 to 12.
const STEP: f64 = 0.25;
const REACH: i32 = 48;

/// Eq. (15), Proposition 3.2: f*(r) = ∫ E\[Y | X = x\] (2π)^{−1/2} exp(−(x − r)²/2) dx
///
/// | symbol | argument |
/// |---|---|
/// | E\[Y \| X = x\] | `clean`, analytic and defined on the whole line |
/// | r | `r` |
///
/// This is the best predictor only if all x are equally likely beforehand. With any other prior it is
/// [`posterior_mean`](super::posterior_mean).
///
/// Proved by `a_flat_prior_makes_the_optimum_a_convolution`.
#[doc(alias = "Eq. 15")]
#[doc(alias = "Prop. 3.2")]
#[doc(alias = "Proposition 3.2")]
pub fn gaussian_convolution(clean: impl Fn(f64) -> f64, r: f64) -> f64 {
    GaussianKernel::unit(1).convolve(|x| clean(x[0]), &[r])
}

/// The density of N(0, Σ) in d dimensions: (2π)^{−d/2} |Σ|^{−1/2} exp(−½ ‖z‖²), with ‖z‖² = zᵀΣ⁻¹z.
///
/// The paper writes it for d = 1 and Σ = 1, where the factor is 1/√(2π); StoP's noise has d_p dimensions and the Σ of
/// Eq. (4), given by [`covariance`](crate::paper::covariance).
///
/// Proved by `the_kernel_integrates_to_one_in_d_dimensions`.
#[derive(Clone, Debug, PartialEq)]
pub struct GaussianKernel {
    /// Σ = LLᵀ.
    factor: Cholesky,
    d: usize,
}

impl GaussianKernel {
    /// Σ = I in d dimensions.
    ///
    /// # Panics
    /// When d is 0.
    #[track_caller]
    pub fn unit(d: usize) -> Self {
        Self::new(&Tensor::from_fn([d, d], crate::DType::F64, |i| f64::from(i % (d + 1) == 0)))
    }

    /// The kernel with the covariance Σ, \[d, d\]. Of Σ only the lower triangle is read.
    ///
    /// # Panics
    /// When Σ is not square, or not positive definite. A singular Σ, as from A with d_e < d_p, has no density: noise
    /// leaves a subspace of positions untouched.
    #[track_caller]
    pub fn new(covariance: &Tensor) -> Self {
        let [d, columns] = covariance.dims("GaussianKernel");
        assert!(d == columns && d > 0, "GaussianKernel: a covariance of shape {}", covariance.shape());
        let factor = Cholesky::new(covariance.to_f64_vec(), d);
        GaussianKernel { factor: factor.expect("GaussianKernel: the covariance is not positive definite"), d }
    }

    /// log of the density at z, \[d\].
    ///
    /// # Panics
    /// When z does not have d entries.
    #[track_caller]
    pub fn log_density(&self, z: &[f64]) -> f64 {
        let white = self.factor.whiten(z);
        // |Σ|^{1/2} = |L|
        let log_root: f64 = (0..self.d).map(|i| self.factor.row(i)[i].ln()).sum();
        -0.5 * (dot(&white, &white) + self.d as f64 * std::f64::consts::TAU.ln()) - log_root
    }

    /// ∫ g(x) N(x; r, Σ) dx = E\[g(r + Z)\]: g smoothed, at r.
    ///
    /// g is evaluated 97ᵈ times: for one to three dimensions. It must be smooth on the scale of the noise and grow more
    /// slowly than exp(a |x|) with a ≤ 3 noise deviations, or the nodes' reach of 12 deviations cuts it off.
    ///
    /// # Panics
    /// When r does not have d entries.
    #[track_caller]
    pub fn convolve(&self, g: impl Fn(&[f64]) -> f64, r: &[f64]) -> f64 {
        assert_eq!(r.len(), self.d, "GaussianKernel: the vector's length and the covariance's");
        let density = 1.0 / std::f64::consts::TAU.sqrt();
        let nodes: Vec<(f64, f64)> =
            (-REACH..=REACH).map(|k| f64::from(k) * STEP).map(|u| (u, STEP * density * (-0.5 * u * u).exp())).collect();
        let mut x = vec![0.0; self.d];
        (0..nodes.len().pow(self.d as u32))
            .map(|index| {
                // The digits of the index are the nodes along each axis; x = r + Lu.
                x.copy_from_slice(r);
                let mut rest = index;
                let mut weight = 1.0;
                for axis in 0..self.d {
                    let (u, w) = nodes[rest % nodes.len()];
                    rest /= nodes.len();
                    weight *= w;
                    for (i, x) in x.iter_mut().enumerate().skip(axis) {
                        *x += self.factor.row(i)[axis] * u;
                    }
                }
                weight * g(&x)
            })
            .sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kernel(covariance: &[f64], d: usize) -> GaussianKernel {
        GaussianKernel::new(&Tensor::new([d, d], covariance.to_vec()))
    }

    #[test]
    #[should_panic(expected = "not positive definite")]
    fn a_singular_covariance_is_refused() {
        kernel(&[1.0, 1.0, 1.0, 1.0], 2);
    }

    #[test]
    #[should_panic(expected = "a covariance of shape")]
    fn a_covariance_is_square() {
        GaussianKernel::new(&Tensor::new([1, 2], vec![1.0, 1.0]));
    }
}
