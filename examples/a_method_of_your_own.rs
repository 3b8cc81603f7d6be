//! A method of your own: from the visible patches of an image, predict the mean color of each hidden one.
//!
//! `cargo run --release --example a_method_of_your_own`

use std::sync::Arc;

use stop_mim::DType;
use stop_mim::autograd::{Var, ops};
use stop_mim::data::{self, Loader, LoaderOptions};
use stop_mim::eval::{self, pooled_features};
use stop_mim::methods::{Chunk, MaskedPrediction, MethodConfig, ModelParams, ModelWeights, Update};
use stop_mim::nn::{Init, LinearInit, Params, Role, Weights};
use stop_mim::paper::{Loss, context_token, masked_token};
use stop_mim::rng::{Purpose, stream};
use stop_mim::train::{RunConfig, Trainer};
use stop_mim::vit::{Encoder, Names, Predictor, Preset};

#[derive(Debug)]
struct MeanColors(Encoder, Predictor);

#[rustfmt::skip]
impl MaskedPrediction for MeanColors {
    fn name(&self) -> &str { "mean-colors" }
    fn encoder(&self) -> &Encoder { &self.0 }
    fn predictor(&self) -> &Predictor { &self.1 }
    fn loss(&self) -> Loss { Loss::SquaredError }

    // Eqs. (1) and (2): positions are known.
    fn tokens(&self, phi: &Weights, s_x: &Var, chunk: &Chunk) -> (Var, Var) {
        let (g, at) = (&self.1, |indices| ops::gather_tokens(&phi[self.1.position], indices));
        let c = context_token(&at(chunk.context()), &phi[g.embed.weight], s_x, Some(&phi[g.embed.bias]));
        (c, masked_token(&at(chunk.targets()), &phi[g.mask_token]))
    }

    fn targets(&self, _: &ModelWeights, chunk: &Chunk) -> Var {
        let patches = ops::patchify(&chunk.images().clone().into(), 4, ops::PatchOrder::ChannelFirst);
        let hidden = ops::gather_tokens(&patches, chunk.targets()); // [R, N_t, 3 · 4²]
        let [rows, tokens, _] = hidden.dims("targets");
        ops::reshape(&hidden, [rows, tokens, 3, 16]).mean_axis(3) // [R, N_t, 3]
    }
}

fn main() -> stop_mim::Result<()> {
    todo!()
}
