//! `stop-mim pretrain`

use std::ops::ControlFlow;
use std::path::{Component, Path, PathBuf};

use clap::Args as ClapArgs;

use super::encoder::{StartArgs, normalization};
use super::flags::{flag, positive};
use super::options::{LengthArgs, MaskArgs, ModelArgs, OpenArgs, TrainArgs, recipe};
use super::pictures::{curves, draw_masks, draw_positions, draw_predictions};
use super::probe::{Chosen, ProbeArgs, probe};
use super::profile::profile;
use super::progress::Progress;
use super::signals;
use crate::Result;
use crate::data::{self, Splits};
use crate::error::renamed;
use crate::methods::{Number, TokenPrediction};
use crate::runs::{RunFolder, default_policy};
use crate::train::checkpoint::{CheckpointPolicy, SavedRun};
use crate::train::weights::{Preprocessing, fresh_encoder, load_into};
use crate::train::{DIAGNOSTICS, RunConfig, StepReport, Trainer, WeightsFile, fresh_model};

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
    /// Resume an interrupted run from the last checkpoint in its folder. Its configuration is taken from there. With
    /// --steps or --epochs, a run becomes longer, a finished one too, or shorter.
    #[arg(long, value_name = "RUN_FOLDER", conflicts_with_all = RESUME_HAS_NO)]
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

/// What a run that is resumed has decided already.
const RESUME_HAS_NO: [&str; 9] =
    ["out", "name", "profile", "ModelArgs", "SizeArgs", "MaskArgs", "TrainArgs", "init", "ReadArgs"];

/// What means nothing where nothing is trained or written.
const PROFILE_HAS_NO: [&str; 9] =
    ["debug_nan", "probe", "name", "diagnose_every", "checkpoint_every", "keep", "keep_every", "init", "ReadArgs"];

/// The name of a folder in another: a path would lead elsewhere.
fn folder_name(text: &str) -> Result<String, String> {
    let mut parts = Path::new(text).components();
    match (parts.next(), parts.next()) {
        (Some(Component::Normal(name)), None) if name == text => Ok(text.to_owned()),
        _ => Err("not the name of a folder; --out says where it is made".to_owned()),
    }
}

pub fn run(args: &Args) -> Result<()> {
    args.resume.as_ref().map_or_else(|| begin(args), |folder| resume(args, &RunFolder::open(folder)?))
}

/// A new run.
fn begin(args: &Args) -> Result<()> {
    let config = recipe(&args.model, &args.masks)?;
    let data = data::absolute_spec(args.data.as_deref().unwrap_or(&config.data))?;
    let splits = data::open_with(&data, config.model.encoder.image_size, args.open.options())?;
    if args.probe {
        Chosen::new(&args.probe_args, &splits)?;
    }
    let config = RunConfig { data, normalization: Some(splits.normalization()?), ..config };
    let mut config = args.train.apply(config, args.length.length(), splits.train.len())?;
    if let Some(steps) = args.profile {
        return profile(&config, &splits, steps as usize);
    }
    let policy = args.policy(default_policy(&config, &splits), splits.train.len() / config.batch);
    let (method, mut params) = fresh_model(&config)?;
    let mut preprocessing = None;
    if let Some(file) = &args.start.init {
        let report = load_into(file, &*method, &mut params, &args.start.read.options())?;
        report.lines.iter().for_each(|line| say!("{}", renamed(line, flag)));
        preprocessing = Some(Preprocessing::of(report.run.as_ref()));
        config.init = Some(WeightsFile::of(file)?);
    }
    if let Some(preprocessing) = args.start.read.asked()?.or(preprocessing) {
        config.normalization = Some(normalization(&preprocessing, &splits)?);
    }
    let scheme = config.data.split(':').next().unwrap_or("data");
    let name = args.name.clone().unwrap_or_else(|| format!("{}-{scheme}", config.model.method.name()));
    let folder = RunFolder::create(&args.out, &name)?;
    train(args, SavedRun { config, policy, trainer: Trainer::new(method, params) }, &splits, &folder)
}

/// `--resume`
fn resume(args: &Args, folder: &RunFolder) -> Result<()> {
    let mut resumed = folder.resume(args.data.as_deref(), args.open.options())?;
    resumed.notes.iter().for_each(|note| say!("{}", renamed(note, flag)));
    if args.probe {
        Chosen::new(&args.probe_args, &resumed.splits)?;
    }
    if let Some(length) = args.length.length() {
        resumed.set_length(length)?.iter().for_each(|change| say!("{change}"));
    }
    let (done, run) = (resumed.done(), &mut resumed.run);
    run.policy = args.policy(run.policy.clone(), resumed.splits.train.len() / run.config.batch);
    let steps = run.config.steps;
    let instead = if resumed.damaged { ", from the checkpoint before it" } else { "" };
    say!("going on after step {done} of {steps}{instead}");
    if done == steps {
        say!("the run is complete; with --steps or --epochs it becomes longer");
    }
    folder.save_changes(&resumed)?;
    train(args, resumed.run, &resumed.splits, folder)
}

