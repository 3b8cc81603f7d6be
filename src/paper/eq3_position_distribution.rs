//! Eq. (3), section 3: a position that is a random variable.

use rand::Rng;

use super::{covariance, sample_noise, stochastic_position};
use crate::autograd::Var;
use crate::tensor::Tensor;

/// σ, the scale of the noise: n ~ N(0, σI).
///
/// The paper writes σ where a covariance stands (Eqs. 3–5, Algorithm 1): a *variance*. The official code passes its
/// value, 0.25, as a *standard deviation*, and so reads the axis of Fig. 4. Everything the paper reports was run that
/// way: its σ = 0.25 is a variance of 0.0625. Hence this type, which can be made from either and confuses neither.
#[doc(alias = "σ")]
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(feature = "checkpoint", derive(serde::Serialize, serde::Deserialize), serde(deny_unknown_fields))]
pub struct Sigma {
    #[cfg_attr(feature = "checkpoint", serde(deserialize_with = "standard_deviation"))]
    std: f64,
}

/// A number that [`Sigma::from_std`] would take.
#[cfg(feature = "checkpoint")]
fn standard_deviation<'de, D: serde::Deserializer<'de>>(from: D) -> Result<f64, D::Error> {
    use serde::de::{Deserialize, Error, Unexpected};
    let std = f64::deserialize(from)?;
    let fine = std >= 0.0 && std.is_finite();
    let error = || D::Error::invalid_value(Unexpected::Float(std), &"a standard deviation that is not negative");
    fine.then_some(std).ok_or_else(error)
}

impl Sigma {
    /// What the paper's experiments used: standard deviation 0.25.
    pub const OFFICIAL: Sigma = Sigma { std: 0.25 };
    /// No noise at all.
    pub const SILENT: Sigma = Sigma { std: 0.0 };

    /// As the official code means it, which calls it `noise_var` and passes it on as `std`.
    ///
    /// # Panics
    /// When `std` is negative or not finite.
    #[track_caller]
    pub fn from_std(std: f64) -> Self {
        assert!(std >= 0.0 && std.is_finite(), "sigma: a standard deviation of {std}");
        Sigma { std }
    }

    /// As the paper writes it: n ~ N(0, σI).
    ///
    /// # Panics
    /// When `variance` is negative or not finite.
    #[track_caller]
    pub fn from_variance(variance: f64) -> Self {
        assert!(variance >= 0.0 && variance.is_finite(), "sigma: a variance of {variance}");
        Sigma { std: variance.sqrt() }
    }

    /// √σ: the standard deviation of every component of n.
    pub fn std(self) -> f64 {
        self.std
    }

    /// σ: the variance of every component of n.
    pub fn variance(self) -> f64 {
        self.std * self.std
    }
}

/// Eq. (3): ψ̂_j ~ N(ψ_j, Σ), with Σ = σAAᵀ (Eq. 4), drawn as ψ̂_j = A n_j + ψ_j (Eq. 5).
///
/// | symbol | field | shape |
/// |---|---|---|
/// | ψ_j | `psi` | \[R, N, d_p\] |
/// | A | `a` | \[d_p, d_e\] |
/// | σ | `sigma` | |
///
/// Proved by `positions_have_the_distribution_of_equations_3_and_4` (cubature, exactly; sampling, by z-test).
#[doc(alias = "Eq. 3")]
#[derive(Clone, Debug)]
pub struct PositionDistribution {
    /// The mean: the deterministic positions.
    pub psi: Var,
    /// The factor of the covariance.
    pub a: Var,
    /// The scale of the noise.
    pub sigma: Sigma,
}

impl PositionDistribution {
    /// A draw: noise of \[R, N, d_e\] through Eq. (5).
    pub fn sample(&self, rng: &mut impl Rng) -> Var {
        let [rows, tokens, _] = self.psi.dims("position distribution: psi");
        let [_, d_e] = self.a.dims("position distribution: A");
        self.at(&sample_noise([rows, tokens, d_e], self.sigma, self.a.dtype(), rng).into())
    }

    /// The draw that the noise `n` \[R, N, d_e\] makes, Eq. (5).
    pub fn at(&self, n: &Var) -> Var {
        stochastic_position(&self.a, n, &self.psi)
    }

    /// Σ, \[d_p, d_p\], Eq. (4).
    pub fn covariance(&self) -> Tensor {
        covariance(self.a.value(), self.sigma)
    }
}
