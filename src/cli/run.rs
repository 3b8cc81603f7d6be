//! A run as the user sees it: its folder, progress, log, checkpoints and pictures.

use std::fs::{File, TryLockError};
use std::io::Write;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::masks::draw_masks;
use super::progress::Progress;
use super::reconstruct::draw_predictions;
use super::signals;
use crate::data::Splits;
use crate::methods::{Model, ModelParams};
use crate::report::canvas::Canvas;
use crate::report::color::sequential;
use crate::report::curve::{Curve, Panel};
use crate::report::similarity::{similarity_maps, similarity_sheet};
use crate::rng::{Purpose, stream};
use crate::train::checkpoint::{self, SavedRun};
use crate::train::rotation::Rotation;
use crate::train::{Failed, RunConfig, StepReport, Trainer, Watch, go_on};
use crate::{Error, Result, files};

/// Most time between checkpoints of a run.
const CHECKPOINT_EVERY: Duration = Duration::from_secs(300);

/// Where in a run's folder its checkpoints are.
const CHECKPOINTS: &str = "checkpoints";

/// A run's folder. While a process has it, no other can.
pub struct RunFolder {
    path: PathBuf,
    /// Locked. The system lets go of it when the process ends, however it ends.
    _lock: File,
}

impl RunFolder {
    /// A new folder `{parent}/{name}`, or `{name}-2`, `{name}-3`, … when that exists: no run overwrites another.
    pub fn create(parent: &Path, name: &str) -> Result<Self> {
        std::fs::create_dir_all(parent).map_err(|e| Error::io("create", parent, e))?;
        for i in 1.. {
            let path = parent.join(if i == 1 { name.to_owned() } else { format!("{name}-{i}") });
            match std::fs::create_dir(&path) {
                Ok(()) => {
                    files::sync_folder(&path).map_err(|e| Error::io("create", &path, e))?;
                    return Self::lock(path);
                }
                Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {}
                Err(e) => return Err(Error::io("create", path, e)),
            }
        }
        unreachable!("there are more numbers than folders")
    }

    /// The folder of a run that is to go on.
    pub fn open(path: &Path) -> Result<Self> {
        let problem = match std::fs::metadata(path).map_err(|e| Error::io("open", path, e))?.is_dir() {
            true if path.join(CHECKPOINTS).is_dir() => return Self::lock(path.to_owned()),
            true => "no run: no folder of checkpoints is in it",
            false => "not a folder",
        };
        Err(Error::file(path, problem, "give the folder of the run, as in --resume runs/stop-shapes"))
    }

    fn lock(path: PathBuf) -> Result<Self> {
        let file = path.join("lock");
        let lock = File::options().create(true).append(true).open(&file).map_err(|e| Error::io("open", &file, e))?;
        match lock.try_lock() {
            Ok(()) => {}
            // Some network file systems have no locks. To train is better there than not to.
            Err(TryLockError::Error(e)) if e.kind() == std::io::ErrorKind::Unsupported => {}
            Err(TryLockError::Error(e)) => return Err(Error::io("lock", file, e)),
            Err(TryLockError::WouldBlock) => {
                let hint = "wait until it has ended, or end it (Ctrl-C, SIGTERM): it leaves a checkpoint";
                return Err(Error::file(path, "another process is at work on this run", hint));
            }
        }
        Ok(RunFolder { path, _lock: lock })
    }

