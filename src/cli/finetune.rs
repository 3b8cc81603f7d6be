//! `stop-mim finetune`

use std::path::{Path, PathBuf};

use clap::Args as ClapArgs;

use super::encoder::{EncoderArgs, normalization};
use super::flags::flag;
use super::options::{DeviceArgs, LengthArgs, OpenArgs, TrainArgs};
use super::progress::Progress;
use super::run::{RunArgs, keep_curves, report, say_skipped, take_up, weigh};
use super::{only_alone, signals};
use crate::data::{self, Splits};
use crate::error::renamed;
use crate::eval;
use crate::processes::world;
use crate::runs::{Length, RunFolder, check_together, default_policy, receive};
use crate::tensor::Device;
use crate::train::checkpoint::SavedRun;
use crate::train::fine_tuning::{Classifier, FineTuning, test_accuracy, trainer};
use crate::train::weights::Preprocessing;
use crate::train::{DIAGNOSTICS, RunConfig, WeightsFile};
use crate::{Error, Result};

#[derive(ClapArgs, Clone, Debug)]
#[command(mut_arg("file", |arg| arg.required(false).required_unless_present_any(["resume", "evaluate"])))]
#[command(mut_arg("name", |arg| arg.help("Name of the run's folder [default: finetune and data]; a number is added when it \
    exists")))]
#[command(mut_arg("epochs", |arg| arg.help("Passes over the labeled images, with fractions [default: 16 / √share: 16 for all \
    labels, 51 for 10 %, 160 for 1 %]. With --resume: in all, those done included")))]
#[command(mut_arg("batch", |arg| arg.help("Images in a step [default: 64, or all where there are fewer]")))]
#[command(mut_arg("lr", |arg| arg.help("Learning rate of the head at the end of the warm-up [default: 0.001]")))]
#[command(mut_arg("ema", |arg| arg.hide(true)))]
#[command(mut_arg("seed", |arg| arg.help("Decides which images are labeled, initial weights, order, crops and drop path \
    [default: 0]")))]
pub struct Args {
    #[command(flatten)]
    encoder: Option<EncoderArgs>,
    /// Labeled images, as for pretrain [default: those a checkpoint was trained on]. With --resume: where the run's images are
    /// now, if they have moved.
    #[arg(long, value_name = "DATA")]
    data: Option<String>,
    /// Per cent of the labels that are used, of every class as many: 1, 10, 100 or any number between. With the same seed, the
    /// images of a smaller number are among those of a larger one.
    #[arg(long, value_name = "PERCENT", default_value_t = 100.0)]
    labels: f64,
    /// Begin with random weights instead of FILE's: the baseline, of the same sizes.
    #[arg(long)]
    from_scratch: bool,
    /// By how much a layer learns more slowly than the one above it; 1: all alike.
    #[arg(long, value_name = "FACTOR", default_value_t = 0.75)]
    layer_decay: f64,
    /// Stochastic depth: the probability with which an image goes without a branch of the last block; of the blocks before it,
    /// less, down to 0.
    #[arg(long, value_name = "RATE", default_value_t = 0.1)]
    drop_path: f64,
    /// Label smoothing: the part of a label that all classes share.
    #[arg(long, value_name = "SHARE", default_value_t = 0.1)]
    label_smoothing: f64,
    /// Resume an interrupted run from the last checkpoint in its folder. Its configuration is taken from there. With --steps or
    /// --epochs, a run becomes longer, a finished one too, or shorter.
    #[arg(long, value_name = "RUN_FOLDER", conflicts_with_all = RESUME_HAS_NO)]
    resume: Option<PathBuf>,
    /// Train nothing: test the fine-tuned model in a checkpoint that this command wrote.
    #[arg(long, value_name = "CHECKPOINT", conflicts_with_all = RESUME_HAS_NO)]
    #[arg(conflicts_with_all = ["resume", "LengthArgs", "checkpoint_every", "keep", "keep_every", "diagnose_every", "debug_nan"])]
    evaluate: Option<PathBuf>,
    #[command(flatten)]
    folder: RunArgs,
    #[command(flatten)]
    open: OpenArgs,
    #[command(flatten)]
    length: LengthArgs,
    #[command(flatten)]
    train: TrainArgs,
    #[command(flatten)]
    device: DeviceArgs,
}

