//! `stop-mim probe`

use std::path::PathBuf;

use clap::Args as ClapArgs;

use super::run::{ProbeArgs, probe};
use crate::train::checkpoint;
use crate::{Result, data};

#[derive(ClapArgs, Clone, Debug)]
pub struct Args {
    /// A checkpoint.safetensors that pretrain wrote.
    checkpoint: PathBuf,
    /// Images to probe on, as for pretrain [default: those it was trained on].
    #[arg(long, value_name = "DATA")]
    data: Option<String>,
    #[command(flatten)]
    probe: ProbeArgs,
}

pub fn run(args: &Args) -> Result<()> {
    let saved = checkpoint::load(&args.checkpoint)?;
    let spec = args.data.as_deref().unwrap_or(&saved.config.data);
    let splits = data::open(spec, saved.config.model.encoder.image_size)?;
    println!("{} after {} steps, on {}", saved.config.model.method.name(), saved.step, splits.train.describe());
    probe(&args.probe, &saved.config, (&saved.model, &saved.params), &splits)
}
