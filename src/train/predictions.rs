//! What a trained model predicts, to be looked at: pixels, or what a predicted token resembles (Fig. 6).

use rayon::prelude::*;

use crate::data::{Dataset, Normalization, evaluation_images};
use crate::eval::resemblance;
use crate::methods::{Chunk, Masking, Method, ModelParams, ModelWeights, TokenPrediction};
use crate::paper::sample_noise;
use crate::rng::{Purpose, stream};
use crate::tensor::{DType, Indices, Tensor};
use crate::{Error, Result};

/// An image under its masks, and what a model makes of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Prediction {
    /// `[3, S, S]`, red first, 0 to 255.
    pub pixels: Vec<u8>,
    /// B_x: the tokens that the encoder sees.
    pub context: Vec<u32>,
    /// B_y: the tokens of each target block. Random masks make one, of all that is not in the context.
    pub targets: Vec<Vec<u32>>,
    /// What is predicted there.
    pub predicted: Predicted,
}

/// What a method predicts.
#[derive(Clone, Debug, PartialEq)]
pub enum Predicted {
    /// MAE, SimMIM: the image, `[3, S, S]`, with predicted pixels in the hidden patches; with noise, from one draw of it.
    Pixels(Vec<u8>),
    /// I-JEPA, StoP, data2vec: features, here as heat maps of what they resemble, for a token each of two blocks that are far
    /// from each other (of one, when the blocks are all at the same place).
    Features(Vec<HeatMaps>),
}

/// What one predicted token resembles, as in Fig. 6: maps over the image's K tokens, each with a sum of 1, made by
/// [`resemblance()`] from s_y, the features of the whole image that are this method's targets.
#[derive(Clone, Debug, PartialEq)]
pub struct HeatMaps {
    /// The token: that nearest to the middle of its block.
    pub query: u32,
    /// Of ŝ_y at the query, predicted from ψ_j itself: I-JEPA's position, and of StoP's the mean (n = 0).
    pub predicted: Vec<f64>,
    /// Of ŝ_y at the query, predicted from one draw ψ̂_j as in training; `None` without noise.
    pub drawn: Option<Vec<f64>>,
    /// Of s_y at the query: what a perfect prediction would resemble.
    pub target: Vec<f64>,
}

/// The softmax's temperature. The paper names none.
const TEMPERATURE: f64 = 1.0;

/// Key of the random streams of these pictures: neither training nor its diagnostics draw from them.
const PREDICTIONS: u64 = 2;

/// What the model predicts of each of `images`, whose size must be its own. Masks and noise of an image depend on `seed`
/// and its index alone.
///
/// # Errors
/// When an image cannot be read, or the masks do not fit the model; when the method predicts nothing at tokens.
pub fn predictions(
    (method, params): (&dyn Method, &ModelParams),
    masking: &Masking,
    (images, normalization): (&dyn Dataset, &Normalization),
    seed: u64,
) -> Result<Vec<Prediction>> {
    let Some(prediction) = TokenPrediction::of(method) else {
        let problem = format!("{} predicts nothing about hidden patches that could be drawn", method.name());
        return Err(Error::config(
            problem,
            "give a model that was pretrained by one of the methods here: all of them do",
        ));
    };
    let encoder = method.encoder().config();
    let side = encoder.image_size;
    let look = |i: usize| {
        let rng = &mut stream(seed, Purpose::Eval, [PREDICTIONS, i as u64]);
        let (context, targets) = masking.sample(1, encoder.patches(), rng)?;
        // Of several context masks the first: each would make a picture of its own.
        let (context, targets) = (context[0].clone(), Indices::concat(&targets));
        let mut draw = |wanted: bool, on: &Indices| {
            let sigma = method.sigma().filter(|_| wanted)?;
            Some(sample_noise([on.rows(), on.per_row(), method.noise_width()], sigma, DType::F32, rng))
        };
        let noise = draw(method.noise_on().masked(), &targets);
        let context_noise = draw(method.noise_on().context(), &context);
        let pixels = evaluation_images(images, i..i + 1, normalization)?;
        let image = Tensor::new([1, encoder.channels, side, side], pixels);
        let chunk = Chunk { context_noise, ..Chunk::masked(image, context, targets, noise) };
        let w = params.constants();
        let answers = prediction.predictions(&w, &chunk).value().clone();
        let predicted = match prediction.pixels(&chunk, &answers) {
            Some(filled) => Predicted::Pixels(normalization.to_bytes(filled.as_slice())),
            None => {
                let everywhere = chunk.clone().with_targets(Indices::all(1, encoder.patches()));
                let s_y = prediction.targets(&w, &everywhere).value().to_f64_vec();
                Predicted::Features(heat_maps((method, prediction), &w, &s_y, (&chunk, &answers)))
            }
        };
        Ok(Prediction {
            pixels: normalization.to_bytes(chunk.images().as_slice()),
            context: chunk.context().as_slice().to_vec(),
            targets: (0..chunk.targets().rows()).map(|block| chunk.targets().row(block).to_vec()).collect(),
            predicted,
        })
    };
    // Collected in the order of the images, whichever thread was first.
    (0..images.len()).into_par_iter().map(look).collect()
}

