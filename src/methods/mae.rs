//! MAE (He et al., CVPR 2022): predict the pixels of randomly masked patches.
//!
//! The official decoder puts the tokens back in raster order before it adds positions; as it is equivariant to
//! their order, it is enough that every token gets the position it came from, and the masked ones may stand last.
//!
//! With a σ, its masked tokens stand at stochastic positions (Eq. 6), which the StoP paper reports to have tried without
//! success (§6, p. 8); it does not say how. Here A is the decoder's own embedding, m its mask token, and the context, the class
//! token included, is embedded as without noise.

use rand::Rng;

use super::config::{ModelConfig, Networks};
use super::{Chunk, MaskedPrediction, Method, ModelParams, ModelWeights, Numbers, Recording};
use crate::autograd::{Var, ops};
use crate::nn::{Role, Weights};
use crate::paper::{Loss, Sigma, context_token, masked_token, tied_tokens};
use crate::tensor::{DType, Tensor};
use crate::vit::{Encoder, Names, Predictor};

/// ε of the per-patch normalization, added to the variance.
const PATCH_EPS: f64 = 1e-6;

/// Deterministic positions, random masks; targets are pixels.
#[derive(Clone, Debug)]
pub struct Mae {
    config: ModelConfig,
    encoder: Encoder,
    decoder: Predictor,
    normalize_patches: bool,
    sigma: Option<Sigma>,
}

impl Mae {
    /// The method with fresh parameters: `encoder` and `predictor` (the decoder), which share the prefix `model` in files.
    /// With `normalize_patches`, each target patch is normalized by its own mean and variance; with `sigma`, masked tokens
    /// stand at stochastic positions.
    pub fn new(
        config: &ModelConfig,
        (normalize_patches, sigma): (bool, Option<Sigma>),
        dtype: DType,
        rng: &mut impl Rng,
    ) -> (Self, ModelParams) {
        let pixels = config.encoder.channels * config.encoder.patch_size.pow(2);
        let networks = Networks::new(config, pixels, Names::Decoder, Role::Trained, dtype, rng);
        let (encoder, decoder) = (networks.encoder.clone(), networks.predictor.clone());
        let method = Mae { config: config.clone(), encoder, decoder, normalize_patches, sigma };
        (method, networks.under_one_prefix("model"))
    }
}

impl Method for Mae {
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
        self.sigma
    }

    fn numbers(&self, params: &ModelParams, _: &[Tensor]) -> Numbers<Tensor> {
        self.norms(params)
    }

    fn config(&self) -> Option<&ModelConfig> {
        Some(&self.config)
    }

    fn as_masked_prediction(&self) -> Option<&dyn MaskedPrediction> {
        Some(self)
    }
}

impl MaskedPrediction for Mae {
    fn predictor(&self) -> &Predictor {
        &self.decoder
    }

    /// The class token and the kept patches, projected (Eq. 1); the mask token at the removed positions (Eq. 2). With noise n,
    /// the chunk's: cᵢ = A s_{xᵢ} + ψᵢ + b, m_j = A n_j + ψ_j + m (Eq. 6), with b the decoder's bias.
    fn tokens(&self, phi: &Weights, s_x: &Var, chunk: &Chunk) -> (Var, Var) {
        let g = &self.decoder;
        let psi = &phi[g.position]; // [1, 1 + K, d_p], the class token's zeros first
        let patches = psi.shape()[1] - 1;
        let (class, grid) = (ops::slice_tokens(psi, 0, 1), ops::slice_tokens(psi, 1, patches));
        let rows = chunk.context().rows();
        let kept = ops::gather_tokens(&grid, chunk.context());
        let psi_x = ops::concat_tokens(&[&ops::repeat_batch(&class, rows), &kept]);
        let psi_y = ops::gather_tokens(&grid, chunk.targets());
        let (a, bias, m) = (&phi[g.embed.weight], &phi[g.embed.bias], &phi[g.mask_token]);
        if self.sigma.is_none() {
            return (context_token(&psi_x, a, s_x, Some(bias)), masked_token(&psi_y, m));
        }
        let noise = Var::constant(chunk.noise.clone().expect("MAE with a σ needs noise: the chunk has none"));
        tied_tokens(a, (s_x, &psi_x), (&noise, &psi_y), m, Some(bias))
    }

    fn targets(&self, _: &ModelWeights, chunk: &Chunk) -> Var {
        targets(self.config.encoder.patch_size, self.normalize_patches, chunk)
    }

    fn loss(&self) -> Loss {
        Loss::SquaredError
    }

    fn pixels(&self, chunk: &Chunk, predictions: &Tensor) -> Option<Tensor> {
        Some(reconstruction(self.config.encoder.patch_size, self.normalize_patches, chunk, predictions))
    }
}

