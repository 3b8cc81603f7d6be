//! I-JEPA (Assran et al., CVPR 2023): predict the features of masked blocks, at known positions.

use rand::Rng;

use super::config::{ModelConfig, Networks};
use super::{Chunk, MaskedPrediction, Method, ModelParams, ModelWeights, Numbers, Recording};
use crate::autograd::{Var, ops};
use crate::nn::{Role, Weights};
use crate::paper::{Loss, context_token, masked_token};
use crate::tensor::{DType, Tensor};
use crate::vit::{Encoder, Names, Predictor};

/// Deterministic positions, Eqs. (1) and (2); targets are an averaged encoder's features.
#[derive(Clone, Debug)]
pub struct Ijepa {
    config: ModelConfig,
    encoder: Encoder,
    predictor: Predictor,
    target_blocks: usize,
}

impl Ijepa {
    /// The method with fresh parameters: `encoder`, `predictor`, and the moving average `target_encoder`, which starts as a
    /// copy of the encoder. Targets are the mean over the last `target_blocks` blocks.
    pub fn new(config: &ModelConfig, target_blocks: usize, dtype: DType, rng: &mut impl Rng) -> (Self, ModelParams) {
        let networks = Networks::new(config, config.encoder.dim, Names::Predictor, Role::Trained, dtype, rng);
        let (encoder, predictor) = (networks.encoder.clone(), networks.predictor.clone());
        (Ijepa { config: config.clone(), encoder, predictor, target_blocks }, networks.with_target_encoder())
    }
}

impl Method for Ijepa {
    fn name(&self) -> &str {
        self.config.method.name()
    }

    fn encoder(&self) -> &Encoder {
        &self.encoder
    }

    fn record(&self, w: &ModelWeights, chunk: &Chunk) -> Recording {
        self.record_prediction(w, chunk)
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
        targets(&self.encoder, &w["target_encoder"], self.target_blocks, chunk)
    }

    fn loss(&self) -> Loss {
        Loss::SmoothL1
    }
}

/// ε of the targets' normalization: the default of PyTorch's `layer_norm`, which the official code leaves as it is.
const TARGET_EPS: f64 = 1e-5;

/// s_y: the averaged encoder's features of the whole image, each token normalized on its own (no γ, β; ε = 10⁻⁵), at the
/// target positions. With K = `target_blocks` > 1, the mean over the last K blocks first.
///
/// Stop-gradient needs no word here: `averaged` holds constants, so nothing is recorded.
pub fn targets(encoder: &Encoder, averaged: &Weights, target_blocks: usize, chunk: &Chunk) -> Var {
    let images = Var::constant(chunk.images().clone());
    let mut outputs = encoder.last_blocks(averaged, &images, None, target_blocks).into_iter();
    let first = outputs.next().expect("last_blocks gives at least one");
    let mean = match target_blocks {
        1 => first,
        k => ops::scale(&outputs.fold(first, |sum, x| ops::add(&sum, &x)), 1.0 / k as f64),
    };
    let normal = ops::layer_norm(&mean, None, TARGET_EPS);
    ops::gather_tokens(&normal, chunk.targets())
}
