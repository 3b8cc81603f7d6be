//! Eq. (6), section 3: one matrix for the context and for the noise.

use super::{context_token, masked_token, stochastic_position};
use crate::autograd::Var;

/// Eq. (6): cᵢ = A s_{xᵢ} + ψᵢ,  m_j = A n_j + ψ_j + m
///
/// Eqs. (1), (2) and (5) with B = A: the matrix that could silence the noise by going to zero would silence the
/// context with it.
///
/// | symbol | argument | shape |
/// |---|---|---|
/// | A | `a` | \[d_p, d_e\] |
/// | s_{xᵢ} | `s_x` | \[R, N_c, d_e\] |
/// | ψᵢ, i ∈ B_x | `psi_x` | \[R, N_c, d_p\] |
/// | n_j | `n` | \[R′, N_t, d_e\] |
/// | ψ_j, j ∈ B_y | `psi_y` | \[R′, N_t, d_p\] |
/// | m | `m` | \[d_p\] or \[1, 1, d_p\] |
/// | (c, m_j) | result | \[R, N_c, d_p\], \[R′, N_t, d_p\] |
///
/// Departure: (1) in the official code A is a linear layer whose bias takes the place of m and is added to the context
/// too: pass it both as `m` and as `context_bias`. The paper's form has `context_bias` = `None`.
///
/// Proved by `tied_tokens_are_equation_6`, and against the official code by `parity_with_official_code`.
#[doc(alias = "Eq. 6")]
#[track_caller]
pub fn tied_tokens(
    a: &Var,
    (s_x, psi_x): (&Var, &Var),
    (n, psi_y): (&Var, &Var),
    m: &Var,
    context_bias: Option<&Var>,
) -> (Var, Var) {
    let c = context_token(psi_x, a, s_x, context_bias);
    let masked = masked_token(&stochastic_position(a, n, psi_y), m);
    (c, masked)
}
