//! The encoder f_θ: patches, plus positions, through blocks, to features.

use rand::Rng;

use super::block::Block;
use super::config::EncoderConfig;
use super::{positions, sincos};
use crate::autograd::{Var, ops};
use crate::nn::{Init, LayerNorm, NORMAL_STD, ParamId, Params, Role, Weights};
use crate::tensor::{DType, Indices, Tensor};

/// Which tokens an encoder sees.
#[derive(Clone, Copy, Debug)]
pub enum Visible<'a> {
    /// All of them.
    All,
    /// These, and no others enter: R rows, a multiple of the images (several masks of each).
    Only(&'a Indices),
    /// All but these, which are replaced by the encoder's mask token before positions are added: a row for each image.
    Except(&'a Indices),
}

impl<'a> From<Option<&'a Indices>> for Visible<'a> {
    fn from(keep: Option<&'a Indices>) -> Self {
        keep.map_or(Visible::All, Visible::Only)
    }
}

/// A ViT encoder without a head. It holds places of parameters, not their values: with the context encoder's
/// [`Weights`] it is f_θ, with the target encoder's it is its moving average.
#[derive(Clone, Debug)]
pub struct Encoder {
    config: EncoderConfig,
    /// Rows and columns of patches in an image.
    grid: [usize; 2],
    class_token: Option<ParamId>,
    mask_token: Option<ParamId>,
    position: ParamId,
    patch_weight: ParamId,
    patch_bias: ParamId,
    blocks: Vec<Block>,
    norm: LayerNorm,
}

