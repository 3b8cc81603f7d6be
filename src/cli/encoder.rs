//! An encoder out of a file: a run's checkpoint, or weights from elsewhere.

use std::path::PathBuf;

use clap::Args;

use super::flags::{colors, flag};
use super::options::SizeArgs;
use crate::data::{Normalization, check_image_size};
use crate::error::renamed;
use crate::nn::LinearInit;
use crate::train::checkpoint;
use crate::train::safetensors::Fit;
use crate::train::weights::{
    InitOptions, LoadedEncoder, Preprocessing, PretrainedEncoder, is_checkpoint, load_encoder, sizes_of,
};
use crate::vit::EncoderConfig;
use crate::{Result, data};

/// How an encoder is read from a file, and how the pixels that it sees are normalized.
#[derive(Args, Clone, Debug)]
pub struct ReadArgs {
    /// Which encoder of several in FILE: what stands before its names, such as student.backbone [default: found out].
    #[arg(long, value_name = "PREFIX")]
    prefix: Option<String>,
    /// Read what fits, and say what was left out, instead of refusing a file that does not fit exactly.
    #[arg(long)]
    partial: bool,
    /// Interpolate positions that are on another grid than --image-size and --patch make, as the official code does.
    #[arg(long)]
    interpolate_positions: bool,
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
    pub fn asked(&self) -> Result<Option<Preprocessing>> {
        let Some((mean, std)) = self.mean.zip(self.std) else { return Ok(None) };
        let normalization = Normalization::new(mean, std);
        normalization.check()?;
        Ok(Some(Preprocessing::Asked(normalization)))
    }
}

/// Who said how images are normalized.
pub fn source(preprocessing: &Preprocessing) -> &'static str {
    match preprocessing {
        Preprocessing::Asked(_) => "as asked, with --mean and --std",
        Preprocessing::Checkpoint(_) => "the checkpoint's own",
        Preprocessing::ImageNet => "ImageNet's; --mean and --std choose others",
        Preprocessing::Images => "the images' own, as the checkpoint says nothing",
    }
}

/// Says how these images are normalized, and gives that.
pub fn normalization(preprocessing: &Preprocessing, splits: &data::Splits) -> Result<Normalization> {
    let normalization = preprocessing.on(splits)?;
    let Normalization { mean, std } = &normalization;
    say!("images are normalized with mean {mean:?}, std {std:?}: {}", source(preprocessing));
    Ok(normalization)
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

#[derive(Args, Clone, Debug)]
#[group(args = ["file", "mlp_dim"])] // of a struct with others in it, clap makes an empty group
#[command(mut_arg("preset", |arg| arg.help("Sizes of the encoder; the flags below change single ones [default: those of \
    FILE, which says all but --heads]")))]
pub struct EncoderArgs {
    /// A checkpoint.safetensors that pretrain wrote, or any safetensors file with a ViT under the names of the official
    /// code, timm or the transformers library, behind any prefix.
    pub file: PathBuf,
    #[command(flatten)]
    size: SizeArgs,
    /// Width of the hidden layer of an MLP [default: the preset's, or FILE's].
    #[arg(long)]
    mlp_dim: Option<usize>,
    #[command(flatten)]
    read: ReadArgs,
}

/// An encoder, and what is known about it.
pub struct Opened {
    /// For a headline.
    pub what: String,
    pub model: PretrainedEncoder,
    /// The images it was trained on, if that is known.
    pub data: Option<String>,
    /// How its images are normalized.
    pub preprocessing: Preprocessing,
    /// How an untrained encoder like it starts.
    pub linear_init: LinearInit,
    /// From which seed.
    pub seed: u64,
}

impl EncoderArgs {
    /// Reads the encoder; says on standard error what is to be said about the reading.
    pub fn load(&self) -> Result<Opened> {
        let asked = self.read.asked()?;
        let ReadArgs { prefix, partial, interpolate_positions, .. } = &self.read;
        let read_as_weights = *partial || prefix.is_some() || *interpolate_positions;
        let plain = !self.size.any() && self.mlp_dim.is_none() && !read_as_weights;
        let found = if plain && is_checkpoint(&self.file)? { self.checkpoint() } else { self.weights() }?;
        Ok(Opened { preprocessing: asked.unwrap_or(found.preprocessing), ..found })
    }

    fn checkpoint(&self) -> Result<Opened> {
        let saved = checkpoint::load(&self.file)?;
        Ok(Opened {
            what: format!("{} after {} steps", saved.config.name(), saved.step),
            model: PretrainedEncoder {
                encoder: saved.method.encoder().clone(),
                params: saved.params.evaluated().clone(),
            },
            data: Some(saved.config.data),
            preprocessing: Preprocessing::of_run(saved.config.normalization),
            linear_init: saved.config.model.linear_init,
            seed: saved.config.seed,
        })
    }

    fn weights(&self) -> Result<Opened> {
        let options = self.read.options();
        let sizes = match self.size.preset {
            Some(preset) => preset.into(),
            None => sizes_of(&self.file, options.prefix.as_deref(), self.size.heads)?,
        };
        let mut sizes: EncoderConfig = self.size.apply(sizes);
        if let Some(mlp_dim) = self.mlp_dim {
            sizes.mlp_ratio = mlp_dim as f64 / sizes.dim as f64;
        }
        check_image_size(sizes.image_size)?; // before the encoder is made, which grows with it
        let loaded = load_encoder(&self.file, &sizes, &options)?;
        let LoadedEncoder { encoder, params, prefix, tensors, left_out, notes, run } = loaded;
        let file = self.file.display();
        notes.iter().for_each(|line| note!("{file}: {}", renamed(line, flag)));
        if !left_out.is_empty() {
            note!("{file}: left out, and the model's own values kept:");
            left_out.iter().for_each(|mismatch| note!("    {mismatch}"));
        }
        let read = tensors - left_out.iter().filter(|m| m.in_model()).count();
        let usual = if encoder.config().class_token { LinearInit::Xavier } else { LinearInit::Normal };
        let names = if prefix.is_empty() { String::new() } else { format!(" ({}*)", prefix.escape_debug()) };
        Ok(Opened {
            what: format!("{read} of {tensors} tensors from {file}{names}"),
            model: PretrainedEncoder { encoder, params },
            preprocessing: Preprocessing::of(run.as_ref()),
            linear_init: run.as_ref().map_or(usual, |run| run.model.linear_init),
            seed: run.as_ref().map_or(0, |run| run.seed),
            data: run.map(|run| run.data),
        })
    }
}
