//! `stop-mim masks`

use std::path::PathBuf;
use std::sync::Arc;

use clap::Args as ClapArgs;

use super::options::{MaskArgs, ModelArgs, OpenArgs};
use crate::Result;
use crate::data::{self, Dataset, Subset};
use crate::report::canvas::Canvas;
use crate::report::masks::{MaskedImage, mask_sheet};
use crate::rng::{Purpose, stream};
use crate::train::Masking;
use crate::vit::EncoderConfig;

#[derive(ClapArgs, Clone, Debug)]
pub struct Args {
    /// Images, as for pretrain.
    #[arg(long, default_value = "shapes", value_name = "DATA")]
    data: String,
    /// How many images.
    #[arg(long, default_value_t = 8, value_name = "N")]
    images: usize,
    /// The picture to write.
    #[arg(long, default_value = "masks.png", value_name = "FILE")]
    out: PathBuf,
    #[command(flatten)]
    open: OpenArgs,
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    masks: MaskArgs,
    /// Decides the masks.
    #[arg(long, default_value_t = 0)]
    seed: u64,
}

pub fn run(args: &Args) -> Result<()> {
    let model = args.model.config()?;
    let masking = args.masks.masking(&model)?;
    let splits = data::open_with(&args.data, model.encoder.image_size, args.open.options())?;
    draw_masks(&masking, &model.encoder, args.seed, splits.train, args.images)?.save_png(&args.out)?;
    println!("{}", args.out.display());
    Ok(())
}

/// An even choice of `n` images, each with masks as a run's first step would draw them. No other image is looked at.
pub fn draw_masks(
    masking: &Masking,
    encoder: &EncoderConfig,
    seed: u64,
    images: Arc<dyn Dataset>,
    n: usize,
) -> Result<Canvas> {
    let images = Subset::even(images, n);
    let n = images.len();
    let mut rng = stream(seed, Purpose::Mask, [1, 0]);
    let (contexts, targets) = masking.sample(n, encoder.patches(), &mut rng)?;
    // MAE predicts all that is not visible: drawing it as a block would show the same twice.
    let blocks = if let Masking::Blocks(_) = masking { &targets[..] } else { &[] };
    let mut pixels = vec![vec![0; 3 * encoder.image_size.pow(2)]; n];
    for (i, pixels) in pixels.iter_mut().enumerate() {
        images.unlabelled_pixels(i, pixels)?;
    }
    let rows: Vec<Vec<&[u32]>> = (0..n).map(|i| blocks.iter().map(|t| t.row(i)).collect()).collect();
    let masked: Vec<MaskedImage<'_>> =
        (0..n).map(|i| MaskedImage { pixels: &pixels[i], context: contexts[0].row(i), targets: &rows[i] }).collect();
    let scale = (96 / encoder.image_size).max(1);
    Ok(mask_sheet(&masked, encoder.image_size, encoder.patch_size, scale))
}
