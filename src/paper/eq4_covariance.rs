//! Eq. (4), section 3: the covariance of a stochastic position.

use super::Sigma;
use crate::autograd::{Var, ops};
use crate::tensor::Tensor;

/// Eq. (4): Σ = σAAᵀ
///
/// | symbol | argument | shape |
/// |---|---|---|
/// | A | `a` | \[d_p, d_e\] |
/// | σ | `sigma` | |
/// | Σ | result | \[d_p, d_p\], symmetric, positive semi-definite, of rank at most min(d_p, d_e) |
///
/// Departure: (1) the paper calls Σ low-rank; with its own sizes (384 × 768) it generically has full rank.
///
/// Proved by `covariance_is_equation_4`.
#[doc(alias = "Eq. 4")]
#[track_caller]
pub fn covariance(a: &Tensor, sigma: Sigma) -> Tensor {
    let a = a.clone().into();
    (sigma.variance() * ops::matmul_nt(&a, &a)).value().clone()
}

/// E|An|² = tr Σ = σ|A|²: the expected squared length of the noise on a position, without making Σ. Of
/// shape \[\], in f64.
///
/// What the training log reports, as the root mean square per component √(tr Σ / d_p).
///
/// Proved by `covariance_is_equation_4`.
pub fn expected_noise_power(a: &Tensor, sigma: Sigma) -> Tensor {
    let norm = Var::from(a.l2_norm());
    (sigma.variance() * (&norm * &norm)).value().clone()
}
