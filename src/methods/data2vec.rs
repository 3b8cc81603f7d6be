//! data2vec (Baevski et al., ICML 2022), for images: predict, at hidden patches, what the moving average of the encoder makes
//! of the whole image in its last blocks.
//!
//! 1. The encoder sees the image with a mask token in the place of every hidden patch; a linear head answers there.
//! 2. Its moving average sees the whole image. Of each of its last K blocks the output (before the last norm of the network)
//!    is normalized token by token without γ and β; the target is the mean over the K blocks, normalized once more.
//! 3. Smooth L1 with β = 2, as a mean over the hidden patches.
//!
//! Source: §3 of the paper (arXiv:2202.03555); `engine_for_cyclical.py` and `modeling_cyclical.py` of
//! github.com/facebookresearch/data2vec_vision, with the flags its README gives for ViT-B. Departures:
//!
//! 1. The paper normalizes each block and averages; the second norm is that of the official commands
//!    (`--post_target_layer_norm`), which the paper does not mention. It is done here.
//! 2. Masks are random in units of 2 × 2 patches (60 %), where the official code draws BEiT's blocks of 16 patches and more
//!    (120 of 196); any of this crate's masks will do.
//! 3. The encoder is this crate's: fixed sine-cosine positions, no class token, no relative position bias, layer scale, stochastic
//!    depth or dropout.
//! 4. The average's momentum is the run's schedule; the official one is 0.9998 throughout.
//! 5. K is 2 unless it is said: half of the blocks of the preset `toy`, as the official 6 are of ViT-B's.

use rand::Rng;

use super::config::ModelConfig;
use super::{Chunk, InPlace, InPlacePrediction, Method, ModelParams, ModelWeights, Numbers, Recording, Update};
use crate::autograd::{Var, ops};
use crate::nn::Weights;
use crate::tensor::{DType, Tensor};
use crate::vit::Encoder;

/// β of smooth L1, in the targets' units. Official: 2 for images.
const BETA: f64 = 2.0;

/// ε of the targets' norms: the default of PyTorch's `layer_norm`, which the official code leaves as it is.
const TARGET_EPS: f64 = 1e-5;

/// Targets are an averaged encoder's normalized features, of the last K blocks.
#[derive(Clone, Debug)]
pub struct Data2vec {
    config: ModelConfig,
    networks: InPlace,
    target_blocks: usize,
}

impl Data2vec {
    /// The method with fresh parameters: `encoder`, `head`, and the moving average `target_encoder`, which starts as a copy of
    /// the encoder.
    pub fn new(config: &ModelConfig, target_blocks: usize, dtype: DType, rng: &mut impl Rng) -> (Self, ModelParams) {
        let (networks, params) = InPlace::new(config, config.encoder.dim, dtype, rng);
        let average = params["encoder"].clone();
        let params = params.with("target_encoder", Update::AverageOf("encoder"), average);
        (Data2vec { config: config.clone(), networks, target_blocks }, params)
    }
}

impl Method for Data2vec {
    fn name(&self) -> &str {
        self.config.method.name()
    }

    fn encoder(&self) -> &Encoder {
        &self.networks.encoder
    }

    fn record(&self, w: &ModelWeights, chunk: &Chunk) -> Recording {
        self.record_prediction(w, chunk)
    }

    fn numbers(&self, params: &ModelParams, _: &[Tensor]) -> Numbers<Tensor> {
        self.norms(params)
    }

    fn config(&self) -> Option<&ModelConfig> {
        Some(&self.config)
    }

    fn as_in_place_prediction(&self) -> Option<&dyn InPlacePrediction> {
        Some(self)
    }
}

impl InPlacePrediction for Data2vec {
    fn networks(&self) -> &InPlace {
        &self.networks
    }

    fn targets(&self, w: &ModelWeights, chunk: &Chunk) -> Var {
        targets(&self.networks.encoder, &w["target_encoder"], self.target_blocks, chunk)
    }

    fn loss(&self, predictions: &Var, targets: &Var) -> Var {
        ops::smooth_l1(predictions, targets, BETA)
    }
}

/// s_y = norm((1/K) Σ norm(aₗ)) at the target positions, \[P E b, N_t, d_e\], with aₗ the output of the averaged encoder's
/// block l for the whole image and l over the last K = `target_blocks`; norm is of each token on its own (no γ, β; ε = 10⁻⁵).
///
/// Stop-gradient needs no word here: `averaged` holds constants, so nothing is recorded.
pub fn targets(encoder: &Encoder, averaged: &Weights, target_blocks: usize, chunk: &Chunk) -> Var {
    let images = Var::constant(chunk.images().clone());
    let blocks = encoder.last_blocks_before_norm(averaged, &images, None, target_blocks);
    let normal = |x: &Var| ops::layer_norm(x, None, TARGET_EPS);
    let sum = blocks.iter().map(normal).reduce(|sum, x| ops::add(&sum, &x)).expect("at least one block");
    let mean = ops::scale(&sum, 1.0 / target_blocks as f64);
    ops::gather_tokens(&normal(&mean), chunk.targets())
}
