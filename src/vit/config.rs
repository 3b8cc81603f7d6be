//! Sizes of encoders and predictors, and the named presets.

/// The size of an encoder, and how it starts.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "checkpoint", derive(serde::Serialize, serde::Deserialize), serde(deny_unknown_fields))]
pub struct EncoderConfig {
    /// Side of the (square) images in pixels.
    pub image_size: usize,
    /// Side of a patch in pixels; divides `image_size`.
    pub patch_size: usize,
    /// Channels of an image: 3 for color.
    pub channels: usize,
    /// Width of a token, d_e.
    pub dim: usize,
    /// Number of blocks.
    pub depth: usize,
    /// Attention heads; divides `dim`.
    pub heads: usize,
    /// Width of the hidden layer of a block's MLP, in widths of a token. Official: 4; ViT-g/16: 48/11.
    pub mlp_ratio: f64,
    /// Whether a class token stands before the patches (MAE).
    pub class_token: bool,
    /// Whether it has a token to put in the place of masked patches: for methods whose encoder sees every place.
    pub mask_token: bool,
    /// Standard deviation of the patch projection's initial weights. Official: 0.02, which leaves the content of a
    /// patch with a fifth of the position's amplitude.
    pub patch_std: f64,
    /// What the sine-cosine table is multiplied by. Official: 1.
    pub position_scale: f64,
}

/// The size of a predictor (I-JEPA, StoP) or decoder (MAE), and how it starts.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "checkpoint", derive(serde::Serialize, serde::Deserialize), serde(deny_unknown_fields))]
pub struct PredictorConfig {
    /// Width of a token, d_p.
    pub dim: usize,
    /// Number of blocks.
    pub depth: usize,
    /// Attention heads; divides `dim`.
    pub heads: usize,
    /// Whether ψ is learned (from random values) instead of the fixed sine-cosine table.
    pub learned_positions: bool,
    /// Standard deviation of the initial weights of `predictor_embed`, the matrix B (and A) of the paper. Official:
    /// 0.02.
    pub embed_std: f64,
}

/// The official [`EncoderConfig::mlp_ratio`]; that of predictors.
pub(super) const MLP_RATIO: usize = 4;

impl EncoderConfig {
    /// Patches along a side of the image.
    pub fn grid(&self) -> usize {
        self.image_size / self.patch_size
    }

    /// Patches in an image: K of the paper.
    pub fn patches(&self) -> usize {
        self.grid() * self.grid()
    }

    /// Width of the hidden layer of a block's MLP.
    pub fn mlp_dim(&self) -> usize {
        (self.dim as f64 * self.mlp_ratio).round() as usize
    }

    /// What makes these sizes impossible, if anything does.
    pub fn problem(&self) -> Option<String> {
        let EncoderConfig { image_size, patch_size, dim, heads, depth, .. } = *self;
        if patch_size == 0 || image_size == 0 || image_size % patch_size != 0 {
            return Some(format!("patches of {patch_size} pixels do not tile an image of {image_size}"));
        }
        if depth == 0 {
            return Some("an encoder needs at least one block".into());
        }
        if !(1..=LARGEST).contains(&self.channels) {
            return Some(format!("images of {} channels; choose from 1 to {LARGEST}", self.channels));
        }
        if image_size > LARGEST {
            return Some(format!("images of {image_size} pixels a side; {LARGEST} is the most"));
        }
        if dim <= LARGEST && !(1..=4 * LARGEST).contains(&self.mlp_dim()) {
            let (mlp_dim, most) = (self.mlp_dim(), 4 * LARGEST);
            return Some(format!("the MLPs of the encoder are {mlp_dim} wide; choose from 1 to {most}"));
        }
        size_problem("the encoder", dim, depth, heads)
    }
}

impl PredictorConfig {
    /// What makes these sizes impossible, if anything does.
    pub fn problem(&self) -> Option<String> {
        if self.depth == 0 {
            return Some("a predictor needs at least one block: without, masked tokens never meet the context".into());
        }
        size_problem("the predictor", self.dim, self.depth, self.heads)
    }
}

