//! `stop-mim pretrain`

use std::path::{Component, Path, PathBuf};

use clap::Args as ClapArgs;

use super::options::{LengthArgs, MaskArgs, ModelArgs, OpenArgs, StartArgs, TrainArgs};
use super::probe::{ProbeArgs, check, probe};
use super::profile::profile;
use super::run::{RunFolder, run as pretrain};
use super::signals;
use crate::data::{self, Splits};
use crate::methods::Method;
use crate::train::checkpoint::{CheckpointPolicy, SavedRun};
use crate::train::rotation::Newest;
use crate::train::weights::{fresh_encoder, load_into};
use crate::train::{Origin, RunConfig, Trainer, fresh_model};
use crate::{Error, Result};

#[derive(ClapArgs, Clone, Debug)]
pub struct Args {
    /// Images: shapes (embedded), cifar10:DIR, cifar100:DIR, or folder:DIR (docs/data.md) [default: shapes]. With
    /// --resume: where the run's images are now, if they have moved.
    #[arg(long, value_name = "DATA")]
    data: Option<String>,
    /// Where run folders are made.
    #[arg(long, default_value = "runs", value_name = "DIR")]
    out: PathBuf,
    /// Name of the run's folder [default: method and data]; a number is added when it exists.
    #[arg(long, value_parser = folder_name)]
    name: Option<String>,
    /// Go on with an interrupted run, from the last checkpoint in its folder. Its configuration is taken from there. With
    /// --steps or --epochs, a run becomes longer, a finished one too, or shorter.
    #[arg(long, value_name = "RUN_FOLDER")]
    #[arg(conflicts_with_all = ["out", "name", "profile", "ModelArgs", "MaskArgs", "TrainArgs", "init", "ReadArgs"])]
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
    /// Steps between collapse diagnostics on held-out images; 0: only at the end [default: a twentieth of the run].
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
    length: LengthArgs,
    #[command(flatten)]
    train: TrainArgs,
    #[command(flatten)]
    start: StartArgs,
}

/// What means nothing where nothing is trained or written.
const PROFILE_HAS_NO: [&str; 9] =
    ["debug_nan", "probe", "name", "diagnose_every", "checkpoint_every", "keep", "keep_every", "init", "ReadArgs"];

fn positive(text: &str) -> std::result::Result<usize, String> {
    let fine = |n: &usize| (1..=RunConfig::MOST_STEPS).contains(&(*n as u64));
    text.parse().ok().filter(fine).ok_or(format!("'{text}' is not a whole number from 1 to 10^12"))
}

/// The name of a folder in another: a path would lead elsewhere.
fn folder_name(text: &str) -> std::result::Result<String, String> {
    let mut parts = Path::new(text).components();
    match (parts.next(), parts.next()) {
        (Some(Component::Normal(name)), None) if name == text => Ok(text.to_owned()),
        _ => Err("not the name of a folder; --out says where it is made".to_owned()),
    }
}

pub fn run(args: &Args) -> Result<()> {
    if let Some(folder) = &args.resume {
        return resume(args, RunFolder::open(folder)?);
    }
    let model = args.model.config()?;
    let masking = args.masks.masking(&model)?;
    let data = data::absolute_spec(args.data.as_deref().unwrap_or("shapes"))?;
    let splits = data::open_with(&data, model.encoder.image_size, args.open.options())?;
    if args.probe {
        check(&args.probe_args, &splits)?;
    }
    let mut config = args.train.config((model, masking), &args.length, &data, &splits)?;
    if let Some(steps) = args.profile {
        return profile(&config, &splits, steps as usize);
    }
    let epoch = splits.train.len() / config.batch;
    let standard = CheckpointPolicy {
        diagnose_every: (config.steps / 20).max(1),
        checkpoint_every: epoch,
        keep: 2,
        keep_every: 0,
        images: images(&splits),
    };
    let upkeep = args.upkeep(standard, epoch);
    let (model, mut params) = fresh_model(&config)?;
    let mut read = None;
    if let Some(file) = &args.start.init {
        let report = load_into(file, &model, &mut params, &args.start.read.options())?;
        report.lines.iter().for_each(|line| say!("{line}"));
        read = Some(report);
        config.init = Some(Origin::of(file)?);
    }
    if let Some(preprocessing) = args.start.preprocessing(read.as_ref())? {
        let normalization = preprocessing.on(&splits)?;
        say!("images are normalized with mean {:?}, std {:?}: {preprocessing}", normalization.mean, normalization.std);
        config.normalization = Some(normalization);
    }
    let scheme = data.split(':').next().unwrap_or("data");
    let name = args.name.clone().unwrap_or_else(|| format!("{}-{scheme}", config.model.method.name()));
    let folder = RunFolder::create(&args.out, &name)?;
    go_on(args, SavedRun { config, upkeep, trainer: Trainer::new(model, params) }, &splits, &folder)
}

