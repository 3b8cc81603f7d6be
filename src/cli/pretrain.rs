//! `stop-mim pretrain`

use std::path::PathBuf;

use clap::Args as ClapArgs;

use super::encoder::{StartArgs, normalization};
use super::flags::flag;
use super::options::{DeviceArgs, LengthArgs, MaskArgs, ModelArgs, OpenArgs, TrainArgs, recipe};
use super::pictures::{draw_masks, draw_positions, draw_predictions};
use super::probe::{Chosen, ProbeArgs, probe};
use super::profile::profile;
use super::run::{RunArgs, keep, keep_curves, report, say_skipped, take_up, weigh};
use super::{only_alone, signals};
use crate::data::{self, Splits};
use crate::error::renamed;
use crate::methods::{Number, TokenPrediction};
use crate::processes::world;
use crate::runs::{RunFolder, check_together, default_policy, receive};
use crate::tensor::Device;
use crate::train::checkpoint::SavedRun;
use crate::train::weights::{Preprocessing, fresh_encoder, load_into};
use crate::train::{DIAGNOSTICS, RunConfig, Trainer, WeightsFile, fresh_model};
use crate::{Error, Result};

#[derive(ClapArgs, Clone, Debug)]
pub struct Args {
    /// Images: shapes (embedded), cifar10:DIR, cifar100:DIR, or folder:DIR (docs/data.md) [default: shapes]. With
    /// --resume: where the run's images are now, if they have moved.
    #[arg(long, value_name = "DATA")]
    data: Option<String>,
    /// Resume an interrupted run from the last checkpoint in its folder. Its configuration is taken from there. With
    /// --steps or --epochs, a run becomes longer, a finished one too, or shorter.
    #[arg(long, value_name = "RUN_FOLDER", conflicts_with_all = RESUME_HAS_NO)]
    resume: Option<PathBuf>,
    /// Probe the trained encoder at the end.
    #[arg(long)]
    probe: bool,
    /// Measure some steps instead of training: where the time goes, by operation and by phase, and how much of the
    /// processor is used. Writes no files.
    #[arg(long, value_name = "STEPS", num_args = 0..=1, default_missing_value = "10")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..), conflicts_with_all = PROFILE_HAS_NO)]
    profile: Option<u32>,
    #[command(flatten)]
    folder: RunArgs,
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
    #[command(flatten)]
    device: DeviceArgs,
}

/// What a run that is resumed has decided already.
const RESUME_HAS_NO: [&str; 9] =
    ["out", "name", "profile", "ModelArgs", "SizeArgs", "MaskArgs", "TrainArgs", "init", "ReadArgs"];

/// What means nothing where nothing is trained or written.
const PROFILE_HAS_NO: [&str; 9] =
    ["debug_nan", "probe", "name", "diagnose_every", "checkpoint_every", "keep", "keep_every", "init", "ReadArgs"];

pub fn run(args: &Args) -> Result<()> {
    let device = args.device.open()?; // before images are listed
    match &args.resume {
        None => begin(args, device),
        Some(folder) if world().is_first() => resume(args, &RunFolder::open(folder)?, device),
        Some(_) => take_part(args),
    }
}

/// A new run.
fn begin(args: &Args, device: Device) -> Result<()> {
    let config = recipe(&args.model, &args.masks)?;
    let data = data::absolute_spec(args.data.as_deref().unwrap_or(&config.data))?;
    let splits = data::open_with(&data, config.model.encoder.image_size, args.open.options())?;
    if args.probe {
        Chosen::new(&args.probe_args, &splits)?;
    }
    let config = RunConfig { data, normalization: Some(splits.normalization()?), ..config };
    let mut config = args.train.apply(config, args.length.length(), splits.train.len())?;
    config.supported_on(device)?;
    weigh(config.precision, device);
    if let Some(steps) = args.profile {
        only_alone("--profile")?;
        return profile(&config, &splits, device, steps as usize);
    }
    let policy = args.folder.policy(default_policy(&config, &splits), splits.train.len() / config.batch);
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
    let run = SavedRun { config, policy, trainer: Trainer::new(method, params).to_device(device) };
    let folder = args.folder.begin(&run, &splits)?;
    train(args, run, &splits, folder.as_ref())
}