/// What a run that is resumed, or a model that is tested, has decided already.
const RESUME_HAS_NO: [&str; 11] = [
    "EncoderArgs",
    "SizeArgs",
    "ReadArgs",
    "TrainArgs",
    "out",
    "name",
    "labels",
    "from_scratch",
    "layer_decay",
    "drop_path",
    "label_smoothing",
];

pub fn run(args: &Args) -> Result<()> {
    let device = args.device.open()?;
    let done = match (&args.evaluate, &args.resume, &args.encoder) {
        (Some(file), ..) => only_alone("--evaluate").and_then(|()| evaluate(args, file, device)),
        (_, Some(folder), _) if world().is_first() => {
            RunFolder::open(folder).and_then(|folder| resume(args, &folder, device))
        }
        (_, Some(_), _) => take_part(args),
        (_, _, Some(encoder)) => begin(args, encoder, device),
        _ => Err(Error::config("nothing to fine-tune", "give a file with an encoder, or --resume RUN_FOLDER")),
    };
    // What an error of the library calls the way to go on.
    done.map_err(|e| e.renamed(|name| (name == "RunFolder::open").then_some("stop-mim finetune --resume")))
}

/// A new run.
fn begin(args: &Args, encoder: &EncoderArgs, device: Device) -> Result<()> {
    if !(0.0 < args.labels && args.labels <= 100.0) {
        return Err(Error::config(format!("--labels is {} %", args.labels), "choose a number above 0, at most 100"));
    }
    let found = encoder.load()?;
    let Some(spec) = args.data.as_ref().or(found.data.as_ref()) else {
        let problem = "a file of weights does not say on which images it is to be fine-tuned";
        return Err(Error::config(problem, "give some with labels: --data folder:DIR"));
    };
    let (data, start) = (data::absolute_spec(spec)?, &found.model);
    let sizes = start.encoder.config();
    let splits = data::open_with(&data, sizes.image_size, args.open.options())?;
    let tuning = FineTuning {
        labels: args.labels / 100.0,
        label_smoothing: args.label_smoothing,
        drop_path: args.drop_path,
        layer_decay: args.layer_decay,
        ..FineTuning::new(splits.train.class_names())
    };
    let chosen = tuning.choose(&splits, args.train.seed.unwrap_or(0))?;
    let length = args.length.length().unwrap_or(Length::Epochs(RunConfig::fine_tuning_epochs(tuning.labels)));
    let mut config = RunConfig { data, ..RunConfig::for_fine_tuning(sizes, tuning, splits.train.len()) };
    config.model.linear_init = found.linear_init;
    let mut config = args.train.apply(config, Some(length), chosen.train.len())?;
    config.supported_on(device)?;
    weigh(config.precision, device);
    signals::listen(); // not before: nothing asks while images are listed, or decoded with --strict
    let weights = if args.from_scratch {
        say!("from scratch: an encoder of the sizes in {}, with random weights", encoder.file.display());
        None
    } else {
        say!("{}", found.what);
        config.init = Some(WeightsFile::of(&encoder.file)?);
        Some((&start.encoder, &start.params))
    };
    config.normalization = Some(normalization(&found.preprocessing, &splits)?);
    let trainer = trainer(weights, &config)?.to_device(device);
    let policy = args.folder.policy(default_policy(&config, &chosen), chosen.train.len() / config.batch);
    let run = SavedRun { config, policy, trainer };
    let folder = args.folder.begin(&run, &chosen)?;
    train(args, run, &chosen, folder.as_ref())
}

/// `--resume` in a process that has no folder.
fn take_part(args: &Args) -> Result<()> {
    let run = receive(&world())?;
    let data = data::absolute_spec(args.data.as_deref().unwrap_or(&run.config.data))?;
    let splits = data::open_with(&data, run.config.model.encoder.image_size, args.open.options())?;
    let chosen = run.config.fine_tuning.as_ref().map(|tuning| tuning.choose(&splits, run.config.seed)).transpose()?;
    let splits = chosen.unwrap_or(splits);
    check_together(&world(), &run, &splits)?;
    train(args, run, &splits, None)
}

