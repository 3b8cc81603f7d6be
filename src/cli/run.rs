//! A run as the user sees it: its folder, progress bar, log, checkpoints and pictures; and the probe table.

use std::fmt::Write as _;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use crate::data::{Dataset, First, Splits};
use crate::eval::{self, Features, KnnConfig, ProbeConfig};
use crate::methods::{Model, ModelParams};
use crate::report::canvas::Canvas;
use crate::report::curve::{Curve, Panel};
use crate::report::masks::{MaskedImage, mask_sheet};
use crate::report::table::table;
use crate::rng::{Purpose, stream};
use crate::train::{Masking, RunConfig, StepReport, checkpoint, fresh_model, pretrain};
use crate::vit::EncoderConfig;
use crate::{Error, Result, files};

/// Set by Ctrl-C (or SIGTERM): the run ends after the step at hand.
static STOP: AtomicBool = AtomicBool::new(false);

/// Time between checkpoints of a run.
const CHECKPOINT_EVERY: Duration = Duration::from_secs(300);

/// A run's folder.
pub struct RunFolder {
    path: PathBuf,
}

impl RunFolder {
    /// A new folder `{parent}/{name}`, or `{name}-2`, `{name}-3`, … when that exists: no run overwrites another.
    pub fn create(parent: &Path, name: &str) -> Result<Self> {
        std::fs::create_dir_all(parent).map_err(|e| Error::io("create", parent, e))?;
        for i in 1.. {
            let path = parent.join(if i == 1 { name.to_owned() } else { format!("{name}-{i}") });
            match std::fs::create_dir(&path) {
                Ok(()) => return Ok(RunFolder { path }),
                Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {}
                Err(e) => return Err(Error::io("create", path, e)),
            }
        }
        unreachable!("there are more numbers than folders")
    }

    /// A file in it.
    pub fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }
}

/// How far, how fast and how long still: a bar in a terminal, now and then a line elsewhere.
struct Progress {
    bar: ProgressBar,
    what: &'static str,
    /// When the last line was printed.
    line: Mutex<Instant>,
}

/// Time between lines where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(10);

impl Progress {
    fn new(total: usize, what: &'static str) -> Self {
        let style = ProgressStyle::with_template("{prefix} {bar:24} {pos}/{len} {msg}").expect("a valid template");
        let bar = ProgressBar::new(total as u64).with_style(style).with_prefix(what);
        Progress { bar, what, line: Mutex::new(Instant::now()) }
    }

    fn advance(&self, by: usize, message: impl FnOnce() -> String) {
        self.bar.inc(by as u64);
        let finished = self.bar.position() >= self.bar.length().unwrap_or(0);
        if !self.bar.is_hidden() {
            self.bar.set_message(message());
        } else if let Ok(mut line) = self.line.lock()
            && (finished || line.elapsed() >= LINE_EVERY)
        {
            *line = Instant::now();
            println!("{} {}/{} {}", self.what, self.bar.position(), self.bar.length().unwrap_or(0), message());
        }
    }
}

