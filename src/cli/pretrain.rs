//! `stop-mim pretrain`

use std::path::PathBuf;

use clap::Args as ClapArgs;

use super::options::{MaskArgs, ModelArgs, OpenArgs, TrainArgs};
use super::probe::{ProbeArgs, probe};
use super::profile::profile;
use super::run::{RunFolder, run as pretrain};
use super::signals;
use crate::data::{self, Splits};
use crate::train::checkpoint::{SavedRun, Upkeep};
use crate::train::rotation::Newest;
use crate::train::weights::fresh_encoder;
use crate::train::{RunConfig, Trainer, fresh_model};
use crate::{Error, Result};

#[derive(ClapArgs, Clone, Debug)]
pub struct Args {
    /// Images: shapes (embedded), cifar10:DIR, cifar100:DIR, or folder:DIR with class/name.jpg|png.
    #[arg(long, default_value = "shapes", value_name = "DATA")]
    data: String,
    /// Where run folders are made.
    #[arg(long, default_value = "runs", value_name = "DIR")]
    out: PathBuf,
    /// Name of the run's folder [default: method and data]; a number is added when it exists.
    #[arg(long, value_parser = clap::builder::NonEmptyStringValueParser::new())]
    name: Option<String>,
    /// Go on with an interrupted run, from the last checkpoint in its folder. Its configuration is taken from there.
    #[arg(long, value_name = "RUN_FOLDER")]
    #[arg(conflicts_with_all = ["data", "out", "name", "profile", "ModelArgs", "MaskArgs", "TrainArgs"])]
    resume: Option<PathBuf>,
    /// Steps between checkpoints [default: an epoch; one is made every five minutes too, and at the end].
    #[arg(long, value_name = "STEPS", value_parser = positive)]
    checkpoint_every: Option<usize>,
    /// How many of the last checkpoints are kept [default: 2].
    #[arg(long, value_name = "K", value_parser = positive)]
    keep: Option<usize>,
    /// Keep the checkpoint of every Nth epoch for good [default: of none].
    #[arg(long, value_name = "N", value_parser = positive)]
    keep_every: Option<usize>,
    /// Steps between collapse diagnostics on held-out images [default: a twentieth of the run].
    #[arg(long, value_name = "STEPS")]
    diagnose_every: Option<usize>,
    /// Look at every number of every step, twice as slow, and stop at the first that is not finite. (Without it, a loss or
    /// gradient that is not finite ends the run too, with the operation that first made one.)
    #[arg(long)]
    debug_nan: bool,
    /// Probe the trained encoder at the end.
    #[arg(long)]
    probe: bool,
    /// Measure some steps instead of training: where the time goes, by operation and by phase, and how much of the
    /// processor is used. Writes no files.
    #[arg(long, value_name = "STEPS", num_args = 0..=1, default_missing_value = "10")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..), conflicts_with_all = PROFILE_HAS_NO)]
    profile: Option<u32>,
    #[command(flatten)]
    open: OpenArgs,
    #[command(flatten)]
    probe_args: ProbeArgs,
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    masks: MaskArgs,
    #[command(flatten)]
    train: TrainArgs,
}

/// What means nothing where nothing is trained or written.
const PROFILE_HAS_NO: [&str; 7] =
    ["debug_nan", "probe", "name", "diagnose_every", "checkpoint_every", "keep", "keep_every"];

fn positive(text: &str) -> std::result::Result<usize, String> {
    text.parse().ok().filter(|n| *n > 0).ok_or(format!("'{text}' is not a whole number above 0"))
}

pub fn run(args: &Args) -> Result<()> {
    if let Some(folder) = &args.resume {
        return resume(args, RunFolder::open(folder)?);
    }
    let model = args.model.config()?;
    let masking = args.masks.masking(&model)?;
    let splits = data::open_with(&args.data, model.encoder.image_size, args.open.options())?;
    let config = args.train.config(model, masking, &args.data, &splits)?;
    if let Some(steps) = args.profile {
        return profile(&config, &splits, steps as usize);
    }
    let epoch = splits.train.len() / config.batch;
    let standard = Upkeep {
        diagnose_every: (config.steps / 20).max(1),
        checkpoint_every: epoch,
        keep: 2,
        keep_every: 0,
        images: images(&splits)?,
    };
    let upkeep = args.upkeep(standard, epoch);
    let scheme = args.data.split(':').next().unwrap_or("data");
    let name = args.name.clone().unwrap_or_else(|| format!("{}-{scheme}", config.model.method.name()));
    let folder = RunFolder::create(&args.out, &name)?;
    let (model, params) = fresh_model(&config)?;
    go_on(args, SavedRun { config, upkeep, trainer: Trainer::new(model, params) }, &splits, &folder)
}

/// `--resume`
fn resume(args: &Args, folder: RunFolder) -> Result<()> {
    let Newest { mut run, damaged } = folder.checkpoints().newest()?;
    let RunConfig { data, model, batch, steps, .. } = &run.config;
    let splits = data::open_with(data, model.encoder.image_size, args.open.options())?;
    let now = images(&splits)?;
    if now != run.upkeep.images {
        let problem = format!("not the images of this run: {now}, where there were {}", run.upkeep.images);
        return Err(Error::config(
            format!("{data}: {problem}"),
            "bring back the images as they were, or start a new run",
        ));
    }
    for problem in &damaged {
        say!("{problem}");
    }
    let done = run.trainer.optimizer.steps();
    let instead = if damaged.is_empty() { "" } else { ", from the checkpoint before it" };
    say!("going on after step {done} of {steps}{instead}");
    run.upkeep = args.upkeep(run.upkeep.clone(), splits.train.len() / batch);
    go_on(args, run, &splits, &folder)
}

/// Trains from where the run stands to its end, and probes it if that was asked for.
fn go_on(args: &Args, run: SavedRun, splits: &Splits, folder: &RunFolder) -> Result<()> {
    say!("{}", splits.train.describe());
    let config = run.config.clone();
    let (model, params) = pretrain(run, splits, folder, args.debug_nan)?;
    if splits.skipped() > 0 {
        say!("{} files could not be used and were skipped: the warnings name them", splits.skipped());
    }
    if args.probe && !signals::stopped() {
        let untrained = fresh_encoder(&config.model.encoder, config.model.linear_init, config.seed)?;
        probe(&args.probe_args, (&model.encoder, params.evaluated()), untrained, splits)?;
    }
    Ok(())
}

impl Args {
    /// What the flags say, and where they say nothing, what was so far. `epoch` is its number of steps.
    fn upkeep(&self, so_far: Upkeep, epoch: usize) -> Upkeep {
        Upkeep {
            diagnose_every: self.diagnose_every.unwrap_or(so_far.diagnose_every),
            checkpoint_every: self.checkpoint_every.unwrap_or(so_far.checkpoint_every),
            keep: self.keep.unwrap_or(so_far.keep),
            keep_every: self.keep_every.map_or(so_far.keep_every, |epochs| epochs.saturating_mul(epoch)),
            images: so_far.images,
        }
    }
}

/// By what a run knows its images again: their number, and the statistics of their pixels.
fn images(splits: &Splits) -> Result<String> {
    let (train, test, n) = (splits.train.len(), splits.test.len(), splits.normalization()?);
    Ok(format!("{train} and {test} images, mean {:?}, std {:?}", n.mean, n.std))
}
