//! StoP (Bar et al., ICML 2024): I-JEPA whose masked tokens stand at stochastic positions.

use rand::Rng;

use super::config::{ModelConfig, Networks};
use super::{Chunk, MaskedPrediction, Method, ModelParams, ModelWeights, Numbers, Recording, ijepa};
use crate::autograd::{Var, ops};
use crate::nn::{ParamId, Params, Role, Weights};
use crate::paper::variants::{conditioned_noise, context_rms, fixed_position};
use crate::paper::{Covariance, Loss, NoiseOn, Sigma, context_token, masked_token, stochastic_position, tied_tokens};
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
    noise: StopNoise,
    target_blocks: usize,
    form: TokenForm,
}

/// The noise of [`Stop`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StopNoise {
    /// Its scale.
    pub sigma: Sigma,
    /// Which tokens have it.
    pub on: NoiseOn,
    /// How it becomes noise on a position.
    pub covariance: Covariance,
}

impl Stop {
    /// The method with fresh parameters: the modules of [`Ijepa`](super::Ijepa).
    pub fn new(
        config: &ModelConfig,
        noise: StopNoise,
        (target_blocks, form): (usize, TokenForm),
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
        let method = Stop { config: config.clone(), encoder, predictor, noise, target_blocks, form };
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
        (self.form != TokenForm::PositionsOnly).then_some(self.noise.sigma)
    }

    fn noise_on(&self) -> NoiseOn {
        self.noise.on
    }

    fn noise_width(&self) -> usize {
        match self.noise.covariance {
            Covariance::Learned | Covariance::Conditioned => self.config.encoder.dim,
            Covariance::Fixed => self.config.predictor.dim,
        }
    }

    /// The norms; of noise that is scaled by h(x), with the mean of h(x)² over the batch.
    fn numbers(&self, params: &ModelParams, means: &[Tensor]) -> Numbers<Tensor> {
        let mut numbers = self.norms(params);
        if let [square] = means {
            let scale = ops::sqrt(&square.to_dtype(DType::F64).into());
            let noise = numbers.0.iter_mut().filter(|number| number.name == "noise_rms");
            noise.for_each(|number| number.value = (Var::from(number.value.clone()) * &scale).value().clone());
        }
        numbers
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

    /// A, or I where the covariance is fixed.
    fn noise_factor(&self, phi: &Params) -> Tensor {
        let a = phi.value(self.predictor.embed.weight);
        match self.noise.covariance {
            Covariance::Learned | Covariance::Conditioned => a.clone(),
            Covariance::Fixed => {
                let d_p = self.config.predictor.dim;
                let identity = Tensor::from_fn([d_p, d_p], a.dtype(), |i| f64::from(i / d_p == i % d_p));
                identity.to_device(a.device())
            }
        }
    }

    fn noise_scale(&self, s_x: &Var) -> Option<Var> {
        (self.noise.covariance == Covariance::Conditioned).then(|| context_rms(s_x))
    }

    /// Eq. (6): cᵢ = A s_{xᵢ} + ψᵢ, m_j = A n_j + ψ_j + m, with n the chunk's noise. The variants have another position in
    /// the place of ψᵢ or of A n_j + ψ_j.
    fn tokens(&self, phi: &Weights, s_x: &Var, chunk: &Chunk) -> (Var, Var) {
        let g = &self.predictor;
        let psi = &phi[g.position];
        let (psi_x, psi_y) = (ops::gather_tokens(psi, chunk.context()), ops::gather_tokens(psi, chunk.targets()));
        let (a, bias) = (&phi[g.embed.weight], &phi[g.embed.bias]);
        let (m, bias) = match self.form {
            TokenForm::Official => (bias, Some(bias)),
            TokenForm::Paper => (&phi[g.mask_token], None),
            TokenForm::PositionsOnly => return (context_token(&psi_x, a, s_x, Some(bias)), psi_y),
        };
        let n = |n: &Option<Tensor>| Var::constant(n.clone().expect("StoP needs noise: the chunk has none"));
        let position = |n: &Var, psi: &Var| match self.noise.covariance {
            Covariance::Learned => stochastic_position(a, n, psi),
            Covariance::Fixed => fixed_position(n, psi),
            Covariance::Conditioned => stochastic_position(a, &conditioned_noise(n, s_x), psi),
        };
        let on = self.noise.on;
        let psi_x = if on.context() { position(&n(&chunk.context_noise), &psi_x) } else { psi_x };
        if on.masked() && self.noise.covariance == Covariance::Learned {
            return tied_tokens(a, (s_x, &psi_x), (&n(&chunk.noise), &psi_y), m, bias);
        }
        let psi_y = if on.masked() { position(&n(&chunk.noise), &psi_y) } else { psi_y };
        (context_token(&psi_x, a, s_x, bias), masked_token(&psi_y, m))
    }

    fn targets(&self, w: &ModelWeights, chunk: &Chunk) -> Var {
        ijepa::targets(&self.encoder, &w["target_encoder"], self.target_blocks, chunk)
    }

    fn loss(&self) -> Loss {
        Loss::SmoothL1
    }
}