/// s_y: the pixels of the removed patches, (py, px, c) inside a patch, \[R, N_t, C p²\].
///
/// With `normalize`, each patch minus its mean, over √(variance + 10⁻⁶); the variance is the unbiased one, as the
/// official code computes it.
pub fn targets(patch: usize, normalize: bool, chunk: &Chunk) -> Var {
    let images = Var::constant(chunk.images().clone());
    let pixels = ops::gather_tokens(&ops::patchify(&images, patch, ops::PatchOrder::ChannelLast), chunk.targets());
    if !normalize {
        return pixels;
    }
    // layer_norm divides by √(v n/n + ε) with the biased v; scaling ε and the result turns that into √(v n/(n−1) + ε).
    let n = pixels.value().last_dim() as f64;
    let unbias = (n - 1.0) / n;
    let normal: Tensor = ops::layer_norm(&pixels, None, PATCH_EPS * unbias).value().scaled(unbias.sqrt());
    normal.into()
}

/// The images \[b, C, S, S\] with the predictions \[R, N_t, C p²\] in the place of their removed patches: what undoes
/// [`targets`]. Of a patch that several target blocks predict the last is shown.
///
/// With `normalize` a prediction says how a patch varies about its mean, in its standard deviations, and neither of the
/// two: they are taken from the true patch, as the official demonstration does.
///
/// # Panics
/// When there are not as many predictions as removed patches.
#[track_caller]
pub fn reconstruction(patch: usize, normalize: bool, chunk: &Chunk, predictions: &Tensor) -> Tensor {
    let [rows, removed, width] = predictions.dims("reconstruction: predictions");
    assert_eq!((rows, removed), (chunk.targets().rows(), chunk.targets().per_row()), "reconstruction: predictions");
    let (images, order) = (Var::constant(chunk.images().clone()), ops::PatchOrder::ChannelLast);
    let [b, channels, height, side] = images.dims("reconstruction: images");
    let patches = ops::patchify(&images, patch, order);
    let (shape, truth) = (*patches.shape(), patches.value().to_f64_vec());
    let mut pixels = truth.clone();
    // Target block by target block, inside each image by image.
    let places = (0..rows).flat_map(|r| chunk.targets().row(r).iter().map(move |&t| r % b * shape[1] + t as usize));
    for (place, predicted) in places.zip(predictions.to_f64_vec().chunks_exact(width)) {
        let place = place * width..(place + 1) * width;
        let (mean, std) = if normalize { moments(&truth[place.clone()]) } else { (0.0, 1.0) };
        pixels[place].iter_mut().zip(predicted).for_each(|(pixel, predicted)| *pixel = mean + std * predicted);
    }
    let patches = Tensor::from_fn(shape, images.dtype(), |i| pixels[i]);
    ops::unpatchify(&patches.into(), [channels, height, side], patch, order).value().clone()
}

/// What [`targets`] takes off a patch, and what it divides by.
fn moments(pixels: &[f64]) -> (f64, f64) {
    let n = pixels.len() as f64;
    let mean = pixels.iter().sum::<f64>() / n;
    let variance = pixels.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / (n - 1.0);
    (mean, (variance + PATCH_EPS).sqrt())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::{Purpose, stream};
    use crate::tensor::{DType, Indices};

    #[test]
    fn the_right_answers_give_the_images_back() {
        let images = Tensor::normal([2, 3, 8, 12], 1.0, DType::F64, &mut stream(1, Purpose::Eval, [0, 0]));
        // Two target blocks, of which each removes patch 2 of the second image.
        let targets = Indices::from_rows(&[vec![5, 0], vec![1, 2], vec![3, 4], vec![2, 0]]);
        let chunk = Chunk::masked(images.clone(), Indices::all(2, 1), targets.clone(), None);
        for normalize in [false, true] {
            let answers = super::targets(4, normalize, &chunk).value().clone();
            assert!(reconstruction(4, normalize, &chunk, &answers).max_abs_diff(&images) < 1e-12);

            // Wrong ones change the removed patches, and no other pixel. Normalized, 0 is the mean of the patch.
            let zeros = Tensor::zeros(*answers.shape(), DType::F64);
            let found = reconstruction(4, normalize, &chunk, &zeros);
            let (found, images) = (found.to_f64_vec(), images.to_f64_vec());
            for (i, (found, pixel)) in found.iter().zip(&images).enumerate() {
                let (b, y, x) = (i / 288, i / 12 % 8, i % 12);
                let token = (y / 4 * 3 + x / 4) as u32;
                let removed = targets.row(b).contains(&token) || targets.row(2 + b).contains(&token);
                assert_eq!(removed, found != pixel, "normalize {normalize}, pixel {i}");
            }
            let patch = |c: usize| (0..16).map(move |k| c * 96 + k / 4 * 12 + k % 4); // patch 0 of the first image
            let mean = (0..3).flat_map(patch).map(|i| images[i]).sum::<f64>() / 48.0;
            let expected = if normalize { mean } else { 0.0 };
            assert!((0..3).flat_map(patch).all(|i| (found[i] - expected).abs() < 1e-12));
        }
    }
}
