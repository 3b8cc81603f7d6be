//! What decides a model of one of this crate's methods: sizes, initialization, and what is the method's own.

use std::fmt;
use std::sync::Arc;

use rand::Rng;

use super::stop::{StopNoise, TokenForm};
use super::{Data2vec, Ijepa, Mae, Method, ModelParams, Simmim, Stop, Update};
use crate::nn::{LinearInit, Params, Role, fresh};
use crate::paper::masking::{MultiBlock, random_masks, random_unit_masks};
use crate::paper::{Covariance, NoiseOn, Penalty, Sigma, TargetResolution};
use crate::tensor::{DType, Indices};
use crate::vit::{Encoder, EncoderConfig, Names, Predictor, PredictorConfig};
use crate::{Error, Result};

/// Which method of this crate, with what is its own.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(
    feature = "checkpoint",
    derive(serde::Serialize, serde::Deserialize),
    serde(rename_all = "kebab-case", deny_unknown_fields)
)]
pub enum MethodConfig {
    /// [`Ijepa`]
    Ijepa {
        /// The target is the mean over the last K blocks, each after the last norm. Official: 1.
        target_blocks: usize,
        /// At what resolution targets are predicted.
        #[cfg_attr(feature = "checkpoint", serde(default, skip_serializing_if = "is_default"))]
        target_resolution: TargetResolution,
        /// What is added to the loss for the size of B.
        #[cfg_attr(feature = "checkpoint", serde(default, skip_serializing_if = "is_default"))]
        penalty: Option<Penalty>,
    },
    /// [`Stop`]
    Stop {
        /// As for I-JEPA.
        target_blocks: usize,
        /// The scale of the noise.
        sigma: Sigma,
        /// What the masked tokens are made of.
        tokens: TokenForm,
        /// Which tokens have noise.
        #[cfg_attr(feature = "checkpoint", serde(default, skip_serializing_if = "is_default"))]
        noise_on: NoiseOn,
        /// How it becomes noise on a position.
        #[cfg_attr(feature = "checkpoint", serde(default, skip_serializing_if = "is_default"))]
        covariance: Covariance,
    },
    /// [`Mae`]
    Mae {
        /// Whether each target patch is normalized by its own mean and variance.
        normalize_patches: bool,
        /// The scale of the noise of its masked tokens' positions; `None`: they stand where they are, as in the official code.
        #[cfg_attr(feature = "checkpoint", serde(default))]
        sigma: Option<Sigma>,
    },
    /// [`Data2vec`]
    Data2vec {
        /// The target is the mean over the last K blocks, each normalized. Official: 6 of ViT-B's 12.
        target_blocks: usize,
    },
    /// [`Simmim`]
    Simmim,
}

/// A setting as the paper has it is not written: older checkpoints, which do not name it, say the same.
#[cfg(feature = "checkpoint")]
fn is_default<T: Default + PartialEq>(setting: &T) -> bool {
    *setting == T::default()
}

/// What can be said about a method beside its name; `None`: as its official code has it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct MethodOptions {
    /// I-JEPA, StoP, data2vec: the target is the mean over this many last blocks.
    pub target_blocks: Option<usize>,
    /// StoP, MAE: the scale of the noise.
    pub sigma: Option<Sigma>,
    /// StoP: what masked tokens are made of.
    pub tokens: Option<TokenForm>,
    /// StoP: which tokens have noise.
    pub noise_on: Option<NoiseOn>,
    /// StoP: how noise becomes noise on a position.
    pub covariance: Option<Covariance>,
    /// I-JEPA: at what resolution targets are predicted.
    pub target_resolution: Option<TargetResolution>,
    /// I-JEPA: what is added to the loss for the size of B.
    pub penalty: Option<Penalty>,
    /// MAE: whether target patches are normalized.
    pub normalize_patches: Option<bool>,
}

impl MethodConfig {
    /// The methods' names.
    pub const NAMES: [&str; 5] = ["stop", "ijepa", "mae", "data2vec", "simmim"];

