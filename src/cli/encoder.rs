//! An encoder out of a file: a run's checkpoint, or weights from elsewhere.

use std::fmt;
use std::io::Write;
use std::path::PathBuf;

use clap::Args;

use crate::data::Normalization;
use crate::nn::{LinearInit, Params};
use crate::train::checkpoint;
use crate::train::safetensors::Fit;
use crate::train::weights::{InitOptions, LoadedEncoder, is_checkpoint, load_encoder, sizes_of};
use crate::vit::{Encoder, EncoderConfig, Preset};
use crate::{Error, Result};

#[derive(Args, Clone, Debug)]
pub struct EncoderArgs {
    /// A checkpoint.safetensors that pretrain wrote, or any safetensors file with a ViT under the names of the official
    /// code, timm or the transformers library, behind any prefix.
    file: PathBuf,
    /// Sizes of the encoder [default: those of FILE, which says all but --heads].
    #[arg(long, value_enum)]
    preset: Option<Preset>,
    /// Side of the images in pixels [default: the preset's, or FILE's].
    #[arg(long, value_name = "PIXELS")]
    image_size: Option<usize>,
    /// Side of a patch in pixels [default: likewise].
    #[arg(long, value_name = "PIXELS")]
    patch: Option<usize>,
    /// Width of a token [default: likewise].
    #[arg(long)]
    dim: Option<usize>,
    /// Blocks [default: likewise].
    #[arg(long)]
    depth: Option<usize>,
    /// Attention heads [default: the preset's, or a checkpoint's; other weights do not say].
    #[arg(long)]
    heads: Option<usize>,
    /// Width of the hidden layer of an MLP [default: the preset's, or FILE's].
    #[arg(long)]
    mlp_dim: Option<usize>,
    /// Which encoder of several in FILE: what stands before its names, such as student.backbone.
    #[arg(long, value_name = "PREFIX")]
    prefix: Option<String>,
    /// Read what fits, and say what was left out, instead of refusing a file that does not fit exactly.
    #[arg(long)]
    partial: bool,
    /// Interpolate positions that are on another grid than --image-size and --patch make, as the official code does.
    #[arg(long)]
    interpolate_positions: bool,
    /// Mean of red, green and blue (from 0 to 1) that is subtracted from pixels [default: a checkpoint's own; ImageNet's for
    /// other weights].
    #[arg(long, value_name = "R,G,B", value_parser = colour, requires = "std")]
    mean: Option<[f32; 3]>,
    /// Standard deviation of red, green and blue by which pixels are then divided.
    #[arg(long, value_name = "R,G,B", value_parser = positive_colour, requires = "mean")]
    std: Option<[f32; 3]>,
}

/// Three finite numbers with commas between.
fn colour(text: &str) -> std::result::Result<[f32; 3], String> {
    let number =
        |s: &str| s.trim().parse::<f32>().ok().filter(|x| x.is_finite()).ok_or(format!("'{s}' is not a number"));
    let numbers = text.split(',').map(number).collect::<std::result::Result<Vec<_>, _>>()?;
    numbers.try_into().map_err(|_| "three numbers with commas between, as in 0.485,0.456,0.406".to_owned())
}

fn positive_colour(text: &str) -> std::result::Result<[f32; 3], String> {
    let colour = colour(text)?;
    let positive = colour.iter().all(|x| *x > 0.0).then_some(colour);
    positive.ok_or("a standard deviation is above 0".to_owned())
}

/// Who says how images are normalised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NormalizationFrom {
    /// --mean and --std.
    Flags,
    /// The checkpoint.
    Checkpoint,
    /// Nobody: weights from elsewhere have usually seen ImageNet's.
    ImageNet,
    /// Nobody: the checkpoint is an old one, and the images are as its run had them.
    Images,
}

impl fmt::Display for NormalizationFrom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            NormalizationFrom::Flags => "--mean and --std",
            NormalizationFrom::Checkpoint => "the checkpoint's own",
            NormalizationFrom::ImageNet => "ImageNet's; --mean and --std choose others",
            NormalizationFrom::Images => {
                "the images' own, as the checkpoint says nothing; --mean and --std choose others"
            }
        })
    }
}

/// Says a line on standard error, where it can be said.
pub fn note(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}"); // not a reason to end
}

