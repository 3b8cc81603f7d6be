//! An encoder out of a file: a run's checkpoint, or weights from elsewhere.

use std::path::PathBuf;

use clap::Args;

use crate::Result;
use crate::data::Normalization;
use crate::nn::{LinearInit, Params};
use crate::train::checkpoint;
use crate::train::safetensors::Fit;
use crate::train::weights::{LoadedEncoder, load_encoder};
use crate::vit::{Encoder, EncoderConfig, Preset};

#[derive(Args, Clone, Debug)]
pub struct EncoderArgs {
    /// A checkpoint.safetensors that pretrain wrote; with --preset, any safetensors file with an encoder under the
    /// official names, plain or after target_encoder., encoder. or model.
    file: PathBuf,
    /// FILE holds weights from elsewhere, of an encoder of these sizes.
    #[arg(long, value_enum)]
    preset: Option<Preset>,
    /// Side of the images in pixels [default: the preset's].
    #[arg(long, value_name = "PIXELS", requires = "preset")]
    image_size: Option<usize>,
    /// Side of a patch in pixels [default: the preset's].
    #[arg(long, value_name = "PIXELS", requires = "preset")]
    patch: Option<usize>,
    /// Read what fits, and say what was left out, instead of refusing a file that does not fit exactly.
    #[arg(long, requires = "preset")]
    partial: bool,
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
    /// How an untrained encoder like it starts.
    pub linear_init: LinearInit,
    /// From which seed.
    pub seed: u64,
}

impl EncoderArgs {
    /// Reads the encoder; says on standard error what a partial reading left out.
    ///
    /// # Errors
    /// When the file cannot be read or does not fit.
    pub fn load(&self) -> Result<Found> {
        let Some(preset) = self.preset else {
            let saved = checkpoint::load(&self.file)?;
            let what = format!("{} after {} steps", saved.config.model.method.name(), saved.step);
            let (params, seed) = (saved.params.target.unwrap_or(saved.params.encoder), saved.config.seed);
            let (encoder, linear_init) = (saved.model.encoder, saved.config.model.linear_init);
            let (data, normalization) = (Some(saved.config.data), saved.config.normalization);
            return Ok(Found { what, encoder, params, data, normalization, linear_init, seed });
        };
        let (sizes, _) = preset.sizes();
        let sizes = EncoderConfig {
            image_size: self.image_size.unwrap_or(sizes.image_size),
            patch_size: self.patch.unwrap_or(sizes.patch_size),
            ..sizes
        };
        let fit = if self.partial { Fit::Partial } else { Fit::Strict };
        let LoadedEncoder { encoder, params, prefix, left_out } = load_encoder(&self.file, &sizes, fit)?;
        if !left_out.is_empty() {
            eprintln!("{}: left out, and the model's own values kept:", self.file.display());
            left_out.iter().for_each(|misfit| eprintln!("    {misfit}"));
        }
        let (read, all) =
            (params.iter().count() - left_out.iter().filter(|m| m.in_model()).count(), params.iter().count());
        let linear_init = if encoder.config().class_token { LinearInit::Xavier } else { LinearInit::Normal };
        let names = if prefix.is_empty() { String::new() } else { format!(" ({prefix}*)") };
        let what = format!("{read} of {all} tensors from {}{names}", self.file.display());
        let normalization = Some(Normalization::IMAGENET);
        Ok(Found { what, encoder, params, data: None, normalization, linear_init, seed: 0 })
    }
}