    /// The name in logs and on the command line, of [`NAMES`](Self::NAMES).
    pub fn name(&self) -> &'static str {
        match self {
            MethodConfig::Stop { .. } => "stop",
            MethodConfig::Ijepa { .. } => "ijepa",
            MethodConfig::Mae { .. } => "mae",
            MethodConfig::Data2vec { .. } => "data2vec",
            MethodConfig::Simmim => "simmim",
        }
    }

    /// The method of this name, with these options and for the rest as its official code has it.
    ///
    /// # Errors
    /// When there is no such method, or an option belongs to another.
    pub fn new(name: &str, options: &MethodOptions) -> Result<Self> {
        let MethodOptions { target_blocks, sigma, tokens, noise_on, covariance, .. } = *options;
        let MethodOptions { target_resolution, penalty, normalize_patches, .. } = *options;
        if !Self::NAMES.contains(&name) {
            return Err(Error::config(
                format!("no method {name}"),
                format!("choose one of {}", Self::NAMES.join(", ")),
            ));
        }
        for (given, option, owners) in [
            (sigma.is_some(), "sigma", &["stop", "mae"][..]),
            (tokens.is_some(), "tokens", &["stop"]),
            (noise_on.is_some(), "noise_on", &["stop"]),
            (covariance.is_some(), "covariance", &["stop"]),
            (target_resolution.is_some(), "target_resolution", &["ijepa"]),
            (penalty.is_some(), "penalty", &["ijepa"]),
            (target_blocks.is_some(), "target_blocks", &["stop", "ijepa", "data2vec"]),
            (normalize_patches.is_some(), "normalize_patches", &["mae"]),
        ] {
            if given && !owners.contains(&name) {
                let problem = format!("`{option}` means nothing to {name}");
                return Err(Error::config(
                    problem,
                    format!("leave it out, or choose `method` {}", owners.join(" or ")),
                ));
            }
        }
        // data2vec's official 6 are half of ViT-B's blocks; 2 are half of the preset toy's.
        let target_blocks = target_blocks.unwrap_or(if name == "data2vec" { 2 } else { 1 });
        Ok(match name {
            "data2vec" => MethodConfig::Data2vec { target_blocks },
            "simmim" => MethodConfig::Simmim,
            "stop" => MethodConfig::Stop {
                target_blocks,
                sigma: sigma.unwrap_or(Sigma::OFFICIAL),
                tokens: tokens.unwrap_or(TokenForm::Official),
                noise_on: noise_on.unwrap_or_default(),
                covariance: covariance.unwrap_or_default(),
            },
            "ijepa" => {
                MethodConfig::Ijepa { target_blocks, target_resolution: target_resolution.unwrap_or_default(), penalty }
            }
            _ => MethodConfig::Mae { normalize_patches: normalize_patches.unwrap_or(false), sigma },
        })
    }

    /// I-JEPA whose targets are the mean over the last `target_blocks` blocks, for the rest as its official code has it.
    pub fn ijepa(target_blocks: usize) -> Self {
        MethodConfig::Ijepa { target_blocks, target_resolution: TargetResolution::Full, penalty: None }
    }

    /// StoP under this noise in tokens of this form, for the rest as its official code has it.
    pub fn stop(sigma: Sigma, tokens: TokenForm) -> Self {
        let (noise_on, covariance) = (NoiseOn::Masked, Covariance::Learned);
        MethodConfig::Stop { target_blocks: 1, sigma, tokens, noise_on, covariance }
    }

    /// Whether its encoder has a class token.
    pub fn class_token(&self) -> bool {
        matches!(self, MethodConfig::Mae { .. })
    }

    /// Whether its encoder has a token for the places of hidden patches.
    pub fn mask_token(&self) -> bool {
        matches!(self, MethodConfig::Data2vec { .. } | MethodConfig::Simmim)
    }

    /// Whether it predicts by a predictor (MAE: a decoder), and not by a linear head.
    pub fn has_predictor(&self) -> bool {
        !self.mask_token()
    }

    /// How its official code initializes linear layers.
    pub fn linear_init(&self) -> LinearInit {
        match self {
            MethodConfig::Mae { .. } => LinearInit::Xavier,
            _ => LinearInit::Normal,
        }
    }

    /// Its masks on a `grid` × `grid` image: for I-JEPA and StoP the published blocks, below 14 × 14 patches those
    /// [for small grids](MultiBlock::for_small_grid); for MAE a random 75 %; for data2vec and SimMIM a random 60 %, in units of
    /// 2 × 2 patches where these tile the grid and it is larger than 4 × 4.
    pub fn masking(&self, grid: usize) -> Masking {
        match self {
            MethodConfig::Mae { .. } => Masking::Random { ratio: 0.75, unit: 1 },
            MethodConfig::Data2vec { .. } | MethodConfig::Simmim => {
                Masking::Random { ratio: 0.6, unit: if grid > 4 && grid.is_multiple_of(2) { 2 } else { 1 } }
            }
            _ if grid >= 14 => Masking::Blocks(MultiBlock::published((grid, grid))),
            _ => Masking::Blocks(MultiBlock::for_small_grid((grid, grid))),
        }
    }

    /// Whether targets come from a moving average of the encoder.
    pub fn has_target_encoder(&self) -> bool {
        !matches!(self, MethodConfig::Mae { .. } | MethodConfig::Simmim)
    }

    /// The width of a prediction: features of the encoder, or the pixels of a patch.
    pub fn outputs(&self, encoder: &EncoderConfig) -> usize {
        match self {
            MethodConfig::Mae { .. } | MethodConfig::Simmim => encoder.channels * encoder.patch_size.pow(2),
            _ => encoder.dim,
        }
    }
}

