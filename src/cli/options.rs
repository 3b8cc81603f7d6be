//! The flags of a run, and how they change the recipe that it starts from: [`RunConfig::for_method`].

use clap::Args;

use super::flags::{choice, not_negative, pair, refuse};
use crate::data::{BadImages, OpenOptions, check_image_size};
use crate::kernels::{Device, Precision};
use crate::methods::stop::TokenForm;
use crate::methods::{MethodConfig, MethodOptions, ModelConfig};
use crate::nn::LinearInit;
use crate::paper::{Covariance, NoiseOn, Penalty, Sigma, TargetResolution};
use crate::runs::Length;
use crate::train::{EmaMomentum, Masking, RunConfig, WeightDecay};
use crate::vit::{EncoderConfig, PredictorConfig, Preset};
use crate::{Error, Result};

/// Where a model computes.
#[derive(Args, Clone, Copy, Debug)]
pub struct DeviceArgs {
    /// Where the model computes: cpu; or cuda, the first NVIDIA GPU (cuda:1: the second), in a program built with --features
    /// cuda.
    #[arg(long, value_name = "DEVICE", default_value = "cpu")]
    device: Device,
}

impl DeviceArgs {
    /// Which.
    pub fn device(self) -> Device {
        self.device
    }

    /// The device, opened.
    ///
    /// # Errors
    /// When it is not there.
    pub fn open(self) -> Result<Device> {
        self.device.open()?;
        Ok(self.device)
    }
}

/// The size of an encoder.
#[derive(Args, Clone, Debug, PartialEq)]
pub struct SizeArgs {
    /// Named sizes of encoder and predictor; the flags below change single ones [default: toy].
    #[arg(long, value_parser = choice(&Preset::ALL, Preset::name, Preset::about))]
    pub preset: Option<Preset>,
    /// Side of the images in pixels [default: the preset's].
    #[arg(long, value_name = "PIXELS")]
    image_size: Option<usize>,
    /// Side of a patch in pixels [default: the preset's].
    #[arg(long, value_name = "PIXELS")]
    patch: Option<usize>,
    /// Width of the encoder's tokens [default: the preset's].
    #[arg(long)]
    dim: Option<usize>,
    /// Blocks of the encoder [default: the preset's].
    #[arg(long)]
    depth: Option<usize>,
    /// Attention heads of the encoder [default: the preset's].
    #[arg(long)]
    pub heads: Option<usize>,
}

impl SizeArgs {
    /// Whether any of these flags was given.
    pub fn any(&self) -> bool {
        let sizes = [self.image_size, self.patch, self.dim, self.depth, self.heads];
        self.preset.is_some() || sizes.iter().any(Option::is_some)
    }

    /// These sizes, and where nothing is said, those of `config`.
    pub fn apply(&self, config: EncoderConfig) -> EncoderConfig {
        EncoderConfig {
            image_size: self.image_size.unwrap_or(config.image_size),
            patch_size: self.patch.unwrap_or(config.patch_size),
            dim: self.dim.unwrap_or(config.dim),
            depth: self.depth.unwrap_or(config.depth),
            heads: self.heads.unwrap_or(config.heads),
            ..config
        }
    }
}

/// The flags of [`ModelArgs`] but those of sizes.
const OF_MODEL: [&str; 18] = [
    "method",
    "predictor_dim",
    "predictor_depth",
    "predictor_heads",
    "learned_positions",
    "linear_init",
    "patch_std",
    "position_scale",
    "embed_std",
    "sigma_std",
    "sigma_variance",
    "stop_tokens",
    "noise_on",
    "covariance",
    "target_resolution",
    "penalty",
    "target_blocks",
    "normalize_patches",
];