/// An encoder, and what is known about it.
pub struct Found {
    /// For a headline.
    pub what: String,
    /// What is computed.
    pub encoder: Encoder,
    /// With what.
    pub params: Params,
    /// The images it was trained on, if that is known.
    pub data: Option<String>,
    /// How its images are normalised; `None` if a checkpoint does not say.
    pub normalization: Option<Normalization>,
    /// Who said so.
    pub normalization_from: NormalizationFrom,
    /// How an untrained encoder like it starts.
    pub linear_init: LinearInit,
    /// From which seed.
    pub seed: u64,
}

impl EncoderArgs {
    /// Reads the encoder; says on standard error what is to be said about the reading.
    ///
    /// # Errors
    /// When the file cannot be read or does not fit.
    pub fn load(&self) -> Result<Found> {
        let found = if self.is_plain() && is_checkpoint(&self.file)? { self.checkpoint() } else { self.weights() }?;
        Ok(match (self.mean, self.std) {
            (Some(mean), Some(std)) => {
                let normalization = Some(Normalization { mean, std });
                Found { normalization, normalization_from: NormalizationFrom::Flags, ..found }
            }
            _ => found,
        })
    }

    /// Whether no flag says how the file is to be read.
    fn is_plain(&self) -> bool {
        let sizes = [self.image_size, self.patch, self.dim, self.depth, self.heads, self.mlp_dim];
        let read_as_weights = self.partial || self.interpolate_positions || self.prefix.is_some();
        self.preset.is_none() && sizes.iter().all(Option::is_none) && !read_as_weights
    }

    fn checkpoint(&self) -> Result<Found> {
        let saved = checkpoint::load(&self.file)?;
        let what = format!("{} after {} steps", saved.config.model.method.name(), saved.step);
        let (params, seed) = (saved.params.target.unwrap_or(saved.params.encoder), saved.config.seed);
        let (encoder, linear_init) = (saved.model.encoder, saved.config.model.linear_init);
        let (data, normalization) = (Some(saved.config.data), saved.config.normalization);
        let normalization_from = match normalization {
            Some(_) => NormalizationFrom::Checkpoint,
            None => NormalizationFrom::Images,
        };
        Ok(Found { what, encoder, params, data, normalization, normalization_from, linear_init, seed })
    }

    fn weights(&self) -> Result<Found> {
        let sizes = match self.preset {
            Some(preset) => EncoderConfig { heads: self.heads.unwrap_or(preset.sizes().0.heads), ..preset.sizes().0 },
            None => sizes_of(&self.file, self.prefix.as_deref(), self.heads)?,
        };
        let dim = self.dim.unwrap_or(sizes.dim);
        if dim == 0 {
            return Err(Error::config("an encoder of width 0", "choose --dim, or leave it out"));
        }
        let sizes = EncoderConfig {
            image_size: self.image_size.unwrap_or(sizes.image_size),
            patch_size: self.patch.unwrap_or(sizes.patch_size),
            dim,
            depth: self.depth.unwrap_or(sizes.depth),
            mlp_ratio: self.mlp_dim.map_or(sizes.mlp_ratio, |mlp_dim| mlp_dim as f64 / dim as f64),
            ..sizes
        };
        let fit = if self.partial { Fit::Partial } else { Fit::Strict };
        let interpolate_positions = self.interpolate_positions;
        let options = InitOptions { fit, prefix: self.prefix.clone(), interpolate_positions };
        let loaded = load_encoder(&self.file, &sizes, &options)?;
        let LoadedEncoder { encoder, params, prefix, tensors, left_out, notes, normalization } = loaded;
        let file = self.file.display();
        notes.iter().for_each(|line| note(&format!("{file}: {line}")));
        if !left_out.is_empty() {
            note(&format!("{file}: left out, and the model's own values kept:"));
            left_out.iter().for_each(|misfit| note(&format!("    {misfit}")));
        }
        let read = tensors - left_out.iter().filter(|m| m.in_model()).count();
        let linear_init = if encoder.config().class_token { LinearInit::Xavier } else { LinearInit::Normal };
        let names = if prefix.is_empty() { String::new() } else { format!(" ({}*)", prefix.escape_debug()) };
        let what = format!("{read} of {tensors} tensors from {file}{names}");
        let (normalization, normalization_from) = match normalization {
            Some(own) => (own, NormalizationFrom::Checkpoint),
            None => (Normalization::IMAGENET, NormalizationFrom::ImageNet),
        };
        let normalization = Some(normalization);
        Ok(Found { what, encoder, params, data: None, normalization, normalization_from, linear_init, seed: 0 })
    }
}
