//! SimMIM (Xie et al., CVPR 2022): predict the pixels of hidden patches from where the encoder sees a mask token.
//!
//! 1. The encoder sees the image with a mask token in the place of every hidden patch; a linear head answers there.
//! 2. Targets are the pixels of the normalized image.
//! 3. The mean absolute error over the pixels of the hidden patches.
//!
//! Source: §3 of the paper (arXiv:2111.09886); `models/simmim.py` and `data/data_simmim.py` of github.com/microsoft/SimMIM,
//! for a ViT. Departures:
//!
//! 1. Units of 2 × 2 patches are hidden where they tile the grid, single patches where not; the official units are of 32 × 32
//!    pixels, which are 2 × 2 patches of a ViT-B/16.
//! 2. The head answers at hidden patches only, where the original computes all and multiplies with the mask; it divides by the
//!    number of hidden pixels plus 10⁻⁵, here without.
//! 3. A patch's pixels are in MAE's order (row, column, channel), not that of `PixelShuffle` (channel, row, column).
//! 4. The encoder is this crate's: fixed sine-cosine positions, no class token, no relative position bias, layer scale or
//!    stochastic depth.
//! 5. Crops are those of the run, by default of 0.3 to 1 of the image; the official ones are of 0.67 to 1.

use rand::Rng;

use super::config::ModelConfig;
use super::{Chunk, InPlace, InPlacePrediction, Method, ModelParams, ModelWeights, Numbers, Recording, mae};
use crate::autograd::{Var, ops};
use crate::tensor::{DType, Tensor};
use crate::vit::Encoder;

/// Targets are pixels.
#[derive(Clone, Debug)]
pub struct Simmim {
    config: ModelConfig,
    networks: InPlace,
}

impl Simmim {
    /// The method with fresh parameters: `encoder` and `head`.
    pub fn new(config: &ModelConfig, dtype: DType, rng: &mut impl Rng) -> (Self, ModelParams) {
        let (networks, params) = InPlace::new(config, config.method.outputs(&config.encoder), dtype, rng);
        (Simmim { config: config.clone(), networks }, params)
    }
}

impl Method for Simmim {
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

impl InPlacePrediction for Simmim {
    fn networks(&self) -> &InPlace {
        &self.networks
    }

    fn targets(&self, _: &ModelWeights, chunk: &Chunk) -> Var {
        mae::targets(self.config.encoder.patch_size, false, chunk)
    }

    /// (1/n) Σ |ŝ_y − s_y| over n pixels.
    fn loss(&self, predictions: &Var, targets: &Var) -> Var {
        ops::mean(&ops::abs(&ops::sub(predictions, targets)))
    }

    fn pixels(&self, chunk: &Chunk, predictions: &Tensor) -> Option<Tensor> {
        Some(mae::reconstruction(self.config.encoder.patch_size, false, chunk, predictions))
    }
}
