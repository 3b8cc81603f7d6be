//! `stop-mim masks`

use std::path::PathBuf;

use clap::Args as ClapArgs;

use super::options::{MaskArgs, ModelArgs};
use super::run::draw_masks;
use crate::{Result, data};

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
    let splits = data::open(&args.data, model.encoder.image_size)?;
    draw_masks(&masking, &model.encoder, args.seed, &*splits.train, args.images)?.save_png(&args.out)?;
    println!("{}", args.out.display());
    Ok(())
}
