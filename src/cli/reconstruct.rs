//! `stop-mim reconstruct`

use std::path::PathBuf;

use clap::Args as ClapArgs;

use super::encoder::normalization;
use super::options::{MaskArgs, OpenArgs};
use super::pictures::draw_predictions;
use crate::train::checkpoint;
use crate::train::weights::Preprocessing;
use crate::{Result, data, files};

#[derive(ClapArgs, Clone, Debug)]
pub struct Args {
    /// A checkpoint that pretrain wrote.
    #[arg(value_name = "CHECKPOINT")]
    file: PathBuf,
    /// Images, as for pretrain [default: those the checkpoint was trained on]. Held-out ones are drawn.
    #[arg(long, value_name = "DATA")]
    data: Option<String>,
    /// How many images, evenly chosen from all classes.
    #[arg(long, default_value_t = 6, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=64))]
    images: u8,
    /// The picture to write.
    #[arg(long, default_value = "predictions.png", value_name = "FILE")]
    out: PathBuf,
    #[command(flatten)]
    open: OpenArgs,
    #[command(flatten)]
    masks: MaskArgs,
    /// Decides the masks and the noise [default: the run's].
    #[arg(long)]
    seed: Option<u64>,
}

pub fn run(args: &Args) -> Result<()> {
    files::check_is_png(&args.out)?;
    files::check_writable(&args.out)?;
    let checkpoint::Checkpoint { mut config, step, method, params } = checkpoint::load(&args.file)?;
    config.masking = args.masks.apply(config.masking)?;
    config.seed = args.seed.unwrap_or(config.seed);
    if let Some(data) = &args.data {
        config.data.clone_from(data);
    }
    let splits = data::open_with(&config.data, config.model.encoder.image_size, args.open.options())?;
    config.normalization = Some(normalization(&Preprocessing::of_run(config.normalization), &splits)?);
    draw_predictions((&*method, &params), &config, &splits, usize::from(args.images))?.save_png(&args.out)?;
    println!("{} after {step} steps: {}", config.model.method, args.out.display());
    Ok(())
}
