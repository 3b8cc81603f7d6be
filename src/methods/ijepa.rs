//! I-JEPA (Assran et al., CVPR 2023): predict the features of masked blocks, at known positions.

use super::model::Chunk;
use crate::autograd::{Var, ops};
use crate::nn::Weights;
use crate::paper::{context_token, masked_token};
use crate::vit::{Encoder, Predictor};

/// ε of the targets' normalization: the default of PyTorch's `layer_norm`, which the official code leaves as it is.
const TARGET_EPS: f64 = 1e-5;

/// What the predictor sees, Eqs. (1) and (2): cᵢ = ψᵢ + B s_{xᵢ} + b, m_j = ψ_j + m.
///
/// The bias b is the official code's; see [`context_token`].
pub fn tokens(predictor: &Predictor, phi: &Weights, s_x: &Var, chunk: &Chunk) -> (Var, Var) {
    let psi = &phi[predictor.position];
    let (b, bias, m) = (&phi[predictor.embed.weight], &phi[predictor.embed.bias], &phi[predictor.mask_token]);
    let c = context_token(&ops::gather_tokens(psi, &chunk.context), b, s_x, Some(bias));
    let masked = masked_token(&ops::gather_tokens(psi, &chunk.targets), m);
    (c, masked)
}

/// What it should answer: s_y, the averaged encoder's features of the whole image, each token normalized on its own
/// (no γ, β; ε = 10⁻⁵), at the target positions. With K > 1, the mean over the last K blocks first.
///
/// Stop-gradient needs no word here: `averaged` holds constants, so nothing is recorded.
pub fn targets(encoder: &Encoder, averaged: &Weights, target_blocks: usize, chunk: &Chunk) -> Var {
    let images = Var::constant(chunk.images.clone());
    let mut outputs = encoder.last_blocks(averaged, &images, None, target_blocks).into_iter();
    let first = outputs.next().expect("last_blocks gives at least one");
    let mean = match target_blocks {
        1 => first,
        k => ops::scale(&outputs.fold(first, |sum, x| ops::add(&sum, &x)), 1.0 / k as f64),
    };
    let normal = ops::layer_norm(&mean, None, TARGET_EPS);
    ops::gather_tokens(&normal, &chunk.targets)
}
