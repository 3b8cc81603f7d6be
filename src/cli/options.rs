//! The flags of a run, and how they become a [`RunConfig`].

use std::fmt;
use std::path::PathBuf;

use clap::{Args, ValueEnum};

use crate::data::{Augment, BadImages, Normalization, OpenOptions, Splits, check_image_size};
use crate::kernels::Precision;
use crate::methods::stop::TokenForm;
use crate::methods::{Method, ModelConfig};
use crate::nn::LinearInit;
use crate::paper::Sigma;
use crate::paper::masking::MultiBlock;
use crate::train::safetensors::Fit;
use crate::train::weights::{InitOptions, InitReport, Said};
use crate::train::{Masking, RunConfig};
use crate::vit::{EncoderConfig, PredictorConfig, Preset};
use crate::{Error, Result};

/// The methods by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum MethodName {
    /// Stochastic positions (the paper).
    Stop,
    /// Deterministic positions, feature targets.
    Ijepa,
    /// Deterministic positions, pixel targets.
    Mae,
}

fn number<T: std::str::FromStr>(text: &str) -> std::result::Result<T, String> {
    text.trim().parse().map_err(|_| format!("'{text}' is not a number"))
}

/// Two numbers with a comma between.
fn pair(text: &str) -> std::result::Result<(f64, f64), String> {
    let (a, b) = text.split_once(',').ok_or("two numbers with a comma between, as in 0.15,0.2")?;
    Ok((number(a)?, number(b)?))
}

/// A number for each of red, green and blue.
fn colors(text: &str) -> std::result::Result<[f32; 3], String> {
    let numbers: Vec<f32> = text.split(',').map(number).collect::<std::result::Result<_, _>>()?;
    numbers.try_into().map_err(|_| "three numbers with commas between, as in 0.485,0.456,0.406".into())
}

/// Which model, on which images.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Model")]
pub struct ModelArgs {
    /// What is predicted from what.
    #[arg(long, value_enum, default_value = "stop")]
    pub method: MethodName,
    /// Named sizes of encoder and predictor; the flags below change single ones.
    #[arg(long, value_enum, default_value = "toy")]
    pub preset: Preset,
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
    heads: Option<usize>,
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
    /// How linear layers start [default: as the method's official code: normal for stop and ijepa, xavier for mae].
    #[arg(long, value_enum, value_name = "INIT")]
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
    /// StoP: the noise scale σ as a standard deviation, as the official code uses it [default: 0.25].
    #[arg(long, value_name = "STD", conflicts_with = "sigma_variance")]
    sigma_std: Option<f64>,
    /// StoP: the noise scale σ as a variance, as the paper writes it [default: 0.0625].
    #[arg(long, value_name = "VARIANCE")]
    sigma_variance: Option<f64>,
    /// StoP: of what masked tokens are made [default: official].
    #[arg(long, value_enum, value_name = "FORM")]
    stop_tokens: Option<TokenForm>,
    /// I-JEPA, StoP: the target is the mean over this many last blocks [default: 1].
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
    /// What becomes of images that cannot be used.
    pub fn bad_images(self) -> BadImages {
        if self.strict { BadImages::Refuse } else { BadImages::Skip }
    }

    /// What the flags say.
    pub fn options(self) -> OpenOptions {
        OpenOptions { bad_images: self.bad_images(), cache: self.cache_mb.map(|mb| u64::from(mb) * 1_000_000) }
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
    target_scale: Option<(f64, f64)>,
    /// Height over width of a target block [default: 0.75,1.5].
    #[arg(long, value_name = "MIN,MAX", value_parser = pair)]
    target_aspect: Option<(f64, f64)>,
    /// Area of the context block as shares of the image, before the targets are cut out [default: 0.85,1].
    #[arg(long, value_name = "MIN,MAX", value_parser = pair)]
    context_scale: Option<(f64, f64)>,
    /// Fewest tokens of a context or target [default: 4 below 14 × 14 patches, else 10].
    #[arg(long, value_name = "N")]
    min_keep: Option<usize>,
    /// Sample as the original code does: one draw for scale and aspect, the last row and column never visited,
    /// contexts cut to the batch's smallest from the bottom.
    #[arg(long)]
    official_masks: bool,
    /// MAE: share of the patches that is removed [default: 0.75].
    #[arg(long, value_name = "SHARE")]
    mask_ratio: Option<f64>,
}

/// How long.
#[derive(Args, Clone, Copy, Debug)]
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
    /// The steps in all that these flags say, if one was given. `per_epoch`: steps in an epoch.
    ///
    /// # Errors
    /// When there are none, or more than a run can have.
    pub fn steps(&self, per_epoch: usize) -> Result<Option<usize>> {
        let Some(epochs) = self.epochs else { return Ok(self.steps) };
        let steps = (not_negative("--epochs", epochs)? * per_epoch as f64).round();
        match steps <= RunConfig::MOST_STEPS as f64 {
            true => Ok(Some(steps as usize)),
            false => Err(Error::config(
                format!("--epochs is {epochs}: {steps:e} steps, at {per_epoch} in an epoch"),
                format!("choose at most {} epochs, which are 10^12 steps", RunConfig::MOST_STEPS / per_epoch as u64),
            )),
        }
    }
}

