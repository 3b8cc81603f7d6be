//! Eq. (1), section 2: what the predictor is told about a visible patch.

use crate::autograd::{Var, ops};

/// Eq. (1): cᵢ = ψᵢ + B s_{xᵢ}
///
/// | symbol | argument | shape |
/// |---|---|---|
/// | ψᵢ | `psi` | \[R, N, d_p\] |
/// | B | `b` | \[d_p, d_e\] |
/// | s_{xᵢ} | `s_x` | \[R, N, d_e\] |
/// | cᵢ | result | \[R, N, d_p\] |
///
/// Departure: (1) the official code's B is a linear layer with a bias, added when `bias` (\[d_p\]) is given; the paper
/// has none.
///
/// Proved by `context_token_is_equation_1` (a naive loop, to 10⁻¹⁵).
#[doc(alias = "Eq. 1")]
#[track_caller]
pub fn context_token(psi: &Var, b: &Var, s_x: &Var, bias: Option<&Var>) -> Var {
    ops::linear(s_x, b, bias) + psi
}
