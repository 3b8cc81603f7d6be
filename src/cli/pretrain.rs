//! `stop-mim pretrain`

use std::path::PathBuf;

use clap::Args as ClapArgs;

use super::options::{MaskArgs, ModelArgs, TrainArgs};
use super::probe::{ProbeArgs, probe};
use super::profile::profile;
use super::run::{RunFolder, run as pretrain, stopped};
use crate::train::weights::fresh_encoder;
use crate::{Result, data};

#[derive(ClapArgs, Clone, Debug)]
pub struct Args {
    /// Images: shapes (embedded), cifar10:DIR, cifar100:DIR, or folder:DIR with class/name.jpg|png.
    #[arg(long, default_value = "shapes", value_name = "DATA")]
    data: String,
    /// Where run folders are made.
    #[arg(long, default_value = "runs", value_name = "DIR")]
    out: PathBuf,
    /// Name of the run's folder [default: method and data]; a number is added when it exists.
    #[arg(long)]
    name: Option<String>,
    /// Steps between collapse diagnostics on held-out images [default: a twentieth of the run].
    #[arg(long, value_name = "STEPS")]
    diagnose_every: Option<usize>,
    /// Probe the trained encoder at the end.
    #[arg(long)]
    probe: bool,
    /// Measure some steps instead of training: where the time goes, by operation and by phase, and how much of the
    /// processor is used. Writes no files.
    #[arg(long, value_name = "STEPS", num_args = 0..=1, default_missing_value = "10")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..), conflicts_with_all = ["probe", "name", "diagnose_every"])]
    profile: Option<u32>,
    #[command(flatten)]
    probe_args: ProbeArgs,
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    masks: MaskArgs,
    #[command(flatten)]
    train: TrainArgs,
}

pub fn run(args: &Args) -> Result<()> {
    let model = args.model.config()?;
    let masking = args.masks.masking(&model)?;
    let splits = data::open(&args.data, model.encoder.image_size)?;
    let config = args.train.config(model, masking, &args.data, splits.train.len())?;
    if let Some(steps) = args.profile {
        return profile(&config, &splits, steps as usize);
    }
    let scheme = args.data.split(':').next().unwrap_or("data");
    let name = args.name.clone().unwrap_or_else(|| format!("{}-{scheme}", config.model.method.name()));
    let folder = RunFolder::create(&args.out, &name)?;
    println!("{}", splits.train.describe());
    let diagnose_every = args.diagnose_every.unwrap_or((config.steps / 20).max(1));
    let (model, params) = pretrain(&config, &splits, &folder, diagnose_every)?;
    if args.probe && !stopped() {
        let untrained = fresh_encoder(&config.model.encoder, config.model.linear_init, config.seed)?;
        probe(&args.probe_args, (&model.encoder, params.evaluated()), untrained, &splits)?;
    }
    Ok(())
}