/// How an encoder is read from a file, and how the pixels that it sees are normalized.
#[derive(Args, Clone, Debug)]
pub struct ReadArgs {
    /// Which encoder of several in FILE: what stands before its names, such as student.backbone [default: found out].
    #[arg(long, value_name = "PREFIX")]
    pub prefix: Option<String>,
    /// Read what fits, and say what was left out, instead of refusing a file that does not fit exactly.
    #[arg(long)]
    pub partial: bool,
    /// Interpolate positions that are on another grid than --image-size and --patch make, as the official code does.
    #[arg(long)]
    pub interpolate_positions: bool,
    /// Mean of red, green and blue (of pixels from 0 to 1) that images are normalized with [default: a checkpoint's own;
    /// ImageNet's for other weights; without weights published or measured].
    #[arg(long, requires = "std", value_name = "R,G,B", value_parser = colors, allow_hyphen_values = true)]
    mean: Option<[f32; 3]>,
    /// Standard deviation of red, green and blue, likewise.
    #[arg(long, requires = "mean", value_name = "R,G,B", value_parser = colors, allow_hyphen_values = true)]
    std: Option<[f32; 3]>,
}

impl ReadArgs {
    /// How the file is to be read.
    pub fn options(&self) -> InitOptions {
        InitOptions {
            fit: if self.partial { Fit::Partial } else { Fit::Strict },
            prefix: self.prefix.clone(),
            interpolate_positions: self.interpolate_positions,
        }
    }

    /// How images are normalized, if flags say so.
    ///
    /// # Errors
    /// When it cannot be done so.
    pub fn asked(&self) -> Result<Option<Preprocessing>> {
        let Some((mean, std)) = self.mean.zip(self.std) else { return Ok(None) };
        let normalization = Normalization::new(mean, std);
        normalization.check()?;
        Ok(Some(Preprocessing::Asked(normalization)))
    }
}

/// How images are normalized, by who said so. This is the one place that decides it for whatever is read from a file.
#[derive(Clone, Debug, PartialEq)]
pub enum Preprocessing {
    /// --mean and --std.
    Asked(Normalization),
    /// The checkpoint.
    Checkpoint(Normalization),
    /// Nobody: weights from elsewhere have usually seen ImageNet's.
    ImageNet,
    /// Nobody: the checkpoint is one of 0.1.0, and its images were normalized as the data set suggests.
    Images,
}

impl Preprocessing {
    /// As the run that the weights are of had it, or as is usual for weights from elsewhere.
    pub fn of(run: Option<&Said>) -> Self {
        run.map_or(Preprocessing::ImageNet, |run| Self::of_run(run.normalization.clone()))
    }

    /// As a run had it, whose configuration says this.
    pub fn of_run(said: Option<Normalization>) -> Self {
        said.map_or(Preprocessing::Images, Preprocessing::Checkpoint)
    }

    /// With what; `None`: with what the data set suggests.
    pub fn said(&self) -> Option<Normalization> {
        match self {
            Preprocessing::Asked(normalization) | Preprocessing::Checkpoint(normalization) => {
                Some(normalization.clone())
            }
            Preprocessing::ImageNet => Some(Normalization::IMAGENET),
            Preprocessing::Images => None,
        }
    }

    /// With what, where these images are encoded.
    ///
    /// # Errors
    /// If it has to be measured, and an image cannot be read.
    pub fn on(&self, splits: &Splits) -> Result<Normalization> {
        splits.normalization_or(self.said().as_ref())
    }
}

impl fmt::Display for Preprocessing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Preprocessing::Asked(_) => "as asked, with --mean and --std",
            Preprocessing::Checkpoint(_) => "the checkpoint's own",
            Preprocessing::ImageNet => "ImageNet's; --mean and --std choose others",
            Preprocessing::Images => "the images' own, as the checkpoint says nothing",
        })
    }
}