/// The name, and what is not as usual.
impl fmt::Display for MethodConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())?;
        match *self {
            MethodConfig::Stop { target_blocks, sigma: _, tokens, noise_on, covariance } => {
                if tokens != TokenForm::Official {
                    write!(f, ", {tokens} tokens")?;
                }
                match noise_on {
                    NoiseOn::Masked => {}
                    NoiseOn::Context => f.write_str(", noise on context tokens")?,
                    NoiseOn::Both => f.write_str(", noise on masked and context tokens")?,
                }
                if covariance != Covariance::Learned {
                    write!(f, ", {covariance} covariance")?;
                }
                last_blocks(target_blocks, f)
            }
            MethodConfig::Ijepa { target_blocks, target_resolution, penalty } => {
                if target_resolution != TargetResolution::Full {
                    write!(f, ", {target_resolution} targets")?;
                }
                if let Some(penalty) = penalty {
                    write!(f, ", penalty {penalty}")?;
                }
                last_blocks(target_blocks, f)
            }
            MethodConfig::Data2vec { target_blocks } => write!(f, ", K = {target_blocks}"),
            MethodConfig::Mae { normalize_patches, sigma } => {
                f.write_str(if normalize_patches { ", normalized patches" } else { "" })?;
                sigma.map_or(Ok(()), |sigma| write!(f, ", noise {}", sigma.std()))
            }
            MethodConfig::Simmim => Ok(()),
        }
    }
}

fn last_blocks(k: usize, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    if k > 1 { write!(f, ", K = {k}") } else { Ok(()) }
}

/// Which tokens are hidden, and which predicted.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(
    feature = "checkpoint",
    derive(serde::Serialize, serde::Deserialize),
    serde(rename_all = "kebab-case", deny_unknown_fields)
)]
pub enum Masking {
    /// Target blocks, and a context block without them: I-JEPA, StoP.
    Blocks(MultiBlock),
    /// A random share of the patches is hidden and predicted: MAE, data2vec, SimMIM.
    Random {
        /// The share hidden. Official: 0.75 for MAE, 0.6 for the others.
        ratio: f64,
        /// Patches are hidden in squares of so many a side. Official: 1 for MAE, 2 for SimMIM on a ViT-B/16.
        #[cfg_attr(feature = "checkpoint", serde(default = "single_patches"))]
        unit: usize,
    },
}

/// The unit of masks in files from before there were others.
#[cfg(feature = "checkpoint")]
fn single_patches() -> usize {
    1
}