/// Trains from where the run stands to its end, or to Ctrl-C, draws its pictures, and probes it if that was asked for.
fn train(args: &Args, run: SavedRun, splits: &Splits, folder: &RunFolder) -> Result<()> {
    say!("{}", splits.train.describe());
    if splits.test.is_empty() {
        say!("no images are held out: nothing will tell whether the features collapse");
    }
    signals::listen();
    let (config, done) = (run.config.clone(), run.trainer.optimizer.steps() as usize);
    // The name of a picture that was saved. Of one that was not it is said why: no run fails for a picture.
    let keep = |name: &'static str, draw: &dyn Fn(&Path) -> Result<()>| {
        let path = folder.file(name);
        let warn = |error: crate::Error| note!("warning: {} is not drawn: {}", path.display(), error.renamed(flag));
        draw(&path).map(|()| name).map_err(warn).ok()
    };
    if done == 0 {
        keep("masks.png", &|path| {
            let images = splits.train.clone();
            draw_masks(&config.masking, &config.model.encoder, config.seed, images, 6)?.save_png(path)
        });
    }
    let own = run.trainer.method.numbers(&run.trainer.params, &[]).0;
    let known: Vec<Number> = own.into_iter().chain(DIAGNOSTICS).collect();
    let trained = with_progress(args, run, splits, folder);
    // Also when training failed: what was logged shows how it came to that.
    let drawn = keep("curves.svg", &|path| curves(&config, &folder.log()?, &known).save_svg(path));
    let trainer = trained?;
    let mut written = vec!["checkpoint.safetensors", "log.csv"];
    written.extend(drawn);
    written.extend(folder.file("masks.png").exists().then_some("masks.png"));
    if TokenPrediction::of(&*trainer.method).is_some() && !splits.test.is_empty() {
        written.extend(keep("predictions.png", &|path| {
            draw_predictions((&*trainer.method, &trainer.params), &config, splits, 6)?.save_png(path)
        }));
    }
    if let Some(sheet) = draw_positions(&trainer, config.seed) {
        written.extend(keep("positions.png", &|path| sheet.save_png(path)));
    }
    written.into_iter().for_each(|name| say!("  {}", folder.file(name).display()));
    let step = trainer.optimizer.steps() as usize;
    if step < config.steps {
        say!("stopped at step {step} of {}, as asked; everything is written", config.steps);
        say!("stop-mim pretrain --resume {} goes on", folder.path().display());
    }
    if splits.skipped() > 0 {
        say!("files that could not be used and were skipped: {}; the warnings name them", splits.skipped());
    }
    if args.probe && !signals::stopped() {
        let untrained = || fresh_encoder(&config.model.encoder, config.model.linear_init, config.seed);
        let normalization = splits.normalization_or(config.normalization.as_ref())?;
        let trained = (trainer.method.encoder(), trainer.params.evaluated());
        probe(&args.probe_args, trained, &untrained, (splits, &normalization))?;
    }
    Ok(())
}

/// Trains, and shows how it goes.
fn with_progress(args: &Args, run: SavedRun, splits: &Splits, folder: &RunFolder) -> Result<Trainer> {
    let (steps, batch, done) = (run.config.steps, run.config.batch, run.trainer.optimizer.steps() as usize);
    let progress = Progress::new(steps, "pretrain");
    progress.advance(done, String::new);
    let (mut speed, mut diagnosis) = (0.0, String::new());
    let trained = folder.train(run, splits, args.debug_nan, &mut |report| {
        // A running mean over about fifty steps: single steps jump.
        speed += (report.images_per_second - speed) / (report.step - done).min(50) as f64;
        if let Some(d) = &report.diagnostics {
            diagnosis = format!("rank {:.1}, std {:.3}", d["rank_me"], d["feature_std"]);
        }
        progress.advance(1, || {
            let StepReport { step, loss, params, ref numbers, .. } = *report;
            let (lr, left) = (params.lr, minutes(((steps - step) * batch) as f64 / speed));
            let own: String = numbers.0.iter().take(2).map(|n| format!("{} {:.2}  ", n.label, n.value)).collect();
            format!("loss {loss:.4}  lr {lr:.1e}  {own}{diagnosis}  {speed:.0} images/s  ETA {left}")
        });
        if signals::stopped() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    progress.finish();
    trained
}

fn minutes(seconds: f64) -> String {
    if seconds.is_finite() { format!("{}:{:02}", seconds as u64 / 60, seconds as u64 % 60) } else { "?".into() }
}

impl Args {
    /// What the flags say, and where they say nothing, what was so far. `epoch` is its number of steps.
    fn policy(&self, so_far: CheckpointPolicy, epoch: usize) -> CheckpointPolicy {
        CheckpointPolicy {
            diagnose_every: self.diagnose_every.unwrap_or(so_far.diagnose_every),
            checkpoint_every: self.checkpoint_every.unwrap_or(so_far.checkpoint_every),
            keep: self.keep.unwrap_or(so_far.keep),
            keep_every: self.keep_every.map_or(so_far.keep_every, |epochs| epochs.saturating_mul(epoch)),
            images: so_far.images,
        }
    }
}
