//! MAE (He et al., CVPR 2022): predict the pixels of randomly masked patches.
//!
//! The official decoder puts the tokens back in raster order before it adds positions; as it is equivariant to
//! their order, it is enough that every token gets the position it came from, and the masked ones may stand last.

use super::model::Chunk;
use crate::autograd::{Var, ops};
use crate::nn::Weights;
use crate::paper::{context_token, masked_token};
use crate::tensor::Tensor;
use crate::vit::Predictor;

/// ε of the per-patch normalisation, added to the variance.
const PATCH_EPS: f64 = 1e-6;

/// What the decoder sees: the class token and the kept patches, projected (Eq. 1); the mask token at the removed
/// positions (Eq. 2).
pub fn tokens(decoder: &Predictor, phi: &Weights, s_x: &Var, chunk: &Chunk) -> (Var, Var) {
    let psi = &phi[decoder.position]; // [1, 1 + K, d_p], the class token's zeros first
    let patches = psi.shape()[1] - 1;
    let (class, grid) = (ops::slice_tokens(psi, 0, 1), ops::slice_tokens(psi, 1, patches));
    let rows = chunk.context.rows();
    let kept = ops::gather_tokens(&grid, &chunk.context);
    let psi_x = ops::concat_tokens(&[&ops::repeat_batch(&class, rows), &kept]);
    let c = context_token(&psi_x, &phi[decoder.embed.weight], s_x, Some(&phi[decoder.embed.bias]));
    (c, masked_token(&ops::gather_tokens(&grid, &chunk.targets), &phi[decoder.mask_token]))
}

/// What it should answer: the pixels of the removed patches, (py, px, c) inside a patch, \[R, N_t, 3p²\].
///
/// With `normalize`, each patch minus its mean, over √(variance + 10⁻⁶); the variance is the unbiased one, as the
/// official code computes it.
pub fn targets(patch: usize, normalize: bool, chunk: &Chunk) -> Var {
    let images = Var::constant(chunk.images.clone());
    let pixels = ops::gather_tokens(&ops::patchify(&images, patch, ops::PatchOrder::ChannelLast), &chunk.targets);
    if !normalize {
        return pixels;
    }
    // layer_norm divides by √(v n/n + ε) with the biased v; scaling ε and the result turns that into √(v n/(n−1) + ε).
    let n = pixels.value().last_dim() as f64;
    let unbias = (n - 1.0) / n;
    let normal: Tensor = ops::layer_norm(&pixels, None, PATCH_EPS * unbias).value().scaled(unbias.sqrt());
    normal.into()
}
