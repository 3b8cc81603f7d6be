//! Eq. (2), section 2: how the predictor is asked about a patch it does not see.

use crate::autograd::Var;

/// Eq. (2): m_j = ψ_j + m
///
/// | symbol | argument | shape |
/// |---|---|---|
/// | ψ_j | `psi` | \[R, N, d_p\]: the position, deterministic (I-JEPA) or drawn (Eq. 5) |
/// | m | `m` | \[1, 1, d_p\] or \[d_p\], shared by all masked tokens |
/// | m_j | result | \[R, N, d_p\] |
///
/// Departure: (1) in the official StoP code m is the bias of `predictor_embed`, which the context tokens get too;
/// `mask_token` exists there and is never read.
///
/// Proved by `masked_token_is_equation_2` (exactly).
#[doc(alias = "Eq. 2")]
#[track_caller]
pub fn masked_token(psi: &Var, m: &Var) -> Var {
    psi + m
}