impl Encoder {
    /// An encoder with fresh parameters, in the official order and under the official names.
    pub fn new(config: &EncoderConfig, init: &mut Init<'_, impl Rng>) -> Self {
        let EncoderConfig { patch_size: p, channels, dim, heads, .. } = *config;
        let mut token = |name| init.normal(name, [1, 1, dim], NORMAL_STD, Role::Trained);
        let class_token = config.class_token.then(|| token("cls_token"));
        let mask_token = config.mask_token.then(|| token("mask_token"));
        let mut table = vec![0.0; if config.class_token { dim } else { 0 }]; // the class token has no position
        table.extend(sincos::positions(dim, config.grid(), config.grid()).iter().map(|x| x * config.position_scale));
        let tokens = table.len() / dim;
        let table = Tensor::new([1, tokens, dim], table).to_dtype(init.dtype);
        Encoder {
            config: config.clone(),
            grid: [config.grid(); 2],
            class_token,
            mask_token,
            position: init.params.add("pos_embed", table, Role::Fixed),
            patch_weight: init.normal(
                "patch_embed.proj.weight",
                [dim, channels, p, p],
                config.patch_std,
                Role::Trained,
            ),
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

    /// This encoder for images of so many rows and columns of patches, as frames of a video have, and its parameters: those
    /// of `params`, shared, but for the positions, which are interpolated as in the official code (bicubic).
    ///
    /// # Panics
    /// When this encoder is one that was made so, or there is no patch.
    #[track_caller]
    pub fn for_grid(&self, params: &Params, [rows, columns]: [usize; 2]) -> (Encoder, Params) {
        let (from, dim) = (self.config.grid(), self.config.dim);
        assert!(self.grid == [from; 2], "encoder: interpolated positions are not interpolated again");
        assert!(rows > 0 && columns > 0, "encoder: a grid of {rows} × {columns} patches");
        let (mut encoder, mut params) = (self.clone(), params.clone());
        if [rows, columns] != self.grid {
            let table = params.value_mut(self.position);
            let f32s = table.to_dtype(DType::F32);
            let (class, patches) = f32s.as_slice().split_at(if self.class_token.is_some() { dim } else { 0 });
            let new = [class, &positions::interpolate(patches, dim, from, [rows, columns])].concat();
            let tokens = new.len() / dim;
            // In a recycled buffer, as this is done for every frame of a video.
            let new = Tensor::from_fn([1, tokens, dim], table.dtype(), |i| f64::from(new[i]));
            *table = new.to_device(table.device());
            encoder.grid = [rows, columns];
        }
        (encoder, params)
    }

    /// γ of the last layer norm, the one through which the noise of StoP can be escaped from.
    pub fn last_norm(&self) -> ParamId {
        self.norm.weight
    }

    /// What stands in the place of masked patches, if it has one.
    pub fn mask_token(&self) -> Option<ParamId> {
        self.mask_token
    }

    fn patches(&self) -> usize {
        self.grid[0] * self.grid[1]
    }

    /// pᵢ = W vec(p̂ᵢ) + b + ψᵢ for the visible tokens, after the class token if there is one.
    fn embed(&self, w: &Weights, images: &Var, visible: Visible<'_>) -> Var {
        let EncoderConfig { patch_size: p, channels, dim, .. } = self.config;
        let pick = |x: &Var| match visible {
            Visible::Only(keep) => ops::gather_tokens(x, keep),
            Visible::All | Visible::Except(_) => x.clone(),
        };
        let here = images.to_device(w[self.patch_weight].device());
        // Picking before projecting: what nobody sees is not computed.
        let patches = pick(&ops::patchify(&here, p, ops::PatchOrder::ChannelFirst)); // [B, N, C p²]
        let kernel = ops::reshape(&w[self.patch_weight], [dim, channels * p * p]);
        let mut x = ops::linear(&patches, &kernel, Some(&w[self.patch_bias])); // [B, N, D]
        if let Visible::Except(masked) = visible {
            let token = &w[self.mask_token.expect("encoder: masked tokens, but EncoderConfig::mask_token is false")];
            let [mask, rest] = masks(masked, self.patches(), &x);
            x = ops::add(&ops::mul(&x, &rest), &ops::mul(token, &mask));
        }
        let Some(class_token) = self.class_token else { return ops::add(&x, &pick(&w[self.position])) };
        let first = ops::slice_tokens(&w[self.position], 0, 1);
        let rest = ops::slice_tokens(&w[self.position], 1, self.patches());
        let class = ops::repeat_batch(&ops::add(&w[class_token], &first), x.shape()[0]); // [B, 1, D]
        ops::concat_tokens(&[&class, &ops::add(&x, &pick(&rest))])
    }

    /// Features s = f_θ(x): images \[B, C, S, S\] → \[R, N, D\] after the last norm, of the tokens that are
    /// [visible](Visible). A class token, where there is one, comes first and makes N one larger.
    ///
    /// # Panics
    /// When the images are not of the configured size.
    #[track_caller]
    pub fn forward<'a>(&self, w: &Weights, images: &Var, visible: impl Into<Visible<'a>>) -> Var {
        self.last_blocks(w, images, visible, 1).swap_remove(0)
    }

    /// [`forward`](Self::forward) of every token, with what the two branches of each block add multiplied by `scales`,
    /// \[B, 1, 1\] each: stochastic depth (Huang et al., ECCV 2016), where 0 leaves an image without the branch.
    ///
    /// # Panics
    /// When the images are not of the configured size, or there is not a pair of scales for each block.
    #[track_caller]
    pub fn forward_scaled(&self, w: &Weights, images: &Var, scales: &[[Var; 2]]) -> Var {
        self.check(images);
        assert_eq!(scales.len(), self.blocks.len(), "encoder: scales of the branches of each block");
        let x = self.embed(w, images, Visible::All);
        let x = self.blocks.iter().zip(scales).fold(x, |x, (block, scales)| block.forward_scaled(w, &x, scales));
        self.norm.forward(w, &x)
    }

    /// The outputs of the last `k` blocks, each through the last norm, the deepest at the end.
    ///
    /// # Panics
    /// When the images are not of the configured size, or there are fewer than `k` blocks.
    #[track_caller]
    pub fn last_blocks<'a>(&self, w: &Weights, images: &Var, visible: impl Into<Visible<'a>>, k: usize) -> Vec<Var> {
        let blocks = self.last_blocks_before_norm(w, images, visible, k);
        blocks.iter().map(|x| self.norm.forward(w, x)).collect()
    }