/// `--resume` in a process that has no folder.
fn take_part(args: &Args) -> Result<()> {
    let run = receive(&world())?;
    let data = data::absolute_spec(args.data.as_deref().unwrap_or(&run.config.data))?;
    let splits = data::open_with(&data, run.config.model.encoder.image_size, args.open.options())?;
    check_together(&world(), &run, &splits)?;
    train(args, run, &splits, None)
}

/// `--resume`
fn resume(args: &Args, folder: &RunFolder, device: Device) -> Result<()> {
    let mut resumed = folder.resume(args.data.as_deref(), args.open.options())?;
    resumed.notes.iter().for_each(|note| say!("{}", renamed(note, flag)));
    if resumed.run.config.fine_tuning.is_some() {
        return Err(Error::file(folder.path(), "a run of fine-tuning", "resume it with stop-mim finetune --resume"));
    }
    if args.probe {
        Chosen::new(&args.probe_args, &resumed.splits)?;
    }
    if let Some(length) = args.length.length() {
        resumed.set_length(length)?.iter().for_each(|change| say!("{change}"));
    }
    let (done, run) = (resumed.done(), &mut resumed.run);
    run.policy = args.folder.policy(run.policy.clone(), resumed.splits.train.len() / run.config.batch);
    let steps = run.config.steps;
    let instead = if resumed.damaged { ", from the checkpoint before it" } else { "" };
    say!("going on after step {done} of {steps}{instead}");
    if done == steps {
        say!("the run is complete; with --steps or --epochs it becomes longer");
    }
    let (run, splits) = take_up(folder, resumed, device)?;
    train(args, run, &splits, Some(folder))
}

/// Trains from where the run stands to its end, or to Ctrl-C, draws its pictures, and probes it if that was asked for.
fn train(args: &Args, run: SavedRun, splits: &Splits, folder: Option<&RunFolder>) -> Result<()> {
    say!("{}", splits.train.describe());
    if splits.test.is_empty() {
        say!("no images are held out: nothing will tell whether the features collapse");
    }
    signals::listen();
    let (config, done) = (run.config.clone(), run.trainer.optimizer.steps() as usize);
    if let (0, Some(folder)) = (done, folder) {
        keep(folder, "masks.png", &|path| {
            let images = splits.train.clone();
            draw_masks(&config.masking, &config.model.encoder, config.seed, images, 6)?.save_png(path)
        });
    }
    let own = run.trainer.method.numbers(&run.trainer.params, &[]).read().0;
    let known: Vec<Number> = own.into_iter().chain(DIAGNOSTICS).collect();
    let trained = args.folder.train("pretrain", run, splits, folder);
    let Some(folder) = folder else { return probed(args, &trained?, &config, splits) };
    // Also when training failed: what was logged shows how it came to that.
    let drawn = keep_curves(folder, &config, &known);
    let trainer = trained?;
    let drawn_of = trainer.clone().to_device(Device::Cpu);
    let mut written = vec!["checkpoint.safetensors", "log.csv"];
    written.extend(drawn);
    written.extend(folder.file("masks.png").exists().then_some("masks.png"));
    if TokenPrediction::of(&*trainer.method).is_some() && !splits.test.is_empty() {
        written.extend(keep(folder, "predictions.png", &|path| {
            draw_predictions((&*drawn_of.method, &drawn_of.params), &config, splits, 6)?.save_png(path)
        }));
    }
    if let Some(sheet) = draw_positions(&drawn_of, config.seed) {
        written.extend(keep(folder, "positions.png", &|path| sheet.save_png(path)));
    }
    report("pretrain", &written, folder, &trainer, &config);
    say_skipped(splits);
    probed(args, &trainer, &config, splits)
}

/// The probe at the end, if it was asked for, and nobody has asked any process to stop.
fn probed(args: &Args, trainer: &Trainer, config: &RunConfig, splits: &Splits) -> Result<()> {
    if !args.probe || world().share(Ok(vec![u8::from(signals::stopped())]))?.contains(&vec![1]) {
        return Ok(());
    }
    let untrained = || fresh_encoder(&config.model.encoder, config.model.linear_init, config.seed);
    let normalization = splits.normalization_or(config.normalization.as_ref())?;
    let trained = (trainer.method.encoder(), trainer.params.evaluated());
    probe(&args.probe_args, trained, &untrained, (splits, &normalization))
}
