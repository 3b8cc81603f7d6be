//! Methods whose encoder sees every place of an image, with a mask token where a patch is hidden, and whose linear head
//! answers there: the form of BEiT, of data2vec and of SimMIM.

use rand::Rng;

use super::config::ModelConfig;
use super::method::timed;
use super::{Chunk, Method, ModelParams, ModelWeights, Number, Numbers, Recording, Update};
use crate::autograd::{Var, ops};
use crate::kernels::meter::Phase;
use crate::nn::{Linear, Params, Weights, fresh};
use crate::tensor::{DType, Indices, Tensor};
use crate::vit::{Encoder, Visible};

/// The two networks of such a method: an encoder with a mask token, and a linear head.
#[derive(Clone, Debug)]
pub struct InPlace {
    /// f_θ
    pub encoder: Encoder,
    /// From features to predictions.
    pub head: Linear,
}

impl InPlace {
    /// Networks of the configuration's sizes, with predictions of width `outputs`, and their fresh parameters: the modules
    /// `encoder` and `head` (in files `head.proj.weight`, `head.proj.bias`).
    pub fn new(config: &ModelConfig, outputs: usize, dtype: DType, rng: &mut impl Rng) -> (Self, ModelParams) {
        let ModelConfig { encoder: sizes, linear_init, .. } = config;
        let (encoder, theta): (_, Params) = fresh(*linear_init, dtype, rng, |init| Encoder::new(sizes, init));
        let (head, phi) = fresh(*linear_init, dtype, rng, |init| init.linear("proj", sizes.dim, outputs));
        let params = ModelParams::new().with("encoder", Update::Trained, theta).with("head", Update::Trained, phi);
        (InPlace { encoder, head }, params)
    }
}

/// A method of this form. The modules are called `encoder`, which has a mask token, and `head`.
///
/// Hidden is what is not in the context: of random masks exactly the targets, of blocks also what lies between them.
pub trait InPlacePrediction: Method {
    /// The networks.
    fn networks(&self) -> &InPlace;

    /// s_y: what is to be predicted, \[P E b, N_t, outputs\], off the tape.
    fn targets(&self, w: &ModelWeights, chunk: &Chunk) -> Var;

    /// The loss, a scalar: a mean over the targets.
    fn loss(&self, predictions: &Var, targets: &Var) -> Var;

    /// The chunk's images with what was predicted in its place, where that is pixels.
    fn pixels(&self, chunk: &Chunk, predictions: &Tensor) -> Option<Tensor> {
        let _ = (chunk, predictions);
        None
    }

    /// Features of every token of the images with their hidden patches masked, \[E b, K, d_e\].
    fn encode(&self, theta: &Weights, chunk: &Chunk) -> Var {
        let encoder = &self.networks().encoder;
        let hidden = others(chunk.context(), encoder.config().patches());
        let context_masks = hidden.rows() / chunk.images().shape()[0].max(1);
        let images = match context_masks {
            1 => chunk.images().clone(),
            masks => Tensor::concat_rows(&vec![chunk.images().clone(); masks]),
        };
        encoder.forward(theta, &images.into(), Visible::Except(&hidden))
    }

    /// ŝ_y = W s + b at the targets, \[P E b, N_t, outputs\].
    fn answer(&self, phi: &Weights, features: &Var, chunk: &Chunk) -> Var {
        self.networks().head.forward(phi, &ops::gather_tokens(features, chunk.targets()))
    }

    /// ŝ_y for a chunk.
    fn predictions(&self, w: &ModelWeights, chunk: &Chunk) -> Var {
        self.answer(&w["head"], &self.encode(&w["encoder"], chunk), chunk)
    }

    /// From the images of a chunk to the loss: what [`Method::record`] is for a method of this form.
    fn record_prediction(&self, w: &ModelWeights, chunk: &Chunk) -> Recording {
        let features = timed(Phase::Context, || self.encode(&w["encoder"], chunk));
        let predictions = timed(Phase::Predictor, || self.answer(&w["head"], &features, chunk));
        let targets = timed(Phase::Target, || self.targets(w, chunk));
        let loss = timed(Phase::Predictor, || self.loss(&predictions, &targets));
        Recording { loss, means: Vec::new() }
    }

    /// |m| of the encoder's mask token: [`Method::numbers`] of a method of this form.
    fn norms(&self, params: &ModelParams) -> Numbers<Tensor> {
        let token = self.networks().encoder.mask_token();
        let norm = token.map(|token| params["encoder"].value(token).l2_norm());
        Numbers(norm.into_iter().map(|norm| Number::new("norm_m", "|m|", "norm", norm)).collect())
    }
}

/// The tokens of 0 to `tokens` that a row does not have, in order.
///
/// # Panics
/// When rows do not name the same number of tokens.
#[track_caller]
fn others(context: &Indices, tokens: usize) -> Indices {
    let row = |r: usize| {
        let mut hidden = vec![true; tokens];
        context.row(r).iter().for_each(|&token| hidden[token as usize] = false);
        (0..tokens as u32).filter(|&token| hidden[token as usize]).collect()
    };
    Indices::from_rows(&(0..context.rows()).map(row).collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hidden_is_what_is_not_in_the_context() {
        let hidden = others(&Indices::from_rows(&[vec![4, 0], vec![1, 2]]), 5);
        assert_eq!(hidden, Indices::from_rows(&[vec![1, 2, 3], vec![0, 3, 4]]));
        assert_eq!(others(&Indices::all(2, 3), 3).per_row(), 0);
    }
}