/// Which model, on which images.
#[derive(Args, Clone, Debug)]
#[group(args = OF_MODEL)] // of a struct with others in it, clap makes an empty group
#[command(next_help_heading = "Model")]
pub struct ModelArgs {
    /// What is predicted from what: stop, the paper's stochastic positions; ijepa, deterministic positions and feature targets;
    /// mae, deterministic positions and pixel targets; data2vec and simmim, mask tokens in the encoder and feature or pixel
    /// targets [default: stop].
    #[arg(long, value_parser = MethodConfig::NAMES)]
    method: Option<String>,
    #[command(flatten)]
    size: SizeArgs,
    /// Width of the predictor's tokens [default: the preset's].
    #[arg(long)]
    predictor_dim: Option<usize>,
    /// Blocks of the predictor [default: the preset's].
    #[arg(long)]
    predictor_depth: Option<usize>,
    /// Attention heads of the predictor [default: the preset's].
    #[arg(long)]
    predictor_heads: Option<usize>,
    /// Learn the predictor's positions instead of the fixed sine-cosine table.
    #[arg(long)]
    learned_positions: bool,
    /// How linear layers start [default: as the method's official code: xavier for mae, normal for the others].
    #[arg(long, value_parser = choice(&LinearInit::ALL, LinearInit::name, LinearInit::about), value_name = "INIT")]
    linear_init: Option<LinearInit>,
    /// Standard deviation of the patch projection's initial weights [default: the preset's].
    #[arg(long, value_name = "STD")]
    patch_std: Option<f64>,
    /// What the encoder's sine-cosine positions are multiplied by [default: the preset's].
    #[arg(long, value_name = "FACTOR")]
    position_scale: Option<f64>,
    /// Standard deviation of the initial weights of A (B for the other methods) [default: the preset's].
    #[arg(long, value_name = "STD")]
    embed_std: Option<f64>,
    /// StoP, MAE: the noise scale σ as a standard deviation, as StoP's official code uses it [default: 0.25; MAE: no noise].
    #[arg(long, value_name = "STD", conflicts_with = "sigma_variance")]
    sigma_std: Option<f64>,
    /// StoP, MAE: the noise scale σ as a variance, as the paper writes it [default: 0.0625; MAE: no noise].
    #[arg(long, value_name = "VARIANCE")]
    sigma_variance: Option<f64>,
    /// StoP: of what masked tokens are made [default: official].
    #[arg(long, value_parser = choice(&TokenForm::ALL, TokenForm::name, TokenForm::about), value_name = "FORM")]
    stop_tokens: Option<TokenForm>,
    /// StoP: which tokens have noise (Table 7) [default: masked].
    #[arg(long, value_parser = choice(&NoiseOn::ALL, NoiseOn::name, NoiseOn::about), value_name = "TOKENS")]
    noise_on: Option<NoiseOn>,
    /// StoP: what the covariance of a position is made of (Fig. 3) [default: learned].
    #[arg(long, value_parser = choice(&Covariance::ALL, Covariance::name, Covariance::about), value_name = "KIND")]
    covariance: Option<Covariance>,
    /// I-JEPA: at what resolution targets are predicted (Table 8) [default: full].
    #[arg(long, value_parser = choice(&TargetResolution::ALL, TargetResolution::name, TargetResolution::about))]
    #[arg(value_name = "RESOLUTION")]
    target_resolution: Option<TargetResolution>,
    /// I-JEPA: add to the loss what B measures: l1:WEIGHT or l2:WEIGHT, for WEIGHT times the sum of its entries' absolute
    /// values or squares (section 4.3).
    #[arg(long, value_name = "NORM:WEIGHT")]
    penalty: Option<Penalty>,
    /// I-JEPA, StoP, data2vec: the target is the mean over this many last blocks [default: 1; data2vec: 2].
    #[arg(long, value_name = "K")]
    target_blocks: Option<usize>,
    /// MAE: normalize each target patch by its own mean and variance.
    #[arg(long)]
    normalize_patches: bool,
}