/// `--resume`
fn resume(args: &Args, folder: RunFolder) -> Result<()> {
    let Newest { mut run, damaged } = folder.checkpoints().newest()?;
    for problem in &damaged {
        say!("{problem}");
    }
    let before = (run.config.clone(), run.upkeep.clone());
    if let Some(data) = &args.data {
        run.config.data = data::absolute_spec(data)?;
    }
    let RunConfig { data, model, .. } = &run.config;
    let opened = data::open_with(data, model.encoder.image_size, args.open.options());
    let splits = opened.map_err(|error| match args.data {
        Some(_) => error,
        None => error.noted("if the images have moved, say where they are now: --resume with --data, as in folder:DIR"),
    })?;
    check_images(data, &splits, &run.upkeep.images)?;
    run.upkeep.images = images(&splits);
    if args.probe {
        check(&args.probe_args, &splits)?;
    }
    let (done, epoch) = (run.trainer.optimizer.steps() as usize, splits.train.len() / run.config.batch);
    if let Some(steps) = args.length.steps(epoch)? {
        run.config = of_length(steps, done, run.config)?;
    }
    let instead = if damaged.is_empty() { "" } else { ", from the checkpoint before it" };
    say!("going on after step {done} of {}{instead}", run.config.steps);
    if done == run.config.steps {
        say!("the run is complete; with --steps or --epochs it becomes longer");
    }
    run.upkeep = args.upkeep(run.upkeep, epoch);
    if (&run.config, &run.upkeep) != (&before.0, &before.1) {
        // What was said now holds however soon the run is interrupted again.
        folder.checkpoints().save(&run.config, &run.upkeep, &run.trainer)?;
    }
    go_on(args, run, &splits, &folder)
}

/// The run, of which `done` steps are done, with `steps` in all. Says what becomes of its schedules.
fn of_length(steps: usize, done: usize, run: RunConfig) -> Result<RunConfig> {
    if steps < done {
        let problem = format!("a run of {steps} steps cannot go on after step {done}");
        return Err(Error::config(problem, format!("ask for at least {done} steps in all: those done count")));
    }
    let changed = RunConfig { steps, ..run.clone() };
    changed.validate()?;
    if steps != run.steps {
        say!(
            "a run of {} steps becomes one of {steps}: its warm-up stays, its schedules stretch to the new end",
            run.steps
        );
    }
    if steps != run.steps && done > 0 && done < steps {
        let ((lr, decay, ema), (new_lr, new_decay, new_ema)) = (run.schedules(), changed.schedules());
        let next = done + 1;
        say!("  learning rate: {:.3e} at step {done}, {:.3e} at step {next}", lr.at(done), new_lr.at(next));
        say!("  weight decay: {:.4} at step {done}, {:.4} at step {next}", decay.at(done), new_decay.at(next));
        if !matches!(run.model.method, Method::Mae { .. }) {
            say!("  EMA momentum: {:.6} at step {done}, {:.6} at step {next}", ema.at(done), new_ema.at(next));
        }
    }
    Ok(changed)
}

/// Trains from where the run stands to its end, and probes it if that was asked for.
fn go_on(args: &Args, run: SavedRun, splits: &Splits, folder: &RunFolder) -> Result<()> {
    say!("{}", splits.train.describe());
    if splits.test.is_empty() {
        say!("no images are held out: nothing will tell whether the features collapse");
    }
    let config = run.config.clone();
    let (model, params) = pretrain(run, splits, folder, args.debug_nan)?;
    if splits.skipped() > 0 {
        say!("files that could not be used and were skipped: {}; the warnings name them", splits.skipped());
    }
    if args.probe && !signals::stopped() {
        let untrained = || fresh_encoder(&config.model.encoder, config.model.linear_init, config.seed);
        let normalization = splits.normalization_or(config.normalization.as_ref())?;
        let trained = (&model.encoder, params.evaluated());
        probe(&args.probe_args, trained, &untrained, (splits, &normalization))?;
    }
    Ok(())
}

impl Args {
    /// What the flags say, and where they say nothing, what was so far. `epoch` is its number of steps.
    fn upkeep(&self, so_far: CheckpointPolicy, epoch: usize) -> CheckpointPolicy {
        CheckpointPolicy {
            diagnose_every: self.diagnose_every.unwrap_or(so_far.diagnose_every),
            checkpoint_every: self.checkpoint_every.unwrap_or(so_far.checkpoint_every),
            keep: self.keep.unwrap_or(so_far.keep),
            keep_every: self.keep_every.map_or(so_far.keep_every, |epochs| epochs.saturating_mul(epoch)),
            images: so_far.images,
        }
    }
}

/// By what a run knows its images again: the lists of both splits.
fn images(splits: &Splits) -> String {
    [splits.train.identity(), splits.test.identity()].join(HELD_OUT)
}

/// What is between the two.
const HELD_OUT: &str = "; held out: ";

/// That the run can go on with these images, of which those to train on must be the same. If others are held out, which no
/// weight depends on, it says so.
fn check_images(data: &str, splits: &Splits, before: &str) -> Result<()> {
    let now = images(splits);
    let Some((train, held_out)) = before.split_once(HELD_OUT) else {
        // An earlier version wrote numbers of images, and statistics of pixels.
        let numbers = format!("{} and {} images, ", splits.train.len(), splits.test.len());
        return if before.starts_with(&numbers) { Ok(()) } else { Err(other_images(data, &now, before)) };
    };
    if train != splits.train.identity() {
        return Err(other_images(data, &splits.train.identity(), train));
    }
    if held_out != splits.test.identity() {
        say!("held out are other images than before: {}, where there were {held_out}", splits.test.identity());
    }
    Ok(())
}

fn other_images(data: &str, now: &str, before: &str) -> Error {
    let problem = format!("{data}: not the images of this run: {now}, where there were {before}");
    let hint = "bring back the files under their names (warnings name those that cannot be used), say where they are \
                (--data), or start a new run";
    Error::config(problem, hint)
}
