//! Eq. (5), section 3: the reparametrization trick.

use rand::Rng;

use super::Sigma;
use crate::autograd::{Var, ops};
use crate::tensor::{DType, Shape, Tensor};

/// Eq. (5): ψ̂_j = A n_j + ψ_j
///
/// | symbol | argument | shape |
/// |---|---|---|
/// | A | `a` | \[d_p, d_e\] |
/// | n_j | `n` | \[R, N, d_e\], a draw of [`sample_noise`] |
/// | ψ_j | `psi` | \[R, N, d_p\] |
/// | ψ̂_j | result | \[R, N, d_p\] |
///
/// The draw does not depend on A, so the gradient reaches A: d/dA E f(An + ψ) = E\[∇f nᵀ\].
///
/// Proved by `stochastic_position_is_equation_5` and `the_gradient_reaches_a`.
#[doc(alias = "Eq. 5")]
#[track_caller]
pub fn stochastic_position(a: &Var, n: &Var, psi: &Var) -> Var {
    ops::linear(n, a, None) + psi
}

/// n_j ~ N(0, σI): fresh, independent noise for every masked token.
///
/// # Panics
/// When there are more than the supported dimensions.
pub fn sample_noise(shape: impl Into<Shape>, sigma: Sigma, dtype: DType, rng: &mut impl Rng) -> Tensor {
    Tensor::normal(shape, sigma.std(), dtype, rng)
}