/// Pretrains and writes everything into `folder`. Ends early, cleanly, on Ctrl-C. Gives the trained model.
pub fn run(
    config: &RunConfig,
    splits: &Splits,
    folder: &RunFolder,
    diagnose_every: usize,
) -> Result<(Model, ModelParams)> {
    // Only the first run of a process can install the handler; later ones share it.
    let _ = ctrlc::set_handler(|| STOP.store(true, Ordering::SeqCst));
    draw_masks(&config.masking, &config.model.encoder, config.seed, &*splits.train, 6)?
        .save_png(folder.file("masks.png"))?;

    let mut log = String::from(
        "step,epoch,loss,lr,weight_decay,ema_momentum,norm_a,norm_m,noise_rms,images_per_second,feature_std,rank_me\n",
    );
    let mut reports: Vec<StepReport> = Vec::new();
    let (mut saved, mut speed, mut last_diagnosis) = (Instant::now(), 0.0, String::new());
    let progress = Progress::new(config.steps, "pretrain");
    let trainer = pretrain(config, splits, diagnose_every, &mut |report, trainer| {
        write_row(&mut log, report);
        reports.push(*report);
        // A running mean over about fifty steps: single steps jump.
        speed += (report.images_per_second - speed) / reports.len().min(50) as f64;
        if let Some(d) = &report.diagnostics {
            last_diagnosis = format!("rank {:.1}, std {:.3}", d.rank_me, d.feature_std);
        }
        let left = (config.steps - report.step) as f64 * config.batch as f64 / speed;
        progress.advance(1, || {
            let StepReport { loss, norm_a, norm_m, .. } = *report;
            let (lr, eta) = (report.hyper.lr, minutes(left));
            format!("loss {loss:.4}  lr {lr:.1e}  |A| {norm_a:.2}  |m| {norm_m:.2}  {last_diagnosis}  {speed:.0} images/s  ETA {eta}")
        });
        let stopped = STOP.load(Ordering::SeqCst);
        if report.diagnostics.is_some() {
            files::write_whole(&folder.file("log.csv"), log.as_bytes())?;
        }
        if stopped || saved.elapsed() > CHECKPOINT_EVERY || report.step == config.steps {
            checkpoint::save(&folder.file("checkpoint.safetensors"), config, report.step, &trainer.params)?;
            saved = Instant::now();
        }
        Ok(if stopped { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
    });
    progress.bar.finish();
    // Also when training failed: what was logged shows how it came to that.
    files::write_whole(&folder.file("log.csv"), log.as_bytes())?;
    curves(config, &reports).save_svg(folder.file("curves.svg"))?;
    let trainer = trainer?;
    for name in ["checkpoint.safetensors", "log.csv", "curves.svg", "masks.png"] {
        println!("  {}", folder.file(name).display());
    }
    if STOP.load(Ordering::SeqCst) {
        println!("stopped at step {} of {}, as asked; everything is written", trainer.optimizer.steps(), config.steps);
    }
    Ok((trainer.model, trainer.params))
}

/// Whether the user asked to stop.
pub fn stopped() -> bool {
    STOP.load(Ordering::SeqCst)
}

fn write_row(log: &mut String, r: &StepReport) {
    let h = &r.hyper;
    let (feature_std, rank_me) = match &r.diagnostics {
        Some(d) => (d.feature_std.to_string(), d.rank_me.to_string()),
        None => Default::default(),
    };
    let numbers =
        [r.epoch, r.loss, h.lr, h.weight_decay, h.ema_momentum, r.norm_a, r.norm_m, r.noise_rms, r.images_per_second];
    let numbers = numbers.map(|x| x.to_string()).join(",");
    writeln!(log, "{},{numbers},{feature_std},{rank_me}", r.step).expect("a string takes everything");
}

fn minutes(seconds: f64) -> String {
    match seconds.is_finite() {
        true => format!("{}:{:02}", seconds as u64 / 60, seconds as u64 % 60),
        false => "?".into(),
    }
}

/// Loss, effective rank, norms and learning rate over the steps.
fn curves(config: &RunConfig, reports: &[StepReport]) -> Curve {
    let series = |name: &str, f: &dyn Fn(&StepReport) -> Option<f64>| {
        (name.to_owned(), reports.iter().filter_map(|r| Some((r.step as f64, f(r)?))).collect())
    };
    let panel = |y_label: &str, log, series| Panel { y_label: y_label.into(), log, series };
    Curve {
        title: format!("{} on {}", config.model.method.name(), config.data),
        x_label: "step".into(),
        panels: vec![
            panel("loss", true, vec![series("loss", &|r| Some(r.loss))]),
            panel("effective rank", false, vec![series("RankMe", &|r| Some(r.diagnostics?.rank_me))]),
            panel("deviation", false, vec![series("feature std", &|r| Some(r.diagnostics?.feature_std))]),
            panel("norm", false, vec![series("|A|", &|r| Some(r.norm_a)), series("|m|", &|r| Some(r.norm_m))]),
            panel("learning rate", false, vec![series("learning rate", &|r| Some(r.hyper.lr))]),
        ],
    }
}

/// The first `n` images, each with masks as a run's first step would draw them.
pub fn draw_masks(
    masking: &Masking,
    encoder: &EncoderConfig,
    seed: u64,
    images: &dyn Dataset,
    n: usize,
) -> Result<Canvas> {
    let n = n.min(images.len());
    let mut rng = stream(seed, Purpose::Mask, [1, 0]);
    let (contexts, targets) = masking.sample(n, encoder.patches(), &mut rng)?;
    // MAE predicts all that is not visible: drawing it as a block would show the same twice.
    let blocks = if let Masking::Blocks(_) = masking { &targets[..] } else { &[] };
    let mut pixels = vec![vec![0; 3 * encoder.image_size.pow(2)]; n];
    for (i, pixels) in pixels.iter_mut().enumerate() {
        images.pixels(i, pixels)?;
    }
    let rows: Vec<Vec<&[u32]>> = (0..n).map(|i| blocks.iter().map(|t| t.row(i)).collect()).collect();
    let masked: Vec<MaskedImage<'_>> =
        (0..n).map(|i| MaskedImage { pixels: &pixels[i], context: contexts[0].row(i), targets: &rows[i] }).collect();
    let scale = (96 / encoder.image_size).max(1);
    Ok(mask_sheet(&masked, encoder.image_size, encoder.patch_size, scale))
}

/// What is probed: a name, and the features of the training and test images.
struct Probed {
    name: &'static str,
    train: Vec<Features>,
    test: Vec<Features>,
}

/// How much of a data set is probed.
#[derive(clap::Args, Clone, Copy, Debug)]
pub struct ProbeArgs {
    /// Probe on this many training and test images [default: all].
    #[arg(long, value_name = "TRAIN,TEST", value_parser = counts)]
    probe_images: Option<(usize, usize)>,
}

fn counts(text: &str) -> std::result::Result<(usize, usize), String> {
    let number =
        |s: &str| s.trim().parse::<usize>().ok().filter(|n| *n > 0).ok_or(format!("'{s}' is not a number above 0"));
    let (a, b) = text.split_once(',').ok_or("two numbers with a comma between, as in 5000,1000")?;
    Ok((number(a)?, number(b)?))
}

/// Probes a model, its untrained self and raw pixels, and prints the table. The last blocks of the encoder that are
/// concatenated are four, or all there are.
pub fn probe(args: &ProbeArgs, config: &RunConfig, trained: (&Model, &ModelParams), splits: &Splits) -> Result<()> {
    let (most_train, most_test) = args.probe_images.unwrap_or((usize::MAX, usize::MAX));
    let (train, test) =
        (First::new(Arc::clone(&splits.train), most_train), First::new(Arc::clone(&splits.test), most_test));
    let (train, test, normalization): (&dyn Dataset, &dyn Dataset, _) = (&train, &test, &splits.normalization);
    let k = config.model.encoder.depth.min(4);
    let (untrained, fresh) = fresh_model(config)?;
    let progress = Progress::new(2 * (train.len() + test.len()), "features");
    let features = |model: &Model, params: &ModelParams, data: &dyn Dataset| {
        eval::pooled_features(&model.encoder, params.evaluated(), (data, normalization), k, &|n| {
            progress.advance(n, String::new)
        })
    };
    let of = |name, model: &Model, params: &ModelParams| -> Result<Probed> {
        Ok(Probed { name, train: features(model, params, train)?, test: features(model, params, test)? })
    };
    let mut probed = vec![of("trained encoder", trained.0, trained.1)?, of("untrained encoder", &untrained, &fresh)?];
    progress.bar.finish_and_clear();
    let pixels = |data: &dyn Dataset| eval::pixel_features(data, normalization);
    probed.push(Probed { name: "raw pixels", train: vec![pixels(train)?], test: vec![pixels(test)?] });

    let (train_labels, test_labels) = (eval::labels(train), eval::labels(test));
    let classes = train.class_names().len();
    let percent = |x: f64| format!("{:.1} %", 100.0 * x);
    let mut rows = Vec::new();
    for Probed { name, train, test } in &probed {
        let linear = |train: &Features, test: &Features| {
            let config = ProbeConfig::default();
            eval::linear_probe((train, &train_labels), (test, &test_labels), classes, &config)
        };
        let (last_train, last_test) = (&train[train.len() - 1], &test[test.len() - 1]);
        let knn = eval::knn_top1((last_train, &train_labels), (last_test, &test_labels), classes, KnnConfig::default());
        let last = linear(last_train, last_test);
        let concatenated = match train.len() {
            1 => "-".to_owned(),
            _ => percent(linear(&Features::concat(train), &Features::concat(test)).test_top1),
        };
        let rank = format!("{:.1} of {}", eval::rank_me(last_test), last_test.dim());
        rows.push(vec![name.to_string(), percent(last.test_top1), concatenated, percent(knn), rank]);
    }
    let last = format!("linear, last {k}");
    println!("{} images, tested on {}; chance is {}", train.len(), test.len(), percent(1.0 / classes as f64));
    println!("{}", table(&["features", "linear, last block", &last, "20-NN", "rank (RankMe)"], &rows));
    Ok(())
}