    /// A file in it.
    pub fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// The name of a picture that was saved in it. Of one that was not it is said why: no run fails for a picture.
    fn keep(&self, name: &'static str, saved: Result<()>) -> Option<&'static str> {
        let warn = |error| {
            let _ = writeln!(std::io::stderr(), "warning: {} is not drawn: {error}", self.file(name).display());
        };
        saved.map(|()| name).map_err(warn).ok()
    }

    /// What the run can go on from.
    pub fn checkpoints(&self) -> Rotation {
        Rotation::new(self.file(CHECKPOINTS))
    }
}

/// Pretrains from where the run stands and writes everything into `folder`. Ends early, cleanly, on Ctrl-C. Gives the
/// trained model. `every_number`: see [`Watch`]. Whatever ends the run, the steps that were done are not lost: there is a
/// checkpoint of the last of them, if it can be written, and the error says from where the run can go on.
pub fn run(run: SavedRun, splits: &Splits, folder: &RunFolder, every_number: bool) -> Result<(Model, ModelParams)> {
    signals::listen();
    let SavedRun { config, upkeep, trainer } = run;
    let (config, done) = (&config, trainer.optimizer.steps() as usize);
    let checkpoints = folder.checkpoints();
    let mut log = Log::open(folder.file("log.csv"), done)?;
    if done == 0 {
        let masks = draw_masks(&config.masking, &config.model.encoder, config.seed, splits.train.clone(), 6);
        folder.keep("masks.png", masks.and_then(|sheet| sheet.save_png(folder.file("masks.png"))));
        // So that a run can go on from its first step.
        checkpoints.save(config, &upkeep, &trainer)?;
    }
    let due = |step: usize| {
        let every = |steps: usize| steps > 0 && step.is_multiple_of(steps);
        every(upkeep.checkpoint_every) || every(upkeep.keep_every) || step == config.steps
    };
    let (mut saved, mut speed, mut last_diagnosis) = (Instant::now(), 0.0, String::new());
    // The last checkpoint that there is, and the last that was tried.
    let (mut kept, mut tried) = (done, done);
    let kept_so_far = |kept: usize| {
        let path = folder.path.display();
        format!("the run is kept as it was after step {kept}: stop-mim pretrain --resume {path} goes on from there")
    };
    let progress = Progress::new(config.steps, "pretrain");
    progress.advance(done, String::new);
    let watch = Watch { diagnose_every: upkeep.diagnose_every, every_number };
    let trained = go_on(trainer, config, splits, watch, &mut |report, trainer| {
        log.append(report)?;
        // A running mean over about fifty steps: single steps jump.
        speed += (report.images_per_second - speed) / (report.step - done).min(50) as f64;
        if let Some(d) = &report.diagnostics {
            last_diagnosis = format!("rank {:.1}, std {:.3}", d.rank_me, d.feature_std);
        }
        let left = (config.steps - report.step) as f64 * config.batch as f64 / speed;
        progress.advance(1, || {
            let StepReport { loss, norm_a, norm_m, .. } = *report;
            let (lr, eta) = (report.hyper.lr, minutes(left));
            format!("loss {loss:.4}  lr {lr:.1e}  |A| {norm_a:.2}  |m| {norm_m:.2}  {last_diagnosis}  {speed:.0} images/s  ETA {eta}")
        });
        let stopped = signals::stopped();
        if stopped || due(report.step) || saved.elapsed() > CHECKPOINT_EVERY {
            // The log first: no checkpoint is ahead of it.
            log.sync()?;
            tried = report.step;
            checkpoints.save(config, &upkeep, trainer)?;
            (kept, saved) = (tried, Instant::now());
        }
        Ok(if stopped { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
    });
    progress.finish();
    // Also when training failed: what was logged shows how it came to that.
    let curves = log.rows().and_then(|rows| curves(config, &rows).save_svg(folder.file("curves.svg")));
    let trainer = trained.map_err(|failed| {
        let Failed { mut error, trainer } = *failed;
        if let Some(trainer) = trainer.filter(|trainer| trainer.optimizer.steps() as usize > tried) {
            let step = trainer.optimizer.steps() as usize;
            let _ = log.sync(); // what a log has lost is said on resuming
            match checkpoints.save(config, &upkeep, &trainer) {
                Ok(()) => kept = step,
                Err(e) => error = error.noted(format!("and step {step} cannot be kept: {e}")),
            }
        }
        error.noted(kept_so_far(kept))
    })?;
    let step = trainer.optimizer.steps() as usize;
    let weights = checkpoint::save(&folder.file("checkpoint.safetensors"), config, step, &trainer.params);
    weights.map_err(|error| error.noted(kept_so_far(kept)))?;
    let mut written = vec!["checkpoint.safetensors", "log.csv"];
    written.extend(folder.keep("curves.svg", curves));
    written.extend(folder.file("masks.png").exists().then_some("masks.png"));
    if !splits.test.is_empty() {
        let sheet = draw_predictions((&trainer.model, &trainer.params), config, splits, 6);
        let saved = sheet.and_then(|sheet| sheet.save_png(folder.file("predictions.png")));
        written.extend(folder.keep("predictions.png", saved));
    }
    if let Some(sheet) = draw_positions(&trainer, config.seed) {
        written.extend(folder.keep("positions.png", sheet.save_png(folder.file("positions.png"))));
    }
    for name in written {
        say!("  {}", folder.file(name).display());
    }
    if step < config.steps {
        say!("stopped at step {step} of {}, as asked; everything is written", config.steps);
        say!("stop-mim pretrain --resume {} goes on", folder.path.display());
    }
    Ok((trainer.model, trainer.params))
}

/// The columns of the log, explained in docs/diagnostics.md; empty where a step has no diagnostics.
const COLUMNS: [Column; 20] = [
    ("step", |r| Some(r.step as f64)),
    ("epoch", |r| Some(r.epoch)),
    ("loss", |r| Some(r.loss)),
    ("lr", |r| Some(r.hyper.lr)),
    ("weight_decay", |r| Some(r.hyper.weight_decay)),
    ("ema_momentum", |r| Some(r.hyper.ema_momentum)),
    ("norm_a", |r| Some(r.norm_a)),
    ("norm_m", |r| Some(r.norm_m)),
    ("noise_rms", |r| Some(r.noise_rms)),
    ("images_per_second", |r| Some(r.images_per_second)),
    ("feature_std", |r| Some(r.diagnostics?.feature_std)),
    ("rank_me", |r| Some(r.diagnostics?.rank_me)),
    ("target_std", |r| Some(r.diagnostics?.target_std)),
    ("visible_norm_a", |r| Some(r.diagnostics?.visible_norm_a)),
    ("norm_gamma", |r| Some(r.diagnostics?.norm_gamma)),
    ("context_rms", |r| Some(r.diagnostics?.context_rms)),
    ("neighbor_distance", |r| Some(r.diagnostics?.neighbors.mean)),
    ("least_neighbor_distance", |r| Some(r.diagnostics?.neighbors.least)),
    ("position_accuracy", |r| Some(r.diagnostics?.position_accuracy)),
    ("noise_sensitivity", |r| Some(r.diagnostics?.noise_sensitivity)),
];

type Column = (&'static str, fn(&StepReport) -> Option<f64>);

/// The cells of one step, in the order of [`COLUMNS`].
type Row = [Option<f64>; COLUMNS.len()];

/// `log.csv`: a row is appended with each step, so that it can be watched.
struct Log {
    path: PathBuf,
    file: File,
}

/// Curves have about so many points: more cannot be told apart.
const POINTS: usize = 10_000;

impl Log {
    /// The log of a run that has done `done` steps; what a killed process logged after that is cut off.
    fn open(path: PathBuf, done: usize) -> Result<Self> {
        let before = match path.exists() {
            false => Vec::new(),
            true => {
                files::ordinary(&path, "move it away, and try again")?;
                std::fs::read(&path).map_err(|e| Error::io("read", &path, e))?
            }
        };
        let (header, before) = (header(), String::from_utf8_lossy(&before));
        // A last line without an end is half a line.
        let mut lines = before.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n'));
        if lines.next().is_some_and(|first| first != header) {
            return Err(Error::file(path, "its columns are not those of this version", "move it away, and try again"));
        }
        let rows: Vec<&str> = lines.filter(|line| step_of(line).is_some_and(|step| step <= done)).collect();
        if rows.len() < done {
            say!("{}: {} of the {done} steps done are not in it", path.display(), done - rows.len());
        }
        let kept: String = std::iter::once(&*header).chain(rows).flat_map(|line| [line, "\n"]).collect();
        files::write_whole(&path, kept.as_bytes())?;
        let file = File::options().append(true).open(&path).map_err(|e| Error::io("open", &path, e))?;
        Ok(Log { path, file })
    }

    fn append(&mut self, report: &StepReport) -> Result<()> {
        let cells = COLUMNS.map(|(_, value)| value(report).map_or(String::new(), |x| x.to_string()));
        let row = cells.join(",") + "\n";
        self.file.write_all(row.as_bytes()).map_err(|e| Error::io("write", &self.path, e))
    }

    /// Makes what was appended durable.
    fn sync(&self) -> Result<()> {
        self.file.sync_data().map_err(|e| Error::io("write", &self.path, e))
    }

    /// What is in it, as numbers: all rows of a short log; of a long one, rows evenly spread, and those with
    /// diagnostics.
    fn rows(&self) -> Result<Vec<Row>> {
        let text = std::fs::read_to_string(&self.path).map_err(|e| Error::io("read", &self.path, e))?;
        let stride = text.lines().count().div_ceil(POINTS);
        let of_interest = |row: &Row| {
            row[0].is_some_and(|step| (step as usize).is_multiple_of(stride)) || row[place("feature_std")].is_some()
        };
        Ok(text.lines().skip(1).filter_map(cells).filter(of_interest).collect())
    }
}

fn header() -> String {
    COLUMNS.map(|(name, _)| name).join(",")
}

/// The numbers of a whole line of the log.
fn cells(line: &str) -> Option<Row> {
    let cells: Vec<Option<f64>> = line.split(',').map(|cell| cell.parse().ok()).collect();
    cells.try_into().ok()
}

fn step_of(line: &str) -> Option<usize> {
    cells(line)?[0].map(|step| step as usize)
}

/// Fig. 5 of a method with noise: what ψ at the center, on an edge and in a corner resembles; deterministic, in one
/// draw, and on average.
fn draw_positions(trainer: &Trainer, seed: u64) -> Option<Canvas> {
    let (positions, side) = (trainer.positions(), trainer.model.config.encoder.grid());
    let queries = [side / 2 * side + side / 2, side / 2, 0];
    let maps = similarity_maps(&positions, &queries, &mut stream(seed, Purpose::Noise, [0, 0]));
    // One scale for all nine, or else the paler map would not look it.
    let values = maps.iter().flat_map(|m| [&m.deterministic, &m.draw, &m.expected]).flatten();
    let least = values.fold(1.0, |least: f64, v| least.min(*v)) as f32;
    let color = |v: f32| sequential((v - least) / (1.0 - least));
    (positions.sigma.std() > 0.0).then(|| similarity_sheet(&maps, (side, side), 12, color))
}

fn minutes(seconds: f64) -> String {
    match seconds.is_finite() {
        true => format!("{}:{:02}", seconds as u64 / 60, seconds as u64 % 60),
        false => "?".into(),
    }
}

/// The log as a figure; what concerns noise, for a method that has it.
fn curves(config: &RunConfig, rows: &[Row]) -> Curve {
    let series = |name: &str, column: &str| {
        let column = place(column);
        (name.to_owned(), rows.iter().filter_map(|row| Some((row[0]?, row[column]?))).collect())
    };
    let panel = |y_label: &str, log, series| Panel { y_label: y_label.into(), log, range: None, series };
    let mut panels = vec![
        panel("loss", true, vec![series("loss", "loss")]),
        panel("effective rank", false, vec![series("RankMe", "rank_me")]),
        panel(
            "std over images",
            false,
            vec![series("pooled features", "feature_std"), series("targets", "target_std")],
        ),
        panel(
            "norm",
            true,
            vec![
                series("|A|", "norm_a"),
                series("visible |A|", "visible_norm_a"),
                series("|γ|", "norm_gamma"),
                series("|m|", "norm_m"),
            ],
        ),
    ];
    if rows.iter().any(|row| row[place("noise_rms")] > Some(0.0)) {
        panels.extend([
            panel("RMS", true, vec![series("context A s", "context_rms"), series("noise A n", "noise_rms")]),
            panel(
                "neighbors, d′",
                true,
                vec![series("mean", "neighbor_distance"), series("least", "least_neighbor_distance")],
            ),
            Panel {
                range: Some((0.0, 1.0)),
                ..panel("accuracy", false, vec![series("positions decoded", "position_accuracy")])
            },
            panel("prediction variance", true, vec![series("due to noise", "noise_sensitivity")]),
        ]);
    }
    panels.push(panel("learning rate", false, vec![series("learning rate", "lr")]));
    let title = format!("{} on {}", config.model.method.name(), name_of(&config.data));
    Curve { title, x_label: "step".into(), panels }
}

/// Images, in a few words: of a path, its last part.
fn name_of(data: &str) -> String {
    let (scheme, path) = data.split_once(':').unwrap_or((data, ""));
    Path::new(path).file_name().map_or(data.to_owned(), |name| format!("{scheme}:{}", name.display()))
}

/// Where a column stands.
fn place(column: &str) -> usize {
    COLUMNS.iter().position(|(name, _)| *name == column).expect("a column of the log")
}