impl Masking {
    /// Masks for `batch` images of `tokens` tokens: the context masks B_x and the target blocks B_y, each with a row
    /// for every image.
    ///
    /// # Errors
    /// When no token would be kept, or none removed; when blocks are for another number of tokens.
    pub fn sample(&self, batch: usize, tokens: usize, rng: &mut impl Rng) -> Result<(Vec<Indices>, Vec<Indices>)> {
        Ok(match self {
            Masking::Blocks(blocks) => {
                let (rows, columns) = blocks.grid;
                if rows * columns != tokens {
                    let problem = format!("masks for {rows}x{columns} tokens, of images that have {tokens}");
                    return Err(Error::config(problem, "draw masks on the grid of the encoder"));
                }
                let masks = blocks.sample(batch, rng);
                (masks.context, masks.targets)
            }
            Masking::Random { ratio, unit } => {
                let side = tokens.isqrt();
                let masks = match unit {
                    1 => random_masks(batch, tokens, *ratio, rng)?,
                    _ if side * side == tokens => random_unit_masks(batch, side, *unit, *ratio, rng)?,
                    _ => {
                        let problem =
                            format!("masks in units of {unit}x{unit} for {tokens} tokens, which are no square");
                        return Err(Error::config(problem, "set `mask_unit` to 1"));
                    }
                };
                (vec![masks.kept], vec![masks.removed])
            }
        })
    }
}

/// Everything that decides a model's parameters and what is computed with them.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "checkpoint", derive(serde::Serialize, serde::Deserialize), serde(deny_unknown_fields))]
pub struct ModelConfig {
    /// What is predicted from what.
    pub method: MethodConfig,
    /// f_θ.
    pub encoder: EncoderConfig,
    /// g_φ; MAE's decoder. Of a method without either, it means nothing.
    pub predictor: PredictorConfig,
    /// How linear layers start.
    pub linear_init: LinearInit,
}

impl ModelConfig {
    /// Sizes that fit together.
    ///
    /// # Errors
    /// [`Error::Config`] that says what does not.
    pub fn validate(&self) -> Result<()> {
        let ModelConfig { method, encoder, predictor, .. } = self;
        if let Some(problem) = encoder.problem().or_else(|| predictor.problem()) {
            return Err(Error::config(problem, "choose sizes that fit together, or a preset"));
        }
        for (name, x) in [
            ("patch_std", encoder.patch_std),
            ("position_scale", encoder.position_scale),
            ("embed_std", predictor.embed_std),
        ] {
            if !(x >= 0.0 && x.is_finite()) {
                return Err(Error::config(format!("`{name}` is {x}"), "choose a number that is not negative"));
            }
        }
        // Tokens are told apart by their places alone: with a class token in front that the method does not expect, each
        // would be taken for its neighbor.
        let class_token = method.class_token();
        if encoder.class_token != class_token {
            let (name, without) = (method.name(), if class_token { "without" } else { "with" });
            let hint = format!("set class_token to {class_token}: MAE's encoder has one, the others' have none");
            return Err(Error::config(format!("{name} on an encoder {without} a class token"), hint));
        }
        let mask_token = method.mask_token();
        if encoder.mask_token != mask_token {
            let (name, without) = (method.name(), if mask_token { "without" } else { "with" });
            let why = if mask_token { "its encoder sees one" } else { "its encoder never sees one" };
            let hint = format!("set mask_token to {mask_token}: {why} in the place of hidden patches");
            return Err(Error::config(format!("{name} on an encoder {without} a mask token"), hint));
        }
        match *method {
            MethodConfig::Ijepa { target_blocks: k, .. }
            | MethodConfig::Stop { target_blocks: k, .. }
            | MethodConfig::Data2vec { target_blocks: k }
                if k == 0 || k > encoder.depth =>
            {
                let problem = format!("targets from the last {k} blocks of an encoder with {}", encoder.depth);
                Err(Error::config(problem, format!("choose from 1 to {}", encoder.depth)))
            }
            MethodConfig::Ijepa { target_resolution, penalty, .. } => {
                if let Some(problem) = target_resolution.problem(encoder.grid()) {
                    let hint =
                        "choose an image and a patch that make an even number of tokens a side, or full resolution";
                    return Err(Error::config(problem, hint));
                }
                let problem = penalty.and_then(|penalty| penalty.problem());
                problem.map_or(Ok(()), |problem| Err(Error::config(problem, "choose a number that is not negative")))
            }
            MethodConfig::Stop { tokens: TokenForm::PositionsOnly, noise_on, covariance, .. }
                if (noise_on, covariance) != Default::default() =>
            {
                let problem = "`noise_on` or `covariance` for `tokens` that have no noise, positions-only";
                Err(Error::config(problem, "leave the first two out, or choose other `tokens`"))
            }
            _ => Ok(()),
        }
    }