/// How images are opened.
#[derive(Args, Clone, Copy, Debug)]
#[command(next_help_heading = "Images")]
pub struct OpenArgs {
    /// Refuse a folder with anything in it that looks like an image and cannot be used, having decoded them all, instead of
    /// skipping it.
    #[arg(long)]
    strict: bool,
    /// Most memory that decoded images of a folder are kept in, in MB; 0: none [default: a quarter of what is free, at most
    /// 2000].
    #[arg(long, value_name = "MB")]
    cache_mb: Option<u32>,
}

impl OpenArgs {
    /// What the flags say.
    pub fn options(self) -> OpenOptions {
        let bad_images = if self.strict { BadImages::Refuse } else { BadImages::Skip };
        OpenOptions { bad_images, cache: self.cache_mb.map(|mb| u64::from(mb) * 1_000_000) }
    }
}

/// Which tokens are hidden.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Masks")]
pub struct MaskArgs {
    /// Target blocks for each image [default: 4].
    #[arg(long, value_name = "N")]
    targets: Option<usize>,
    /// Area of a target block as shares of the image [default: 0.15,0.25 below 14 × 14 patches, else 0.15,0.2].
    #[arg(long, value_name = "MIN,MAX", value_parser = pair)]
    target_scale: Option<[f64; 2]>,
    /// Height over width of a target block [default: 0.75,1.5].
    #[arg(long, value_name = "MIN,MAX", value_parser = pair)]
    target_aspect: Option<[f64; 2]>,
    /// Area of the context block as shares of the image, before the targets are cut out [default: 0.85,1].
    #[arg(long, value_name = "MIN,MAX", value_parser = pair)]
    context_scale: Option<[f64; 2]>,
    /// Fewest tokens of a context or target [default: 4 below 14 × 14 patches, else 10].
    #[arg(long, value_name = "N")]
    min_keep: Option<usize>,
    /// Sample as the original code does: one draw for scale and aspect, the last row and column never visited,
    /// contexts cut to the batch's smallest from the bottom.
    #[arg(long)]
    official_masks: bool,
    /// MAE, data2vec, SimMIM: share of the patches that is hidden [default: 0.75 for mae, else 0.6].
    #[arg(long, value_name = "SHARE")]
    mask_ratio: Option<f64>,
    /// MAE, data2vec, SimMIM: hide patches in squares of so many a side [default: 1 for mae, else 2 where the grid has an even
    /// side of more than 4].
    #[arg(long, value_name = "PATCHES")]
    mask_unit: Option<usize>,
}

/// The length of a run.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Training")]
pub struct LengthArgs {
    /// Passes over the training images, with fractions [default: 16]. With --resume: in all, those done included; warm-up
    /// stays, and the schedules stretch to the new end.
    #[arg(long, conflicts_with = "steps")]
    epochs: Option<f64>,
    /// Steps, instead of epochs.
    #[arg(long)]
    steps: Option<usize>,
}

impl LengthArgs {
    /// What the flags say, if one was given.
    pub fn length(&self) -> Option<Length> {
        self.epochs.map(Length::Epochs).or(self.steps.map(Length::Steps))
    }
}

