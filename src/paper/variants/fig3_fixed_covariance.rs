//! Fig. 3: a covariance that is learned, against one that is not.

use crate::autograd::Var;

named! {
    /// What the covariance Σ of a stochastic position is made of.
    #[cfg_attr(feature = "checkpoint", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "kebab-case"))]
    pub enum Covariance: "covariance" {
        /// Σ = σAAᵀ, with A tied to the context (Eqs. 4 and 6): StoP.
        Learned => "learned",
        /// Σ = σI: noise of the positions' width, added to them as it is drawn.
        Fixed => "fixed",
        /// Σ = σ h(x)² AAᵀ, with h(x) the root mean square of the image's context features.
        Conditioned => "conditioned",
    }
}

/// ψ̂_j = ψ_j + n_j, n_j ~ N(0, σI) in the space of positions: Σ = σI.
///
/// | symbol | argument | shape |
/// |---|---|---|
/// | ψ_j | `psi` | \[R, N, d_p\] |
/// | n_j | `n` | \[R, N, d_p\], a draw of [`sample_noise`](crate::paper::sample_noise) |
/// | ψ̂_j | result | \[R, N, d_p\] |
///
/// No parameter scales this noise, and none is tied to it: the context goes through B alone (Eq. 1). A component of a
/// position has a root mean square of √½, and σ is to be read beside that.
///
/// Proved by `a_fixed_covariance_is_not_tied`.
#[doc(alias = "Fig. 3")]
#[track_caller]
pub fn fixed_position(n: &Var, psi: &Var) -> Var {
    n + psi
}