    /// The method with fresh parameters.
    ///
    /// # Errors
    /// When the sizes do not fit together.
    pub fn build(&self, dtype: DType, rng: &mut impl Rng) -> Result<(Arc<dyn Method>, ModelParams)> {
        self.validate()?;
        fn shared<M: Method + 'static>((method, params): (M, ModelParams)) -> (Arc<dyn Method>, ModelParams) {
            (Arc::new(method), params)
        }
        Ok(match self.method {
            MethodConfig::Ijepa { target_blocks, target_resolution, penalty } => {
                shared(Ijepa::new(self, (target_blocks, target_resolution, penalty), dtype, rng))
            }
            MethodConfig::Stop { target_blocks, sigma, tokens, noise_on: on, covariance } => {
                shared(Stop::new(self, StopNoise { sigma, on, covariance }, (target_blocks, tokens), dtype, rng))
            }
            MethodConfig::Mae { normalize_patches, sigma } => {
                shared(Mae::new(self, (normalize_patches, sigma), dtype, rng))
            }
            MethodConfig::Data2vec { target_blocks } => shared(Data2vec::new(self, target_blocks, dtype, rng)),
            MethodConfig::Simmim => shared(Simmim::new(self, dtype, rng)),
        })
    }

    /// Numbers in the parameters of such a model, averages included, from its sizes alone.
    pub fn elements(&self) -> u64 {
        let ModelConfig { method, encoder, predictor, .. } = self;
        let encoders = if method.has_target_encoder() { 2 } else { 1 };
        let (outputs, tokens) = (method.outputs(encoder), encoder.patches() + usize::from(encoder.class_token));
        let predictor = if method.has_predictor() {
            predictor.elements([encoder.dim, outputs, tokens])
        } else {
            (encoder.dim as u64 + 1) * outputs as u64
        };
        encoders * encoder.elements() + predictor
    }
}

/// The two networks that every method of the paper's form has, with fresh parameters.
#[derive(Clone, Debug)]
pub struct Networks {
    /// f_θ
    pub encoder: Encoder,
    /// g_φ
    pub predictor: Predictor,
    /// θ
    pub theta: Params,
    /// φ
    pub phi: Params,
}

impl Networks {
    /// Networks of the configuration's sizes, with predictions of width `outputs`, and the mask token in this role. The
    /// configuration's method does not matter.
    pub fn new(
        config: &ModelConfig,
        outputs: usize,
        names: Names,
        mask_token: Role,
        dtype: DType,
        rng: &mut impl Rng,
    ) -> Self {
        let ModelConfig { encoder: sizes, predictor, linear_init, .. } = config;
        let (encoder, theta) = fresh(*linear_init, dtype, rng, |init| Encoder::new(sizes, init));
        let (predictor, phi) = fresh(*linear_init, dtype, rng, |init| {
            Predictor::new(predictor, (sizes.dim, outputs), sizes.grid(), names, mask_token, init)
        });
        Networks { encoder, predictor, theta, phi }
    }

    /// The modules `encoder`, `predictor`, and `target_encoder`: a moving average that starts as a copy of the encoder.
    pub fn with_target_encoder(self) -> ModelParams {
        let average = self.theta.clone();
        self.params().with("target_encoder", Update::AverageOf("encoder"), average)
    }

    /// The modules `encoder` and `predictor`.
    pub fn params(self) -> ModelParams {
        ModelParams::new().with("encoder", Update::Trained, self.theta).with("predictor", Update::Trained, self.phi)
    }

    /// The same, in files under one prefix.
    pub(super) fn under_one_prefix(self, prefix: &'static str) -> ModelParams {
        let params = ModelParams::new().with_prefix("encoder", prefix, Update::Trained, self.theta);
        params.with_prefix("predictor", prefix, Update::Trained, self.phi)
    }
}

#[cfg(test)]
mod tests;