/// How fast. The defaults are the toy preset's recipe (docs/experiments.md); the paper's, for its ViTs,
/// are in its Tables 9 to 12.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Training")]
pub struct TrainArgs {
    /// Images in a step [default: 64].
    #[arg(long)]
    batch: Option<usize>,
    /// Warm-up as a share of the run [default: 0.1].
    #[arg(long, value_name = "SHARE")]
    warmup: Option<f64>,
    /// Learning rate at the end of the warm-up [default: 0.001].
    #[arg(long)]
    lr: Option<f64>,
    /// Learning rate before the first step [default: a fifth of --lr].
    #[arg(long, value_name = "LR")]
    lr_start: Option<f64>,
    /// Learning rate at the end [default: a hundredth of --lr].
    #[arg(long, value_name = "LR")]
    lr_end: Option<f64>,
    /// Weight decay at the start and at the end [default: 0.05,0.05].
    #[arg(long, value_name = "START,END", value_parser = pair)]
    weight_decay: Option<[f64; 2]>,
    /// Momentum of the target encoder at the start and at the end (I-JEPA, StoP, data2vec) [default: 0.996,1].
    #[arg(long, value_name = "START,END", value_parser = pair)]
    ema: Option<[f64; 2]>,
    /// Area of a random crop as shares of the image [default: 0.3,1].
    #[arg(long, value_name = "MIN,MAX", value_parser = pair)]
    crop_scale: Option<[f64; 2]>,
    /// Do not mirror images.
    #[arg(long)]
    no_flip: bool,
    /// What the operands of matrix products are rounded to [default: f32]. bf16 is faster on GPUs and on processors
    /// with AVX512-BF16, tf32 on GPUs; weights, sums and the optimizer stay in f32. Part of the run: a resumed run keeps it.
    #[arg(long, value_parser = choice(&Precision::ALL, Precision::name, Precision::about))]
    precision: Option<Precision>,
    /// Decides initial weights, order, crops, masks and noise [default: 0].
    #[arg(long)]
    pub seed: Option<u64>,
}

/// The recipe of the method and the sizes that these flags describe, with these masks.
pub fn recipe(model: &ModelArgs, masks: &MaskArgs) -> Result<RunConfig> {
    let recipe = RunConfig::for_method(model.method()?, model.size.preset.unwrap_or_default());
    let model = model.apply(recipe.model)?;
    let masking = masks.apply(model.method.masking(model.encoder.grid()))?;
    Ok(RunConfig { model, masking, ..recipe })
}

impl ModelArgs {
    fn method(&self) -> Result<MethodConfig> {
        let std = self.sigma_std.map(|std| not_negative("--sigma-std", std).map(Sigma::from_std));
        let variance = self.sigma_variance.map(|v| not_negative("--sigma-variance", v).map(Sigma::from_variance));
        let options = MethodOptions {
            target_blocks: self.target_blocks,
            sigma: std.or(variance).transpose()?,
            tokens: self.stop_tokens,
            noise_on: self.noise_on,
            covariance: self.covariance,
            target_resolution: self.target_resolution,
            penalty: self.penalty,
            normalize_patches: self.normalize_patches.then_some(true),
        };
        MethodConfig::new(self.method.as_deref().unwrap_or("stop"), &options)
    }

    fn apply(&self, model: ModelConfig) -> Result<ModelConfig> {
        let ModelConfig { method, encoder, predictor, linear_init } = model;
        if !method.has_predictor() {
            let of_predictors = [
                (self.predictor_dim.is_some(), "--predictor-dim"),
                (self.predictor_depth.is_some(), "--predictor-depth"),
                (self.predictor_heads.is_some(), "--predictor-heads"),
                (self.learned_positions, "--learned-positions"),
                (self.embed_std.is_some(), "--embed-std"),
            ];
            refuse(&of_predictors, "stop, ijepa or mae")?;
        }
        let encoder = EncoderConfig {
            patch_std: self.patch_std.unwrap_or(encoder.patch_std),
            position_scale: self.position_scale.unwrap_or(encoder.position_scale),
            ..self.size.apply(encoder)
        };
        let predictor = PredictorConfig {
            dim: self.predictor_dim.unwrap_or(predictor.dim),
            depth: self.predictor_depth.unwrap_or(predictor.depth),
            heads: self.predictor_heads.unwrap_or(predictor.heads),
            learned_positions: self.learned_positions,
            embed_std: self.embed_std.unwrap_or(predictor.embed_std),
        };
        let linear_init = self.linear_init.unwrap_or(linear_init);
        let model = ModelConfig { method, encoder, predictor, linear_init };
        model.validate()?;
        check_image_size(model.encoder.image_size)?;
        Ok(model)
    }
}

