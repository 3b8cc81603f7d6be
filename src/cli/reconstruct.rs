//! `stop-mim reconstruct`

use std::path::PathBuf;
use std::sync::Arc;

use clap::Args as ClapArgs;

use super::options::{MaskArgs, OpenArgs, Preprocessing};
use crate::data::{self, Normalization, Splits, Subset};
use crate::methods::{Model, ModelParams};
use crate::report::canvas::Canvas;
use crate::report::predictions::prediction_sheet;
use crate::train::predictions::predictions;
use crate::train::{RunConfig, checkpoint};
use crate::{Result, files};

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
    let checkpoint::Checkpoint { mut config, step, model, params } = checkpoint::load(&args.file)?;
    config.masking = args.masks.masking_like(config.masking)?;
    config.seed = args.seed.unwrap_or(config.seed);
    if let Some(data) = &args.data {
        config.data.clone_from(data);
    }
    let splits = data::open_with(&config.data, config.model.encoder.image_size, args.open.options())?;
    let preprocessing = Preprocessing::of_run(config.normalization);
    let Normalization { mean, std } = preprocessing.on(&splits)?;
    println!("images are normalized by mean {mean:?} and std {std:?}: {preprocessing}");
    config.normalization = Some(Normalization { mean, std }); // measured once
    draw_predictions((&model, &params), &config, &splits, usize::from(args.images))?.save_png(&args.out)?;
    println!("{} after {step} steps: {}", model.config.method.name(), args.out.display());
    Ok(())
}

/// What a model predicts of an even choice of `n` held-out images, under its run's masks.
pub fn draw_predictions(
    (model, params): (&Model, &ModelParams),
    config: &RunConfig,
    splits: &Splits,
    n: usize,
) -> Result<Canvas> {
    let normalization = splits.normalization_or(config.normalization.as_ref())?;
    let images = Subset::even(Arc::clone(&splits.test), n).unlabeled();
    let predictions = predictions((model, params), &config.masking, (&images, &normalization), config.seed)?;
    let encoder = &config.model.encoder;
    let scale = (128 / encoder.image_size).max(1);
    Ok(prediction_sheet(&predictions, encoder.image_size, encoder.patch_size, scale))
}
