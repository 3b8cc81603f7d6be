//! StoP (Bar et al., ICML 2024): I-JEPA whose masked tokens stand at stochastic positions.

use super::model::Chunk;
use crate::autograd::{Var, ops};
use crate::nn::{Role, Weights};
use crate::paper::{context_token, tied_tokens};
use crate::vit::Predictor;

named! {
    /// Of what a masked token is made.
    #[cfg_attr(feature = "checkpoint", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "kebab-case"))]
    pub enum TokenForm: "form of masked tokens" {
        /// As the official code: m_j = A n_j + ψ_j + b, c = A s_x + ψ + b, with b the bias of `predictor_embed`;
        /// `mask_token` exists and is not read.
        Official => "official",
        /// As the paper's Eq. 6: m_j = A n_j + ψ_j + m, c = A s_x + ψ, with m the `mask_token`; the bias is not read.
        Paper => "paper",
        /// The official code with the noise switched off: m_j = ψ_j alone, which is not I-JEPA's ψ_j + m.
        PositionsOnly => "positions-only",
    }
}

impl TokenForm {
    /// What becomes of `mask_token` and of the bias of `predictor_embed`.
    pub(super) fn roles(self) -> (Role, Role) {
        match self {
            TokenForm::Official | TokenForm::PositionsOnly => (Role::Unread, Role::Trained),
            TokenForm::Paper => (Role::Trained, Role::Unread),
        }
    }
}

/// What the predictor sees, Eq. (6): cᵢ = A s_{xᵢ} + ψᵢ, m_j = A n_j + ψ_j + m, with n the chunk's noise.
///
/// # Panics
/// When the form needs noise and the chunk has none.
#[track_caller]
pub fn tokens(form: TokenForm, predictor: &Predictor, phi: &Weights, s_x: &Var, chunk: &Chunk) -> (Var, Var) {
    let psi = &phi[predictor.position];
    let (psi_x, psi_y) = (ops::gather_tokens(psi, &chunk.context), ops::gather_tokens(psi, &chunk.targets));
    let (a, bias) = (&phi[predictor.embed.weight], &phi[predictor.embed.bias]);
    let noise = || Var::constant(chunk.noise.clone().expect("StoP needs noise: the chunk has none"));
    match form {
        TokenForm::Official => tied_tokens(a, (s_x, &psi_x), (&noise(), &psi_y), bias, Some(bias)),
        TokenForm::Paper => tied_tokens(a, (s_x, &psi_x), (&noise(), &psi_y), &phi[predictor.mask_token], None),
        TokenForm::PositionsOnly => (context_token(&psi_x, a, s_x, Some(bias)), psi_y),
    }
}
