//! `stop-mim masks`

use std::path::PathBuf;

use clap::Args as ClapArgs;

use super::options::{MaskArgs, ModelArgs, OpenArgs, recipe};
use super::pictures::draw_masks;
use crate::{Result, data, files};

#[derive(ClapArgs, Clone, Debug)]
pub struct Args {
    /// Images, as for pretrain.
    #[arg(long, default_value = "shapes", value_name = "DATA")]
    data: String,
    /// How many images.
    #[arg(long, default_value_t = 8, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=64))]
    images: u8,
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
    files::check_is_png(&args.out)?;
    files::check_writable(&args.out)?;
    let config = recipe(&args.model, &args.masks)?;
    let encoder = &config.model.encoder;
    let splits = data::open_with(&args.data, encoder.image_size, args.open.options())?;
    draw_masks(&config.masking, encoder, args.seed, splits.train, usize::from(args.images))?.save_png(&args.out)?;
    println!("{}", args.out.display());
    Ok(())
}