/// What a run begins with.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Beginning")]
#[command(mut_arg("prefix", |arg| arg.requires("init")), mut_arg("partial", |arg| arg.requires("init")))]
#[command(mut_arg("interpolate_positions", |arg| arg.requires("init")))]
pub struct StartArgs {
    /// Begin with the encoder in a safetensors file (and its predictor, where it has one of these sizes): a checkpoint, or
    /// weights from elsewhere under their published names. Without it, the seed draws all weights.
    #[arg(long, value_name = "FILE")]
    pub init: Option<PathBuf>,
    /// How it is read.
    #[command(flatten)]
    pub read: ReadArgs,
}

impl StartArgs {
    /// How images are normalized, if these flags or the weights, which were `read`, say so.
    ///
    /// # Errors
    /// When it cannot be done so.
    pub fn preprocessing(&self, read: Option<&InitReport>) -> Result<Option<Preprocessing>> {
        Ok(self.read.asked()?.or(read.map(|read| Preprocessing::of(read.run.as_ref()))))
    }
}

/// How fast. The defaults are the toy preset's recipe (docs/experiments.md); the paper's, for its ViTs,
/// are in its Tables 9 to 12.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Training")]
pub struct TrainArgs {
    /// Images in a step.
    #[arg(long, default_value_t = 64)]
    batch: usize,
    /// Warm-up as a share of the run.
    #[arg(long, default_value_t = 0.1, value_name = "SHARE")]
    warmup: f64,
    /// Learning rate at the end of the warm-up.
    #[arg(long, default_value_t = 5e-4)]
    lr: f64,
    /// Learning rate before the first step [default: a fifth of --lr].
    #[arg(long, value_name = "LR")]
    lr_start: Option<f64>,
    /// Learning rate at the end [default: a hundredth of --lr].
    #[arg(long, value_name = "LR")]
    lr_end: Option<f64>,
    /// Weight decay at the start and at the end.
    #[arg(long, value_name = "START,END", value_parser = pair, default_value = "0.05,0.05")]
    weight_decay: (f64, f64),
    /// Momentum of the target encoder at the start and at the end (I-JEPA, StoP) [default: 0.9995,1].
    #[arg(long, value_name = "START,END", value_parser = pair)]
    ema: Option<(f64, f64)>,
    /// Area of a random crop as shares of the image [default: 0.3,1].
    #[arg(long, value_name = "MIN,MAX", value_parser = pair)]
    crop_scale: Option<(f64, f64)>,
    /// Do not mirror images.
    #[arg(long)]
    no_flip: bool,
    /// What the operands of matrix products are rounded to. bf16 is faster on processors with AVX512-BF16; weights, sums
    /// and the optimizer stay in f32. Part of the run: a resumed run goes on with it.
    #[arg(long, value_enum, default_value = "f32")]
    precision: Precision,
    /// Decides initial weights, order, crops, masks and noise.
    #[arg(long, default_value_t = 0)]
    seed: u64,
}

/// Passes over the training images where nothing else is said.
const EPOCHS: usize = 16;

impl ModelArgs {
    /// The model that these flags describe.
    ///
    /// # Errors
    /// When a flag belongs to another method, or sizes do not fit.
    pub fn config(&self) -> Result<ModelConfig> {
        let (encoder, predictor) = self.preset.sizes();
        let encoder = EncoderConfig {
            image_size: self.image_size.unwrap_or(encoder.image_size),
            patch_size: self.patch.unwrap_or(encoder.patch_size),
            dim: self.dim.unwrap_or(encoder.dim),
            depth: self.depth.unwrap_or(encoder.depth),
            heads: self.heads.unwrap_or(encoder.heads),
            mlp_ratio: encoder.mlp_ratio,
            class_token: self.method == MethodName::Mae,
            patch_std: self.patch_std.unwrap_or(encoder.patch_std),
            position_scale: self.position_scale.unwrap_or(encoder.position_scale),
        };
        let predictor = PredictorConfig {
            dim: self.predictor_dim.unwrap_or(predictor.dim),
            depth: self.predictor_depth.unwrap_or(predictor.depth),
            heads: self.predictor_heads.unwrap_or(predictor.heads),
            learned_positions: self.learned_positions,
            embed_std: self.embed_std.unwrap_or(predictor.embed_std),
        };
        let stop_only = [
            (self.sigma_std.is_some(), "--sigma-std"),
            (self.sigma_variance.is_some(), "--sigma-variance"),
            (self.stop_tokens.is_some(), "--stop-tokens"),
        ];
        let target_blocks = self.target_blocks.unwrap_or(1);
        let method = match self.method {
            MethodName::Stop => {
                refuse(&[(self.normalize_patches, "--normalize-patches")], "mae")?;
                let sigma = match (self.sigma_std, self.sigma_variance) {
                    (Some(std), _) => Sigma::from_std(not_negative("--sigma-std", std)?),
                    (_, Some(variance)) => Sigma::from_variance(not_negative("--sigma-variance", variance)?),
                    (None, None) => Sigma::OFFICIAL,
                };
                Method::Stop { target_blocks, sigma, tokens: self.stop_tokens.unwrap_or(TokenForm::Official) }
            }
            MethodName::Ijepa => {
                refuse(&stop_only, "stop")?;
                refuse(&[(self.normalize_patches, "--normalize-patches")], "mae")?;
                Method::Ijepa { target_blocks }
            }
            MethodName::Mae => {
                refuse(&stop_only, "stop")?;
                refuse(&[(self.target_blocks.is_some(), "--target-blocks")], "ijepa and stop")?;
                Method::Mae { normalize_patches: self.normalize_patches }
            }
        };
        for (flag, std) in [("--patch-std", encoder.patch_std), ("--embed-std", predictor.embed_std)] {
            not_negative(flag, std)?;
        }
        let official = match self.method {
            MethodName::Mae => LinearInit::Xavier,
            MethodName::Ijepa | MethodName::Stop => LinearInit::Normal,
        };
        let linear_init = self.linear_init.unwrap_or(official);
        let config = ModelConfig { method, encoder, predictor, linear_init };
        config.validate()?;
        check_image_size(config.encoder.image_size)?;
        Ok(config)
    }
}

