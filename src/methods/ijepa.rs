//! I-JEPA (Assran et al., CVPR 2023): predict the features of masked blocks, at known positions.

use rand::Rng;

use super::config::{ModelConfig, Networks};
use super::{Chunk, MaskedPrediction, Method, ModelParams, ModelWeights, Number, Numbers, Recording};
use crate::autograd::{Var, ops};
use crate::nn::{Role, Weights};
use crate::paper::variants::targets_at;
use crate::paper::{Loss, Penalty, TargetResolution, context_token, masked_token};
use crate::tensor::{DType, Tensor};
use crate::vit::{Encoder, Names, Predictor};

/// Deterministic positions, Eqs. (1) and (2); targets are an averaged encoder's features.
#[derive(Clone, Debug)]
pub struct Ijepa {
    config: ModelConfig,
    encoder: Encoder,
    predictor: Predictor,
    target_blocks: usize,
    resolution: TargetResolution,
    penalty: Option<Penalty>,
}

impl Ijepa {
    /// The method with fresh parameters: `encoder`, `predictor`, and the moving average `target_encoder`, which starts as a
    /// copy of the encoder. Targets are the mean over the last `target_blocks` blocks, at this resolution.
    pub fn new(
        config: &ModelConfig,
        (target_blocks, resolution, penalty): (usize, TargetResolution, Option<Penalty>),
        dtype: DType,
        rng: &mut impl Rng,
    ) -> (Self, ModelParams) {
        let networks = Networks::new(config, config.encoder.dim, Names::Predictor, Role::Trained, dtype, rng);
        let (encoder, predictor) = (networks.encoder.clone(), networks.predictor.clone());
        let method = Ijepa { config: config.clone(), encoder, predictor, target_blocks, resolution, penalty };
        (method, networks.with_target_encoder())
    }
}

impl Method for Ijepa {
    fn name(&self) -> &str {
        self.config.method.name()
    }

    fn encoder(&self) -> &Encoder {
        &self.encoder
    }

    /// Lines 5 to 16, and a penalty on B if there is one. As the loss of a batch is a mean over chunks, it has it once.
    fn record(&self, w: &ModelWeights, chunk: &Chunk) -> Recording {
        let Recording { loss, mut means } = self.record_prediction(w, chunk);
        let Some(penalty) = self.penalty else { return Recording { loss, means } };
        let penalty = penalty.of(&w["predictor"][self.predictor.embed.weight]);
        means.push(penalty.value().clone());
        Recording { loss: loss + penalty, means }
    }

    /// The norms, and what the penalty has added to the loss.
    fn numbers(&self, params: &ModelParams, means: &[Tensor]) -> Numbers<Tensor> {
        let mut numbers = self.norms(params);
        let penalty = |added: &Tensor| Number::new("penalty", "penalty on B", "part of the loss", added.clone());
        numbers.0.extend(means.iter().map(penalty));
        numbers
    }

    fn config(&self) -> Option<&ModelConfig> {
        Some(&self.config)
    }

    fn as_masked_prediction(&self) -> Option<&dyn MaskedPrediction> {
        Some(self)
    }
}

impl MaskedPrediction for Ijepa {
    fn predictor(&self) -> &Predictor {
        &self.predictor
    }

    /// Eqs. (1) and (2): cᵢ = ψᵢ + B s_{xᵢ} + b, m_j = ψ_j + m. The bias b is the official code's; see [`context_token`].
    fn tokens(&self, phi: &Weights, s_x: &Var, chunk: &Chunk) -> (Var, Var) {
        let g = &self.predictor;
        let (psi, b, bias, m) = (&phi[g.position], &phi[g.embed.weight], &phi[g.embed.bias], &phi[g.mask_token]);
        let c = context_token(&ops::gather_tokens(psi, chunk.context()), b, s_x, Some(bias));
        let masked = masked_token(&ops::gather_tokens(psi, chunk.targets()), m);
        (c, masked)
    }

    fn targets(&self, w: &ModelWeights, chunk: &Chunk) -> Var {
        let s_y = features_to_predict(&self.encoder, &w["target_encoder"], self.target_blocks, chunk);
        targets_at(self.resolution, &s_y, self.config.encoder.grid(), chunk.targets())
    }

    fn loss(&self) -> Loss {
        Loss::SmoothL1
    }
}

/// ε of the targets' normalization: the default of PyTorch's `layer_norm`, which the official code leaves as it is.
const TARGET_EPS: f64 = 1e-5;

/// s_y at the target positions, \[R, N_t, d_e\].
pub fn targets(encoder: &Encoder, averaged: &Weights, target_blocks: usize, chunk: &Chunk) -> Var {
    ops::gather_tokens(&features_to_predict(encoder, averaged, target_blocks, chunk), chunk.targets())
}

/// s_y: the averaged encoder's features of the whole image, each token normalized on its own (no γ, β; ε = 10⁻⁵),
/// \[b, K, d_e\]. With K = `target_blocks` > 1, the mean over the last K blocks first.
///
/// Stop-gradient needs no word here: `averaged` holds constants, so nothing is recorded.
fn features_to_predict(encoder: &Encoder, averaged: &Weights, target_blocks: usize, chunk: &Chunk) -> Var {
    let images = Var::constant(chunk.images().clone());
    let mut outputs = encoder.last_blocks(averaged, &images, None, target_blocks).into_iter();
    let first = outputs.next().expect("last_blocks gives at least one");
    let mean = match target_blocks {
        1 => first,
        k => ops::scale(&outputs.fold(first, |sum, x| ops::add(&sum, &x)), 1.0 / k as f64),
    };
    ops::layer_norm(&mean, None, TARGET_EPS)
}
