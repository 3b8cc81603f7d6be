//! What a patch is compared by.

use crate::Result;
use crate::autograd::{Var, ops};
use crate::data::Normalization;
use crate::data::video::Frame;
use crate::nn::Params;
use crate::tensor::{Device, Tensor};
use crate::vit::Encoder;

/// Makes a vector of every patch of a frame.
pub trait PatchFeatures: Sync {
    /// The side of a patch in pixels.
    fn patch_size(&self) -> usize;

    /// Features of the patches of a frame, \[rows · columns, D\] in raster order. Both sides of the frame are multiples of
    /// [`patch_size`](Self::patch_size). Their lengths do not matter, only their directions.
    ///
    /// # Errors
    /// When the frame cannot be normalized.
    fn features(&self, frame: &Frame) -> Result<Tensor>;
}

/// The tokens of an encoder, after its last block and norm; a class token is left out. On frames of another size than the
/// encoder's its positions are [interpolated](Encoder::for_grid).
pub struct EncoderFeatures<'a> {
    /// What is computed.
    pub encoder: &'a Encoder,
    /// With what.
    pub params: &'a Params,
    /// How its images are normalized.
    pub normalization: &'a Normalization,
}

impl PatchFeatures for EncoderFeatures<'_> {
    fn patch_size(&self) -> usize {
        self.encoder.config().patch_size
    }

    fn features(&self, frame: &Frame) -> Result<Tensor> {
        let config = self.encoder.config();
        let grid = frame.size().map(|side| side / config.patch_size);
        let (encoder, params) = self.encoder.for_grid(self.params, grid);
        let tokens = encoder.forward(&params.constants(), &image(frame, self.normalization)?, None); // [1, N, D]
        let skip = usize::from(config.class_token);
        let patches = grid[0] * grid[1];
        Ok(tokens.value().to_device(Device::Cpu).reshape([skip + patches, config.dim]).rows(skip..skip + patches))
    }
}

/// The pixels of a patch, normalized: the baseline without an encoder.
pub struct PixelFeatures<'a> {
    /// The side of a patch.
    pub patch_size: usize,
    /// How pixels are normalized.
    pub normalization: &'a Normalization,
}

impl PatchFeatures for PixelFeatures<'_> {
    fn patch_size(&self) -> usize {
        self.patch_size
    }

    fn features(&self, frame: &Frame) -> Result<Tensor> {
        let image = image(frame, self.normalization)?;
        let patches = ops::patchify(&image, self.patch_size, ops::PatchOrder::ChannelFirst); // [1, N, 3 p²]
        let [_, n, dim] = patches.dims("pixel features");
        Ok(patches.value().reshape([n, dim]))
    }
}

/// \[1, 3, height, width\]
fn image(frame: &Frame, normalization: &Normalization) -> Result<Var> {
    let [height, width] = frame.size();
    Ok(Var::constant(frame.normalized(normalization)?.reshape([1, 3, height, width])))
}
