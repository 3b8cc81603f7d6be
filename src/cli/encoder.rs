//! An encoder out of a file: a run's checkpoint, or weights from elsewhere.

use std::io::Write;
use std::path::PathBuf;

use clap::Args;

use super::options::{Preprocessing, ReadArgs};
use crate::data::check_image_size;
use crate::nn::{LinearInit, Params};
use crate::train::checkpoint;
use crate::train::weights::{LoadedEncoder, is_checkpoint, load_encoder, sizes_of};
use crate::vit::{Encoder, EncoderConfig, Preset};
use crate::{Error, Result};

#[derive(Args, Clone, Debug)]
pub struct EncoderArgs {
    /// A checkpoint.safetensors that pretrain wrote, or any safetensors file with a ViT under the names of the official
    /// code, timm or the transformers library, behind any prefix.
    pub file: PathBuf,
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
    #[command(flatten)]
    read: ReadArgs,
}

/// Says a line on standard error, where it can be said.
fn note(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}"); // not a reason to end
}

/// An encoder, and what is known about it.
pub struct Opened {
    /// For a headline.
    pub what: String,
    /// What is computed.
    pub encoder: Encoder,
    /// With what.
    pub params: Params,
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
    ///
    /// # Errors
    /// When the file cannot be read or does not fit.
    pub fn load(&self) -> Result<Opened> {
        let asked = self.read.asked()?;
        let found = if self.is_plain() && is_checkpoint(&self.file)? { self.checkpoint() } else { self.weights() }?;
        Ok(Opened { preprocessing: asked.unwrap_or(found.preprocessing), ..found })
    }

    /// Whether no flag says how the file is to be read.
    fn is_plain(&self) -> bool {
        let sizes = [self.image_size, self.patch, self.dim, self.depth, self.heads, self.mlp_dim];
        let ReadArgs { partial, interpolate_positions, prefix, .. } = &self.read;
        let read_as_weights = *partial || *interpolate_positions || prefix.is_some();
        self.preset.is_none() && sizes.iter().all(Option::is_none) && !read_as_weights
    }

    fn checkpoint(&self) -> Result<Opened> {
        let saved = checkpoint::load(&self.file)?;
        let what = format!("{} after {} steps", saved.config.model.method.name(), saved.step);
        let (params, seed) = (saved.params.target.unwrap_or(saved.params.encoder), saved.config.seed);
        let (encoder, linear_init) = (saved.model.encoder, saved.config.model.linear_init);
        let (data, preprocessing) = (Some(saved.config.data), Preprocessing::of_run(saved.config.normalization));
        Ok(Opened { what, encoder, params, data, preprocessing, linear_init, seed })
    }

    fn weights(&self) -> Result<Opened> {
        let sizes = match self.preset {
            Some(preset) => EncoderConfig { heads: self.heads.unwrap_or(preset.sizes().0.heads), ..preset.sizes().0 },
            None => sizes_of(&self.file, self.read.prefix.as_deref(), self.heads)?,
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
        check_image_size(sizes.image_size)?; // before the encoder is made, which grows with it
        let loaded = load_encoder(&self.file, &sizes, &self.read.options())?;
        let LoadedEncoder { encoder, params, prefix, tensors, left_out, notes, run } = loaded;
        let file = self.file.display();
        notes.iter().for_each(|line| note(&format!("{file}: {line}")));
        if !left_out.is_empty() {
            note(&format!("{file}: left out, and the model's own values kept:"));
            left_out.iter().for_each(|mismatch| note(&format!("    {mismatch}")));
        }
        let read = tensors - left_out.iter().filter(|m| m.in_model()).count();
        let usual = if encoder.config().class_token { LinearInit::Xavier } else { LinearInit::Normal };
        let names = if prefix.is_empty() { String::new() } else { format!(" ({}*)", prefix.escape_debug()) };
        let what = format!("{read} of {tensors} tensors from {file}{names}");
        let preprocessing = Preprocessing::of(run.as_ref());
        let (linear_init, seed) = run.as_ref().map_or((usual, 0), |run| (run.linear_init(), run.seed));
        let data = run.map(|run| run.data);
        Ok(Opened { what, encoder, params, data, preprocessing, linear_init, seed })
    }
}