/// `--resume`
fn resume(args: &Args, folder: &RunFolder, device: Device) -> Result<()> {
    let mut resumed = folder.resume(args.data.as_deref(), args.open.options())?;
    resumed.notes.iter().for_each(|note| say!("{}", renamed(note, flag)));
    if resumed.run.config.fine_tuning.is_none() {
        return Err(Error::file(folder.path(), "a run of pretraining", "resume it with stop-mim pretrain --resume"));
    }
    if let Some(length) = args.length.length() {
        resumed.set_length(length)?.iter().for_each(|change| say!("{change}"));
    }
    let epoch = resumed.splits.train.len() / resumed.run.config.batch;
    resumed.run.policy = args.folder.policy(resumed.run.policy.clone(), epoch);
    let instead = if resumed.damaged { ", from the checkpoint before it" } else { "" };
    say!("going on after step {} of {}{instead}", resumed.done(), resumed.run.config.steps);
    let (run, splits) = take_up(folder, resumed, device)?;
    train(args, run, &splits, Some(folder))
}

/// Trains from where the run stands to its end, or to Ctrl-C, and tests the model then.
fn train(args: &Args, run: SavedRun, splits: &Splits, folder: Option<&RunFolder>) -> Result<()> {
    say!("{}", splits.train.describe());
    signals::listen();
    let config = run.config.clone();
    let trained = args.folder.train("finetune", run, splits, folder);
    let Some(folder) = folder else { return trained.map(|_| ()) };
    // Also when training failed: what was logged shows how it came to that.
    let drawn = keep_curves(folder, &config, &DIAGNOSTICS);
    let trainer = trained?;
    let written = ["checkpoint.safetensors", "log.csv"].into_iter().chain(drawn).collect::<Vec<_>>();
    report("finetune", &written, folder, &trainer, &config);
    say_skipped(splits);
    if trainer.optimizer.steps() as usize == config.steps {
        let normalization = splits.normalization_or(config.normalization.as_ref())?;
        let model = (&*trainer.method, &trainer.params);
        tested(splits, &|tick| test_accuracy(model, (&*splits.test, &normalization), tick))?;
    }
    Ok(())
}

/// `--evaluate`
fn evaluate(args: &Args, file: &Path, device: Device) -> Result<()> {
    let classifier = Classifier::open(file)?.to_device(device);
    let (config, step) = (&classifier.checkpoint.config, classifier.checkpoint.step);
    let data = args.data.as_ref().unwrap_or(&config.data);
    let splits = data::open_with(data, config.model.encoder.image_size, args.open.options())?;
    signals::listen();
    say!("{} after {step} steps, on {}", config.name(), splits.test.describe());
    let normalization = Preprocessing::of_run(config.normalization.clone()).on(&splits)?;
    // Chance is that of the labels that were learned from, as at the end of the run; other classes are refused below.
    let chosen = config.fine_tuning.as_ref().and_then(|tuning| tuning.choose(&splits, config.seed).ok());
    tested(&chosen.unwrap_or(splits.clone()), &|tick| classifier.accuracy((&*splits.test, &normalization), tick))
}

/// How test images are told, given what is told how many more of them are done.
type Test<'a> = dyn Fn(&(dyn Fn(usize) -> Result<()> + Sync)) -> Result<f64> + 'a;

/// Prints how many of the test images a model tells right.
fn tested(splits: &Splits, accuracy: &Test) -> Result<()> {
    let (images, classes) = (splits.test.len(), splits.train.class_names().len());
    let progress = Progress::beside_results(images, "test");
    let found = accuracy(&|n| {
        progress.advance(n, String::new);
        signals::check()
    });
    progress.clear();
    let [train, test] = [&splits.train, &splits.test].map(|images| eval::labels(&**images).unwrap_or_default());
    let chance = 100.0 * eval::chance(&train, &test, classes);
    println!("{:.1} % of {images} test images told right; chance is {chance:.1} %", 100.0 * found?);
    Ok(())
}