/// The maps of one image, whose features at all K tokens are `s_y`, \[K, d_e\], and of which `answers` are predicted.
fn heat_maps(
    (method, prediction): (&dyn Method, TokenPrediction<'_>),
    w: &ModelWeights,
    s_y: &[f64],
    (chunk, answers): (&Chunk, &Tensor),
) -> Vec<HeatMaps> {
    let (dim, answers) = (method.encoder().config().dim, answers.to_f64_vec());
    let noisy = method.sigma().is_some_and(|sigma| sigma.std() > 0.0);
    let silence = |noise: &Option<Tensor>| noise.as_ref().map(|noise| Tensor::zeros(*noise.shape(), noise.dtype()));
    let (predicted, drawn) = if noisy {
        let (noise, context_noise) = (silence(&chunk.noise), silence(&chunk.context_noise));
        let silent = Chunk { noise, context_noise, ..chunk.clone() };
        (prediction.predictions(w, &silent).value().to_f64_vec(), Some(answers))
    } else {
        (answers, None)
    };
    let map = |features: &[f64], at: usize| resemblance(&features[at * dim..(at + 1) * dim], s_y, TEMPERATURE);
    let of = |at: usize| {
        let query = chunk.targets().as_slice()[at];
        let drawn = drawn.as_ref().map(|drawn| map(drawn, at));
        HeatMaps { query, predicted: map(&predicted, at), drawn, target: map(s_y, query as usize) }
    };
    queries(chunk.targets(), method.encoder().config().grid()).into_iter().map(of).collect()
}

/// Where in `targets` the tokens stand that are looked at: the middle of the first block, and of the block farthest from
/// it, unless all have the same.
fn queries(targets: &Indices, grid: usize) -> Vec<usize> {
    let place = |token: &u32| [*token as usize / grid, *token as usize % grid].map(|x| x as f64);
    let apart = |a: [f64; 2], b: [f64; 2]| (a[0] - b[0]).powi(2) + (a[1] - b[1]).powi(2);
    let n = targets.per_row();
    let middle = |block: usize| {
        let places: Vec<[f64; 2]> = targets.row(block).iter().map(place).collect();
        let center = [0, 1].map(|axis| places.iter().map(|place| place[axis]).sum::<f64>() / n as f64);
        let distance = |k: &usize| apart(places[*k], center);
        let nearest = (0..n).min_by(|a, b| distance(a).total_cmp(&distance(b)));
        block * n + nearest.expect("a block of at least one token")
    };
    let middles: Vec<usize> = (0..targets.rows()).map(middle).collect();
    let Some(&first) = middles.first() else { return Vec::new() };
    let from_first = |at: &usize| apart(place(&targets.as_slice()[*at]), place(&targets.as_slice()[first]));
    let farthest = middles.into_iter().rev().max_by(|a, b| from_first(a).total_cmp(&from_first(b)));
    [first].into_iter().chain(farthest.filter(|at| from_first(at) > 0.0)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_the_middles_of_two_distant_blocks() {
        // On a grid of 6: 3 × 3 around (1, 1), 3 × 3 around (2, 2), 3 × 3 around (4, 3).
        let block = |top: u32, left: u32| -> Vec<u32> { (0..9).map(|i| (top + i / 3) * 6 + left + i % 3).collect() };
        let at = |targets: &Indices| -> Vec<u32> {
            queries(targets, 6).into_iter().map(|at| targets.as_slice()[at]).collect()
        };
        assert_eq!(at(&Indices::from_rows(&[block(0, 0), block(1, 1), block(3, 2)])), [7, 27]);
        // All at one place; a single block, of an even width: the first of those nearest to its middle.
        assert_eq!(at(&Indices::from_rows(&[block(0, 0), block(0, 0)])), [7]);
        assert_eq!(at(&Indices::from_rows(&[vec![8, 9, 14, 15]])), [8]);
    }
}
