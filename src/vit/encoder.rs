//! The encoder f_θ: patches, plus positions, through blocks, to features.

use rand::Rng;

use super::block::Block;
use super::config::EncoderConfig;
use super::sincos;
use crate::autograd::{Var, ops};
use crate::nn::{Init, LayerNorm, NORMAL_STD, ParamId, Role, Weights};
use crate::tensor::{Indices, Tensor};

/// A ViT encoder without a head. It holds places of parameters, not their values: with the context encoder's
/// [`Weights`] it is f_θ, with the target encoder's it is its moving average.
#[derive(Clone, Debug)]
pub struct Encoder {
    config: EncoderConfig,
    class_token: Option<ParamId>,
    position: ParamId,
    patch_weight: ParamId,
    patch_bias: ParamId,
    blocks: Vec<Block>,
    norm: LayerNorm,
}

impl Encoder {
    /// An encoder with fresh parameters, in the official order and under the official names.
    pub fn new(config: &EncoderConfig, init: &mut Init<'_, impl Rng>) -> Self {
        let EncoderConfig { patch_size: p, dim, heads, .. } = *config;
        let class_token = config.class_token.then(|| init.normal("cls_token", [1, 1, dim], NORMAL_STD, Role::Trained));
        let mut table = vec![0.0; if config.class_token { dim } else { 0 }]; // the class token has no position
        table.extend(sincos::positions(dim, config.grid(), config.grid()).iter().map(|x| x * config.position_scale));
        let tokens = table.len() / dim;
        let table = Tensor::new([1, tokens, dim], table).to_dtype(init.dtype);
        Encoder {
            config: config.clone(),
            class_token,
            position: init.params.add("pos_embed", table, Role::Fixed),
            patch_weight: init.normal("patch_embed.proj.weight", [dim, 3, p, p], config.patch_std, Role::Trained),
            patch_bias: init.full("patch_embed.proj.bias", [dim], 0.0),
            blocks: (0..config.depth)
                .map(|i| Block::new(init, &format!("blocks.{i}"), dim, heads, config.mlp_dim()))
                .collect(),
            norm: init.layer_norm("norm", dim),
        }
    }

    /// The sizes.
    pub fn config(&self) -> &EncoderConfig {
        &self.config
    }

    /// γ of the last layer norm, the one through which the noise of StoP can be escaped from.
    pub fn last_norm(&self) -> ParamId {
        self.norm.weight
    }

    /// pᵢ = W vec(p̂ᵢ) + b + ψᵢ for the tokens to `keep`, after the class token if there is one.
    fn embed(&self, w: &Weights, images: &Var, keep: Option<&Indices>) -> Var {
        let EncoderConfig { patch_size: p, dim, .. } = self.config;
        let pick = |x: &Var| match keep {
            Some(keep) => ops::gather_tokens(x, keep),
            None => x.clone(),
        };
        // Picking before projecting: what nobody sees is not computed.
        let patches = pick(&ops::patchify(images, p, ops::PatchOrder::ChannelFirst)); // [B, N, 3p²]
        let kernel = ops::reshape(&w[self.patch_weight], [dim, 3 * p * p]);
        let x = ops::linear(&patches, &kernel, Some(&w[self.patch_bias])); // [B, N, D]
        let Some(class_token) = self.class_token else { return ops::add(&x, &pick(&w[self.position])) };
        let first = ops::slice_tokens(&w[self.position], 0, 1);
        let rest = ops::slice_tokens(&w[self.position], 1, self.config.patches());
        let class = ops::repeat_batch(&ops::add(&w[class_token], &first), x.shape()[0]); // [B, 1, D]
        ops::concat_tokens(&[&class, &ops::add(&x, &pick(&rest))])
    }

    /// Features s = f_θ(x): images \[B, 3, S, S\] → \[R, N, D\] after the last norm.
    ///
    /// With `keep` (R rows, a multiple of B: several masks of each image) only those N tokens enter; without, all do
    /// and R = B. A class token, where there is one, comes first and makes N one larger.
    ///
    /// # Panics
    /// When the images are not of the configured size.
    #[track_caller]
    pub fn forward(&self, w: &Weights, images: &Var, keep: Option<&Indices>) -> Var {
        self.last_blocks(w, images, keep, 1).swap_remove(0)
    }

    /// The outputs of the last `k` blocks, each through the last norm, the deepest at the end.
    ///
    /// # Panics
    /// When the images are not of the configured size, or there are fewer than `k` blocks.
    #[track_caller]
    pub fn last_blocks(&self, w: &Weights, images: &Var, keep: Option<&Indices>, k: usize) -> Vec<Var> {
        let [_, channels, height, width] = images.dims("encoder: images");
        let side = self.config.image_size;
        let fits = [channels, height, width] == [3, side, side];
        assert!(fits, "encoder: images of {} for a model of [B, 3, {side}, {side}]", images.shape());
        assert!(k >= 1 && k <= self.blocks.len(), "encoder: the last {k} of {} blocks", self.blocks.len());
        let mut x = self.embed(w, images, keep);
        let mut outputs = Vec::with_capacity(k);
        for (i, block) in self.blocks.iter().enumerate() {
            x = block.forward(w, &x);
            if i + k >= self.blocks.len() {
                outputs.push(self.norm.forward(w, &x));
            }
        }
        outputs
    }
}
