//! StoP (Bar et al., ICML 2024): I-JEPA whose masked tokens stand at stochastic positions.

use rand::Rng;

use super::config::{ModelConfig, Networks};
use super::{Chunk, MaskedPrediction, Method, ModelParams, ModelWeights, Numbers, Recording, ijepa};
use crate::autograd::{Var, ops};
use crate::nn::{ParamId, Role, Weights};
use crate::paper::{Loss, Sigma, context_token, tied_tokens};
use crate::tensor::{DType, Tensor};
use crate::vit::{Encoder, Names, Predictor};

named! {
    /// What a masked token is made of.
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

/// Stochastic positions, Eqs. (3) to (6); targets as I-JEPA's.
#[derive(Clone, Debug)]
pub struct Stop {
    config: ModelConfig,
    encoder: Encoder,
    predictor: Predictor,
    target_blocks: usize,
    sigma: Sigma,
    form: TokenForm,
}

impl Stop {
    /// The method with fresh parameters: the modules of [`Ijepa`](super::Ijepa).
    pub fn new(
        config: &ModelConfig,
        (target_blocks, sigma, form): (usize, Sigma, TokenForm),
        dtype: DType,
        rng: &mut impl Rng,
    ) -> (Self, ModelParams) {
        let (mask_token, bias) = match form {
            TokenForm::Official | TokenForm::PositionsOnly => (Role::Unused, Role::Trained),
            TokenForm::Paper => (Role::Trained, Role::Unused),
        };
        let mut networks = Networks::new(config, config.encoder.dim, Names::Predictor, mask_token, dtype, rng);
        networks.phi.set_role(networks.predictor.embed.bias, bias);
        let (encoder, predictor) = (networks.encoder.clone(), networks.predictor.clone());
        let method = Stop { config: config.clone(), encoder, predictor, target_blocks, sigma, form };
        (method, networks.with_target_encoder())
    }
}

impl Method for Stop {
    fn name(&self) -> &str {
        self.config.method.name()
    }

    fn encoder(&self) -> &Encoder {
        &self.encoder
    }

    fn record(&self, w: &ModelWeights, chunk: &Chunk) -> Recording {
        self.record_prediction(w, chunk)
    }

    fn sigma(&self) -> Option<Sigma> {
        (self.form != TokenForm::PositionsOnly).then_some(self.sigma)
    }

    fn numbers(&self, params: &ModelParams, _: &[Tensor]) -> Numbers {
        self.norms(params)
    }

    fn config(&self) -> Option<&ModelConfig> {
        Some(&self.config)
    }

    fn as_masked_prediction(&self) -> Option<&dyn MaskedPrediction> {
        Some(self)
    }
}

impl MaskedPrediction for Stop {
    fn predictor(&self) -> &Predictor {
        &self.predictor
    }

    /// In the official form the bias of `predictor_embed`.
    fn mask_token(&self) -> ParamId {
        match self.form {
            TokenForm::Official | TokenForm::PositionsOnly => self.predictor.embed.bias,
            TokenForm::Paper => self.predictor.mask_token,
        }
    }

    /// Eq. (6): cᵢ = A s_{xᵢ} + ψᵢ, m_j = A n_j + ψ_j + m, with n the chunk's noise.
    fn tokens(&self, phi: &Weights, s_x: &Var, chunk: &Chunk) -> (Var, Var) {
        let g = &self.predictor;
        let psi = &phi[g.position];
        let (psi_x, psi_y) = (ops::gather_tokens(psi, chunk.context()), ops::gather_tokens(psi, chunk.targets()));
        let (a, bias) = (&phi[g.embed.weight], &phi[g.embed.bias]);
        let noise = || Var::constant(chunk.noise.clone().expect("StoP needs noise: the chunk has none"));
        match self.form {
            TokenForm::Official => tied_tokens(a, (s_x, &psi_x), (&noise(), &psi_y), bias, Some(bias)),
            TokenForm::Paper => tied_tokens(a, (s_x, &psi_x), (&noise(), &psi_y), &phi[g.mask_token], None),
            TokenForm::PositionsOnly => (context_token(&psi_x, a, s_x, Some(bias)), psi_y),
        }
    }

    fn targets(&self, w: &ModelWeights, chunk: &Chunk) -> Var {
        ijepa::targets(&self.encoder, &w["target_encoder"], self.target_blocks, chunk)
    }

    fn loss(&self) -> Loss {
        Loss::SmoothL1
    }
}
