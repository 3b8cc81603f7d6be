//! A run as the user sees it: its folder, progress, log, checkpoints and pictures.

use std::fmt::Write as _;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::masks::draw_masks;
use super::progress::Progress;
use crate::data::Splits;
use crate::methods::{Model, ModelParams};
use crate::report::canvas::Canvas;
use crate::report::colour::sequential;
use crate::report::curve::{Curve, Panel};
use crate::report::similarity::{similarity_maps, similarity_sheet};
use crate::rng::{Purpose, stream};
use crate::train::{RunConfig, StepReport, Trainer, Watch, checkpoint, pretrain};
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

/// Pretrains and writes everything into `folder`. Ends early, cleanly, on Ctrl-C. Gives the trained model.
pub fn run(
    config: &RunConfig,
    splits: &Splits,
    folder: &RunFolder,
    watch: impl Into<Watch>,
) -> Result<(Model, ModelParams)> {
    // Only the first run of a process can install the handler; later ones share it.
    let _ = ctrlc::set_handler(|| STOP.store(true, Ordering::SeqCst));
    draw_masks(&config.masking, &config.model.encoder, config.seed, &*splits.train, 6)?
        .save_png(folder.file("masks.png"))?;

    let mut log = COLUMNS.map(|(name, _)| name).join(",") + "\n";
    let mut reports: Vec<StepReport> = Vec::new();
    let (mut saved, mut speed, mut last_diagnosis) = (Instant::now(), 0.0, String::new());
    let progress = Progress::new(config.steps, "pretrain");
    let trainer = pretrain(config, splits, watch, &mut |report, trainer| {
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
    progress.finish();
    // Also when training failed: what was logged shows how it came to that.
    files::write_whole(&folder.file("log.csv"), log.as_bytes())?;
    curves(config, &reports).save_svg(folder.file("curves.svg"))?;
    let trainer = trainer?;
    let mut written = vec!["checkpoint.safetensors", "log.csv", "curves.svg", "masks.png"];
    if let Some(sheet) = draw_positions(&trainer, config.seed) {
        sheet.save_png(folder.file("positions.png"))?;
        written.push("positions.png");
    }
    for name in written {
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
    ("neighbour_distance", |r| Some(r.diagnostics?.neighbours.mean)),
    ("least_neighbour_distance", |r| Some(r.diagnostics?.neighbours.least)),
    ("position_accuracy", |r| Some(r.diagnostics?.position_accuracy)),
    ("noise_sensitivity", |r| Some(r.diagnostics?.noise_sensitivity)),
];

type Column = (&'static str, fn(&StepReport) -> Option<f64>);

fn write_row(log: &mut String, report: &StepReport) {
    let cells = COLUMNS.map(|(_, value)| value(report).map_or(String::new(), |x| x.to_string()));
    writeln!(log, "{}", cells.join(",")).expect("a string takes everything");
}

/// Fig. 5 of a method with noise: what ψ at the centre, on an edge and in a corner resembles; deterministic, in one
/// draw, and on average.
fn draw_positions(trainer: &Trainer, seed: u64) -> Option<Canvas> {
    let (positions, side) = (trainer.positions(), trainer.model.config.encoder.grid());
    let queries = [side / 2 * side + side / 2, side / 2, 0];
    let maps = similarity_maps(&positions, &queries, &mut stream(seed, Purpose::Noise, [0, 0]));
    // One scale for all nine, or else the paler map would not look it.
    let values = maps.iter().flat_map(|m| [&m.deterministic, &m.draw, &m.expected]).flatten();
    let least = values.fold(1.0, |least: f64, v| least.min(*v)) as f32;
    let colour = |v: f32| sequential((v - least) / (1.0 - least));
    (positions.sigma.std() > 0.0).then(|| similarity_sheet(&maps, (side, side), 12, colour))
}

fn minutes(seconds: f64) -> String {
    match seconds.is_finite() {
        true => format!("{}:{:02}", seconds as u64 / 60, seconds as u64 % 60),
        false => "?".into(),
    }
}

/// The log as a figure; what concerns noise, for a method that has it.
fn curves(config: &RunConfig, reports: &[StepReport]) -> Curve {
    let series = |name: &str, f: &dyn Fn(&StepReport) -> Option<f64>| {
        (name.to_owned(), reports.iter().filter_map(|r| Some((r.step as f64, f(r)?))).collect())
    };
    let panel = |y_label: &str, log, series| Panel { y_label: y_label.into(), log, series };
    let mut panels = vec![
        panel("loss", true, vec![series("loss", &|r| Some(r.loss))]),
        panel("effective rank", false, vec![series("RankMe", &|r| Some(r.diagnostics?.rank_me))]),
        panel(
            "std over images",
            false,
            vec![
                series("pooled features", &|r| Some(r.diagnostics?.feature_std)),
                series("targets", &|r| Some(r.diagnostics?.target_std)),
            ],
        ),
        panel(
            "norm",
            true,
            vec![
                series("|A|", &|r| Some(r.norm_a)),
                series("visible |A|", &|r| Some(r.diagnostics?.visible_norm_a)),
                series("|γ|", &|r| Some(r.diagnostics?.norm_gamma)),
                series("|m|", &|r| Some(r.norm_m)),
            ],
        ),
    ];
    if reports.iter().any(|r| r.noise_rms > 0.0) {
        panels.extend([
            panel(
                "RMS",
                true,
                vec![
                    series("context A s", &|r| Some(r.diagnostics?.context_rms)),
                    series("noise A n", &|r| Some(r.noise_rms)),
                ],
            ),
            panel(
                "neighbours, d′",
                true,
                vec![
                    series("mean", &|r| Some(r.diagnostics?.neighbours.mean)),
                    series("least", &|r| Some(r.diagnostics?.neighbours.least)),
                ],
            ),
            panel("accuracy", false, vec![series("positions decoded", &|r| Some(r.diagnostics?.position_accuracy))]),
            panel(
                "prediction variance",
                true,
                vec![series("due to noise", &|r| Some(r.diagnostics?.noise_sensitivity))],
            ),
        ]);
    }
    panels.push(panel("learning rate", false, vec![series("learning rate", &|r| Some(r.hyper.lr))]));
    let title = format!("{} on {}", config.model.method.name(), config.data);
    Curve { title, x_label: "step".into(), panels }
}