impl MaskArgs {
    /// What these flags say, and where they say nothing, what `standard` has.
    pub fn apply(&self, standard: Masking) -> Result<Masking> {
        let of_blocks = [
            (self.targets.is_some(), "--targets"),
            (self.target_scale.is_some(), "--target-scale"),
            (self.target_aspect.is_some(), "--target-aspect"),
            (self.context_scale.is_some(), "--context-scale"),
            (self.min_keep.is_some(), "--min-keep"),
            (self.official_masks, "--official-masks"),
        ];
        Ok(match standard {
            Masking::Random { ratio, unit } => {
                refuse(&of_blocks, "ijepa or stop")?;
                Masking::Random { ratio: self.mask_ratio.unwrap_or(ratio), unit: self.mask_unit.unwrap_or(unit) }
            }
            Masking::Blocks(mut blocks) => {
                let of_random =
                    [(self.mask_ratio.is_some(), "--mask-ratio"), (self.mask_unit.is_some(), "--mask-unit")];
                refuse(&of_random, "mae, data2vec or simmim")?;
                blocks.target.count = self.targets.unwrap_or(blocks.target.count);
                blocks.target.scale = self.target_scale.map_or(blocks.target.scale, Into::into);
                blocks.target.aspect = self.target_aspect.map_or(blocks.target.aspect, Into::into);
                blocks.context.scale = self.context_scale.map_or(blocks.context.scale, Into::into);
                blocks.min_keep = self.min_keep.unwrap_or(blocks.min_keep);
                if self.official_masks {
                    blocks = blocks.as_official();
                }
                blocks.validate()?;
                Masking::Blocks(blocks)
            }
        })
    }
}

impl TrainArgs {
    /// The recipe with what these flags say, over so many training images.
    pub fn apply(&self, mut config: RunConfig, length: Option<Length>, images: usize) -> Result<RunConfig> {
        if config.fine_tuning.is_some() && self.ema.is_some() {
            return Err(Error::config("--ema means nothing to fine-tuning", "leave it out"));
        }
        if !config.model.method.has_target_encoder() {
            refuse(&[(self.ema.is_some(), "--ema")], "ijepa, stop or data2vec")?;
        }
        config.batch = self.batch.unwrap_or(config.batch);
        if config.batch == 0 || config.batch > images {
            let problem = format!("a batch of {} images cannot be taken from {images}", config.batch);
            return Err(Error::config(problem, format!("choose a --batch from 1 to {images}")));
        }
        let epoch = images / config.batch;
        let steps = length.map_or(Ok(epoch.saturating_mul(RunConfig::EPOCHS)), |length| length.steps(epoch))?;
        config = config.with_steps(steps);
        if let Some(share) = self.warmup {
            if not_negative("--warmup", share)? > 1.0 {
                let problem = format!("--warmup is {share}, a warm-up longer than the run");
                return Err(Error::config(problem, "choose a share of the run, from 0 to 1"));
            }
            config.lr.warmup = (share * steps as f64).round() as usize;
        }
        if let Some(peak) = self.lr {
            config = config.with_peak_lr(peak);
        }
        config.lr.start = self.lr_start.unwrap_or(config.lr.start);
        config.lr.end = self.lr_end.unwrap_or(config.lr.end);
        let decay = self.weight_decay.map(|[start, end]| WeightDecay { start, end });
        config.weight_decay = decay.unwrap_or(config.weight_decay);
        config.ema = self.ema.map_or(config.ema, |[start, end]| EmaMomentum { start, end });
        config.augment.scale = self.crop_scale.map_or(config.augment.scale, |[min, max]| (min as f32, max as f32));
        if self.no_flip {
            config.augment.flip = 0.0;
        }
        config.precision = self.precision.unwrap_or(config.precision);
        config.seed = self.seed.unwrap_or(config.seed);
        config.validate()?;
        Ok(config)
    }
}

#[cfg(test)]
mod tests;