fn not_negative(flag: &str, x: f64) -> Result<f64> {
    match x >= 0.0 && x.is_finite() {
        true => Ok(x),
        false => Err(Error::config(format!("{flag} is {x}"), "choose a number that is not negative")),
    }
}

/// Refuses the first flag that was given and means nothing to the method at hand.
fn refuse(given: &[(bool, &str)], belongs_to: &str) -> Result<()> {
    match given.iter().find(|(given, _)| *given) {
        None => Ok(()),
        Some((_, flag)) => Err(Error::config(
            format!("{flag} means nothing to this method"),
            format!("leave it out, or choose --method {belongs_to}"),
        )),
    }
}

impl MaskArgs {
    /// The masks that these flags describe, for a model.
    ///
    /// # Errors
    /// When a flag belongs to another method, or no such masks exist.
    pub fn masking(&self, model: &ModelConfig) -> Result<Masking> {
        let side = model.encoder.grid();
        self.masking_like(match (&model.method, side) {
            (Method::Mae { .. }, _) => Masking::Random { ratio: 0.75 },
            (_, 14..) => Masking::Blocks(MultiBlock::published((side, side))),
            _ => Masking::Blocks(MultiBlock::for_small_grid((side, side))),
        })
    }

    /// What these flags say, and where they say nothing, what `standard` has.
    ///
    /// # Errors
    /// When a flag belongs to another method, or no such masks exist.
    pub fn masking_like(&self, standard: Masking) -> Result<Masking> {
        Ok(match standard {
            Masking::Random { ratio } => {
                let blocks_only = [
                    (self.targets.is_some(), "--targets"),
                    (self.target_scale.is_some(), "--target-scale"),
                    (self.target_aspect.is_some(), "--target-aspect"),
                    (self.context_scale.is_some(), "--context-scale"),
                    (self.min_keep.is_some(), "--min-keep"),
                    (self.official_masks, "--official-masks"),
                ];
                refuse(&blocks_only, "ijepa or stop")?;
                Masking::Random { ratio: self.mask_ratio.unwrap_or(ratio) }
            }
            Masking::Blocks(mut blocks) => {
                refuse(&[(self.mask_ratio.is_some(), "--mask-ratio")], "mae")?;
                blocks.target.count = self.targets.unwrap_or(blocks.target.count);
                blocks.target.scale = self.target_scale.unwrap_or(blocks.target.scale);
                blocks.target.aspect = self.target_aspect.unwrap_or(blocks.target.aspect);
                blocks.context.scale = self.context_scale.unwrap_or(blocks.context.scale);
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
    /// The whole run, on the training images that were opened from `data`, and normalized as they suggest.
    ///
    /// # Errors
    /// When settings cannot work together.
    pub fn config(
        &self,
        (model, masking): (ModelConfig, Masking),
        length: &LengthArgs,
        data: &str,
        splits: &Splits,
    ) -> Result<RunConfig> {
        let images = splits.train.len();
        if let (Method::Mae { .. }, Some(_)) = (&model.method, self.ema) {
            refuse(&[(true, "--ema")], "ijepa or stop")?;
        }
        if self.batch == 0 || self.batch > images {
            let problem = format!("a batch of {} images cannot be taken from {images}", self.batch);
            return Err(Error::config(problem, format!("choose a --batch from 1 to {images}")));
        }
        let per_epoch = images / self.batch;
        let steps = length.steps(per_epoch)?.unwrap_or(per_epoch.saturating_mul(EPOCHS));
        if not_negative("--warmup", self.warmup)? > 1.0 {
            let problem = format!("--warmup is {}, a warm-up longer than the run", self.warmup);
            return Err(Error::config(problem, "choose a share of the run, from 0 to 1"));
        }
        let ema = self.ema.unwrap_or((0.9995, 1.0));
        let augment = Augment {
            scale: self.crop_scale.map_or(Augment::STOP.scale, |(min, max)| (min as f32, max as f32)),
            flip: if self.no_flip { 0.0 } else { Augment::STOP.flip },
        };
        let config = RunConfig {
            model,
            data: data.to_owned(),
            normalization: Some(splits.normalization()?),
            init: None,
            masking,
            augment,
            batch: self.batch,
            steps,
            warmup: (self.warmup * steps as f64).round() as usize,
            lr: [self.lr_start.unwrap_or(self.lr / 5.0), self.lr, self.lr_end.unwrap_or(self.lr / 100.0)],
            weight_decay: [self.weight_decay.0, self.weight_decay.1],
            ema: [ema.0, ema.1],
            precision: self.precision,
            seed: self.seed,
        };
        config.validate()?;
        config.supported()?;
        Ok(config)
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        start: StartArgs,
        #[command(flatten)]
        length: LengthArgs,
    }

    fn parsed(args: &str) -> Line {
        Line::parse_from(std::iter::once("x").chain(args.split_whitespace()))
    }

    #[test]
    fn what_is_asked_for_comes_before_what_the_file_says_and_that_before_imagenet() {
        let of = |args: &str, run: Option<Option<Normalization>>| {
            let run = run.map(|normalization| {
                let mut run: Said = serde_json::from_value(serde_json::json!({
                    "data": "shapes",
                    "seed": 0,
                    "model": { "encoder": Preset::Toy.sizes().0, "linear_init": LinearInit::Normal },
                }))
                .unwrap();
                run.normalization = normalization;
                run
            });
            let start = parsed(args).start;
            let read = start.init.as_ref().map(|_| InitReport { lines: Vec::new(), run });
            start.preprocessing(read.as_ref())
        };
        let asked = Normalization::new([0.5, -0.25, 0.0], [1.0, 2.0, 0.5]);
        let (own, flags) = (Normalization::CIFAR10, "--mean 0.5,-0.25,0 --std 1,2,0.5");
        assert_eq!(of("", None).unwrap(), None);
        assert_eq!(of(flags, None).unwrap(), Some(Preprocessing::Asked(asked.clone())));
        assert_eq!(
            of(&format!("--init f {flags}"), Some(Some(own.clone()))).unwrap(),
            Some(Preprocessing::Asked(asked))
        );
        assert_eq!(of("--init f", Some(Some(own.clone()))).unwrap(), Some(Preprocessing::Checkpoint(own)));
        assert_eq!(of("--init f", Some(None)).unwrap(), Some(Preprocessing::Images), "a checkpoint of 0.1.0");
        assert_eq!(of("--init f", None).unwrap(), Some(Preprocessing::ImageNet));
        for bad in ["--mean nan,0,0 --std 1,1,1", "--mean 0,0,0 --std 1,0,1", "--mean 0,0,0 --std=-1,1,1"] {
            assert!(of(bad, None).is_err(), "{bad}");
        }
        for alone in ["--partial", "--prefix a", "--interpolate-positions", "--mean 1,1,1", "--std 1,1,1"] {
            let line = std::iter::once("x").chain(alone.split_whitespace());
            assert!(Line::try_parse_from(line).is_err(), "{alone}");
        }
    }

    #[test]
    fn steps_are_whole_and_no_more_than_a_run_can_have() {
        let steps = |args: &str| parsed(args).length.steps(7);
        assert_eq!(steps("").unwrap(), None);
        assert_eq!(steps("--steps 5").unwrap(), Some(5));
        assert_eq!(steps("--epochs 1.5").unwrap(), Some(11));
        assert_eq!(steps("--epochs 142857142857").unwrap(), Some(999_999_999_999));
        for bad in ["142857142858", "1e19", "inf", "nan"] {
            assert!(steps(&format!("--epochs {bad}")).is_err(), "{bad}");
        }
    }
}