    /// The outputs of the last `k` blocks as they are, the deepest at the end.
    ///
    /// # Panics
    /// As [`last_blocks`](Self::last_blocks).
    #[track_caller]
    pub fn last_blocks_before_norm<'a>(
        &self,
        w: &Weights,
        images: &Var,
        visible: impl Into<Visible<'a>>,
        k: usize,
    ) -> Vec<Var> {
        self.check(images);
        assert!(k >= 1 && k <= self.blocks.len(), "encoder: the last {k} of {} blocks", self.blocks.len());
        let mut x = self.embed(w, images, visible.into());
        let mut outputs = Vec::with_capacity(k);
        for (i, block) in self.blocks.iter().enumerate() {
            x = block.forward(w, &x);
            if i + k >= self.blocks.len() {
                outputs.push(x.clone());
            }
        }
        outputs
    }

    #[track_caller]
    fn check(&self, images: &Var) {
        let [_, channels, height, width] = images.dims("encoder: images");
        let EncoderConfig { patch_size, channels: c, .. } = self.config;
        let [h, across] = self.grid.map(|patches| patches * patch_size);
        let fits = [channels, height, width] == [c, h, across];
        assert!(fits, "encoder: images of {} for a model of [B, {c}, {h}, {across}]", images.shape());
    }
}

/// 1 at the masked tokens and 0 at the others, and the other way round: \[B, N, 1\] each.
fn masks(masked: &Indices, tokens: usize, x: &Var) -> [Var; 2] {
    let mut mask = vec![0.0; masked.rows() * tokens];
    for (row, mask) in mask.chunks_exact_mut(tokens.max(1)).enumerate() {
        masked.row(row).iter().for_each(|&token| mask[token as usize] = 1.0);
    }
    let shape = [masked.rows(), tokens, 1];
    [false, true].map(|rest| {
        let mask = Tensor::from_fn(shape, x.dtype(), |i| if rest { 1.0 - mask[i] } else { mask[i] });
        mask.to_device(x.value().device()).into()
    })
}

#[cfg(test)]
mod tests {
    use super::super::Preset;
    use super::*;
    use crate::nn::{LinearInit, Params};
    use crate::rng::{Purpose, stream};
    use crate::tensor::DType;

    fn encoder(mask_token: bool) -> (Encoder, Params) {
        let sizes = EncoderConfig {
            image_size: 4,
            patch_size: 2,
            channels: 2,
            dim: 4,
            depth: 1,
            heads: 2,
            mask_token,
            ..Preset::Toy.sizes().0
        };
        let (mut params, mut rng) = (Params::new(), stream(1, Purpose::Init, [0, 0]));
        let mut init = Init { params: &mut params, rng: &mut rng, dtype: DType::F64, linear: LinearInit::Xavier };
        let encoder = Encoder::new(&sizes, &mut init);
        assert_eq!(sizes.elements(), params.elements() as u64);
        (encoder, params)
    }

    fn images(seed: u64) -> Tensor {
        Tensor::normal([2, 2, 4, 4], 1.0, DType::F64, &mut stream(seed, Purpose::Eval, [0, 0]))
    }

    /// What stands at a masked token is no matter; what stands at another is.
    #[test]
    fn masked_tokens_are_replaced() {
        let (encoder, params) = encoder(true);
        let w = params.constants();
        let masked = Indices::from_rows(&[vec![0, 3], vec![1, 3]]);
        let features = |images: &Tensor| {
            encoder.forward(&w, &images.clone().into(), Visible::Except(&masked)).value().to_f64_vec()
        };
        let (one, other) = (images(1), images(2));
        // Patch 3, the last, is masked in both images: its pixels may be any.
        let mixed = |patch: usize| {
            let (one, other) = (one.to_f64_vec(), other.to_f64_vec());
            let patch_of = |i: usize| i / 4 % 4 / 2 * 2 + i % 4 / 2;
            Tensor::from_fn([2, 2, 4, 4], DType::F64, |i| if patch_of(i) == patch { other[i] } else { one[i] })
        };
        assert_eq!(features(&one), features(&mixed(3)));
        assert_ne!(features(&one), features(&mixed(2)));
        let all = encoder.forward(&w, &one.clone().into(), None).value().to_f64_vec();
        assert_ne!(features(&one), all);
        assert_eq!(features(&one).len(), all.len());
        let nothing = Indices::from_rows(&[vec![], vec![]]);
        let unmasked = encoder.forward(&w, &one.into(), Visible::Except(&nothing)).value().to_f64_vec();
        assert_eq!(unmasked, all);
    }
}
