//! The predictor g_φ: context tokens and masked tokens in, predictions for the masked tokens out.
//!
//! It takes tokens that are made already: how, is what the paper is about, and stands in [`crate::paper`]. MAE's
//! decoder is the same network under other names.

use rand::Rng;

use super::block::Block;
use super::config::{MLP_RATIO, PredictorConfig};
use super::sincos;
use crate::autograd::{Var, ops};
use crate::nn::{Init, LayerNorm, Linear, NORMAL_STD, ParamId, Role, Weights};
use crate::tensor::Tensor;

/// What the official code calls a predictor's parameters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Names {
    /// `predictor_embed`, `predictor_blocks`, …: I-JEPA and StoP.
    Predictor,
    /// `decoder_embed`, `decoder_blocks`, …: MAE. Its position table starts with the class token's zeros.
    Decoder,
}

/// A narrow ViT over context and masked tokens.
#[derive(Clone, Debug)]
pub struct Predictor {
    /// `predictor_embed`: its weight is B of Eq. 1 and A of Eq. 6.
    pub embed: Linear,
    /// `mask_token`: m of Eq. 2, \[1, 1, d_p\].
    pub mask_token: ParamId,
    /// ψ, \[1, K, d_p\] (for MAE \[1, 1 + K, d_p\]).
    pub position: ParamId,
    blocks: Vec<Block>,
    norm: LayerNorm,
    project: Linear,
}

impl Predictor {
    /// A predictor with fresh parameters from features of width `inputs` on a `grid` × `grid` image to predictions of
    /// width `outputs`, with the mask token in this role.
    pub fn new(
        config: &PredictorConfig,
        (inputs, outputs): (usize, usize),
        grid: usize,
        names: Names,
        mask_token: Role,
        init: &mut Init<'_, impl Rng>,
    ) -> Self {
        let dim = config.dim;
        let (prefix, project, zeros) = match names {
            Names::Predictor => ("predictor", "predictor_proj", 0),
            Names::Decoder => ("decoder", "decoder_pred", dim),
        };
        let embed = Linear {
            weight: init.normal(format!("{prefix}_embed.weight"), [dim, inputs], config.embed_std, Role::Trained),
            bias: init.full(format!("{prefix}_embed.bias"), [dim], 0.0),
        };
        let mask_token = init.normal("mask_token", [1, 1, dim], NORMAL_STD, mask_token);
        let tokens = grid * grid + zeros / dim;
        let position = format!("{prefix}_pos_embed");
        let position = if config.learned_positions {
            init.normal(position, [1, tokens, dim], NORMAL_STD, Role::Trained)
        } else {
            let table = [vec![0.0; zeros], sincos::positions(dim, grid, grid)].concat();
            init.params.add(position, Tensor::new([1, tokens, dim], table).to_dtype(init.dtype), Role::Fixed)
        };
        let block = |i| format!("{prefix}_blocks.{i}");
        let blocks =
            (0..config.depth).map(|i| Block::new(init, &block(i), dim, config.heads, MLP_RATIO * dim)).collect();
        let norm = init.layer_norm(&format!("{prefix}_norm"), dim);
        Predictor { embed, mask_token, position, blocks, norm, project: init.linear(project, dim, outputs) }
    }

    /// ŝ_y = g_φ(c, m): context tokens \[R, N_c, d_p\] and masked tokens \[R, N_t, d_p\] → \[R, N_t, outputs\].
    #[track_caller]
    pub fn forward(&self, w: &Weights, context: &Var, masked: &Var) -> Var {
        let (start, len) = (context.shape()[1], masked.shape()[1]);
        let (last, blocks) = self.blocks.split_last().expect("a predictor has blocks");
        let x = through(blocks, w, &ops::concat_tokens(&[context, masked]));
        self.head(w, &last.forward_some(w, &x, start, len))
    }

    /// What the predictor answers at every one of these tokens, \[R, N, d_p\] → \[R, N, outputs\].
    #[track_caller]
    pub fn forward_all(&self, w: &Weights, tokens: &Var) -> Var {
        self.head(w, &through(&self.blocks, w, tokens))
    }

    fn head(&self, w: &Weights, x: &Var) -> Var {
        self.project.read(w, self.norm.input(w, x), None)
    }
}

fn through(blocks: &[Block], w: &Weights, x: &Var) -> Var {
    blocks.iter().fold(x.clone(), |x, block| block.forward(w, &x))
}