/// Image sides, widths and depths beyond this are slips of the hand; their products overflow.
const LARGEST: usize = 1 << 14;

fn size_problem(what: &str, dim: usize, depth: usize, heads: usize) -> Option<String> {
    if dim > LARGEST || depth > LARGEST {
        return Some(format!("{what} is {dim} wide and {depth} deep; {LARGEST} is the most of either"));
    }
    if dim == 0 || !dim.is_multiple_of(4) {
        return Some(format!("{what}'s width is {dim}; sine-cosine positions need a multiple of 4"));
    }
    if heads == 0 || !dim.is_multiple_of(heads) {
        return Some(format!("{what}'s {heads} heads do not divide its width {dim}"));
    }
    None
}

named! {
    /// Named sizes: this crate's `toy`, and the paper's ViTs with the predictors of its Tables 9 to 12.
    pub enum Preset: "preset" {
        /// For 32 × 32 images on a CPU; see docs/experiments.md for how it was found.
        Toy => "toy",
        /// ViT-T/16, with the predictor of ViT-B (the paper trains none).
        VitT16 => "vit-t16",
        /// ViT-S/16, with the predictor of ViT-B (the paper trains none).
        VitS16 => "vit-s16",
        /// ViT-B/16: Tables 9 and 10.
        VitB16 => "vit-b16",
        /// ViT-L/16: Table 11.
        VitL16 => "vit-l16",
        /// ViT-H/14: Table 12.
        VitH14 => "vit-h14",
        /// ViT-g/16 of I-JEPA, with the predictor that its official configuration has (the paper trains none).
        VitG16 => "vit-g16",
    }
}

impl From<Preset> for EncoderConfig {
    /// The sizes of the preset's encoder.
    fn from(preset: Preset) -> Self {
        preset.sizes().0
    }
}

impl Preset {
    /// The sizes of the encoder and the predictor.
    pub fn sizes(self) -> (EncoderConfig, PredictorConfig) {
        let official = |patch_size, dim, depth, heads, predictor_depth, predictor_heads| {
            let encoder = EncoderConfig {
                image_size: 224,
                patch_size,
                channels: 3,
                dim,
                depth,
                heads,
                mlp_ratio: MLP_RATIO as f64,
                class_token: false,
                mask_token: false,
                patch_std: 0.02,
                position_scale: 1.0,
            };
            let predictor = PredictorConfig {
                dim: 384,
                depth: predictor_depth,
                heads: predictor_heads,
                learned_positions: false,
                embed_std: 0.02,
            };
            (encoder, predictor)
        };
        match self {
            Preset::Toy => {
                let (encoder, predictor) = official(4, 128, 4, 2, 2, 2);
                // Weights of 1/√48 give a patch of 48 normalized pixels unit scale, above that of the positions: or else
                // the first targets say where a patch is, not what is in it. A of 1/√128 gives context tokens unit scale.
                let encoder = EncoderConfig { image_size: 32, patch_std: 0.144, ..encoder };
                (encoder, PredictorConfig { dim: 64, embed_std: 0.088, ..predictor })
            }
            Preset::VitT16 => official(16, 192, 12, 3, 6, 12),
            Preset::VitS16 => official(16, 384, 12, 6, 6, 12),
            Preset::VitB16 => official(16, 768, 12, 12, 6, 12),
            Preset::VitL16 => official(16, 1024, 24, 16, 12, 16),
            Preset::VitH14 => official(14, 1280, 32, 16, 12, 16),
            Preset::VitG16 => {
                let (encoder, predictor) = official(16, 1408, 40, 16, 16, 16);
                (EncoderConfig { mlp_ratio: 48.0 / 11.0, ..encoder }, predictor)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mlps_that_cannot_be() {
        for mlp_ratio in [0.0, -1.0, f64::NAN, f64::INFINITY, 1e300] {
            let problem = EncoderConfig { mlp_ratio, ..Preset::Toy.sizes().0 }.problem();
            assert!(problem.is_some_and(|problem| problem.contains("MLPs")), "{mlp_ratio}");
        }
        assert!(Preset::ALL.iter().all(|preset| preset.sizes().0.problem().is_none()));
    }
}
