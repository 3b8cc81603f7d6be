//! An encoder out of a file, ready to be used.

use std::path::Path;

use rayon::prelude::*;

use super::{InitOptions, RunInfo, load_encoder};
use crate::autograd::Var;
use crate::data::{Normalization, Splits};
use crate::eval::mean_over_tokens;
use crate::nn::Params;
use crate::tensor::{DType, Device, Tensor};
use crate::vit::{Encoder, EncoderConfig};
use crate::{Error, Result};

/// Images that one thread encodes at a time.
const BATCH: usize = 8;

/// A frozen encoder with its weights.
///
/// ```no_run
/// use stop_mim::train::weights::PretrainedEncoder;
/// use stop_mim::{DType, Tensor, vit::Preset};
///
/// let encoder = PretrainedEncoder::from_safetensors("jepa-h14.safetensors", Preset::VitH14)?;
/// let images = Tensor::zeros([16, 3, 224, 224], DType::F32); // stand-ins
/// let features = encoder.features(&images)?; // [16, 1280]
/// # Ok::<(), stop_mim::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct PretrainedEncoder {
    /// What is computed.
    pub encoder: Encoder,
    /// With what.
    pub params: Params,
}

impl PretrainedEncoder {
    /// The encoder of these sizes, or of this preset's, in a safetensors file: official weights (docs/interop.md) or a
    /// checkpoint of this program. [`load_encoder`] does it with options, [`sizes_of`](super::sizes_of) reads the sizes.
    ///
    /// # Errors
    /// As [`load_encoder`].
    pub fn from_safetensors(path: impl AsRef<Path>, sizes: impl Into<EncoderConfig>) -> Result<Self> {
        let loaded = load_encoder(path.as_ref(), &sizes.into(), &InitOptions::default())?;
        Ok(PretrainedEncoder { encoder: loaded.encoder, params: loaded.params })
    }

    /// The same encoder on another device, where it then computes; what it gives is on the CPU.
    #[must_use]
    pub fn to_device(&self, device: Device) -> Self {
        PretrainedEncoder { encoder: self.encoder.clone(), params: self.params.to_device(device) }
    }

    /// \[N, C, S, S\] → \[N, D\]: the mean of each image's tokens after the last norm, but the class token. The images are
    /// normalized already ([`Preprocessing`] says how). All threads work; the result does not depend on how many.
    ///
    /// # Errors
    /// When the images are not of the encoder's size.
    pub fn features(&self, images: &Tensor) -> Result<Tensor> {
        let config = self.encoder.config();
        let means = self.in_batches(images, |tokens| {
            let mut means = vec![0.0; tokens.shape()[0] * config.dim];
            mean_over_tokens(&tokens, usize::from(config.class_token), &mut means);
            means
        })?;
        Ok(Tensor::new([images.shape()[0], config.dim], means))
    }

    /// \[N, C, S, S\] → \[N, K, D\]: every token after the last norm, a class token first; otherwise as
    /// [`features`](Self::features).
    ///
    /// # Errors
    /// When the images are not of the encoder's size.
    pub fn tokens(&self, images: &Tensor) -> Result<Tensor> {
        let config = self.encoder.config();
        let tokens = config.patches() + usize::from(config.class_token);
        let values = self.in_batches(images, |tokens| tokens.to_device(Device::Cpu).as_slice::<f32>().to_vec())?;
        Ok(Tensor::new([images.shape()[0], tokens, config.dim], values))
    }

    fn in_batches(&self, images: &Tensor, of: impl Fn(Tensor) -> Vec<f32> + Sync) -> Result<Vec<f32>> {
        let EncoderConfig { image_size: side, channels, .. } = *self.encoder.config();
        let n = match images.shape()[..] {
            [n, c, height, width] if (c, height, width) == (channels, side, side) => n,
            _ => {
                let shape = &images.shape()[..];
                let problem = format!("images of {shape:?} for an encoder of [N, {channels}, {side}, {side}]");
                return Err(Error::config(problem, "resize the images, or load the encoder with their size"));
            }
        };
        let images = images.to_dtype(DType::F32);
        let starts: Vec<usize> = (0..n).step_by(BATCH).collect();
        let encode = |start: usize| {
            let batch = images.rows(start..n.min(start + BATCH));
            of(self.encoder.forward(&self.params.constants(), &Var::constant(batch), None).value().clone())
        };
        Ok(starts.into_par_iter().map(encode).collect::<Vec<_>>().concat())
    }
}

/// How images are normalized, by who said so. This is the one place that decides it for whatever is read from a file.
#[derive(Clone, Debug, PartialEq)]
pub enum Preprocessing {
    /// The user.
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
    pub fn of(run: Option<&RunInfo>) -> Self {
        run.map_or(Preprocessing::ImageNet, |run| Self::of_run(run.normalization.clone()))
    }

    /// As a run had it, whose configuration says this.
    pub fn of_run(said: Option<Normalization>) -> Self {
        said.map_or(Preprocessing::Images, Preprocessing::Checkpoint)
    }

    /// The statistics; `None`: those that the data set suggests.
    pub fn normalization(&self) -> Option<Normalization> {
        match self {
            Preprocessing::Asked(normalization) | Preprocessing::Checkpoint(normalization) => {
                Some(normalization.clone())
            }
            Preprocessing::ImageNet => Some(Normalization::IMAGENET),
            Preprocessing::Images => None,
        }
    }

    /// The statistics for these images.
    ///
    /// # Errors
    /// If it has to be measured, and an image cannot be read.
    pub fn on(&self, splits: &Splits) -> Result<Normalization> {
        splits.normalization_or(self.normalization().as_ref())
    }
}
