//! What every run shares that can be interrupted: its folder, its checkpoints, its progress.

use std::ops::ControlFlow;
use std::path::{Component, Path, PathBuf};

use clap::Args;

use super::flags::{flag, positive};
use super::pictures::curves;
use super::progress::Progress;
use super::signals;
use crate::data::Splits;
use crate::kernels::{Precision, peak};
use crate::methods::Number;
use crate::processes::{host, world};
use crate::runs::{Resumed, RunFolder, check_together, give, train_together};
use crate::train::checkpoint::{CheckpointPolicy, SavedRun};
use crate::train::{RunConfig, StepReport, Trainer};
use crate::{Device, Result};

/// How a run is watched and kept.
#[derive(Args, Clone, Debug)]
pub struct RunArgs {
    /// Where run folders are made.
    #[arg(long, default_value = "runs", value_name = "DIR")]
    pub out: PathBuf,
    /// Name of the run's folder [default: method and data]; a number is added when it exists.
    #[arg(long, value_parser = folder_name)]
    name: Option<String>,
    /// Steps between checkpoints [default: an epoch; one is made every five minutes too, and at the end].
    #[arg(long, value_name = "STEPS", value_parser = positive)]
    checkpoint_every: Option<usize>,
    /// How many of the last checkpoints are kept [default: 2].
    #[arg(long, value_name = "K", value_parser = positive)]
    keep: Option<usize>,
    /// Keep the checkpoint of every Nth epoch for good [default: of none].
    #[arg(long, value_name = "N", value_parser = positive)]
    keep_every: Option<usize>,
    /// Steps between diagnostics on held-out images; 0: only at the end [default: a twentieth of the run].
    #[arg(long, value_name = "STEPS")]
    diagnose_every: Option<usize>,
    /// Look at every number of every step, twice as slow, and stop at the first that is not finite. (Without it, a loss or
    /// gradient that is not finite ends the run too, with the operation that first made one.)
    #[arg(long)]
    debug_nan: bool,
}

/// The name of a folder in another: a path would lead elsewhere.
fn folder_name(text: &str) -> Result<String, String> {
    let mut parts = Path::new(text).components();
    match (parts.next(), parts.next()) {
        (Some(Component::Normal(name)), None) if name == text => Ok(text.to_owned()),
        _ => Err("not the name of a folder; --out says where it is made".to_owned()),
    }
}

impl RunArgs {
    /// The name of a new run's folder.
    fn folder_name(&self, config: &RunConfig) -> String {
        let scheme = config.data.split(':').next().unwrap_or("data");
        self.name.clone().unwrap_or_else(|| format!("{}-{scheme}", config.name()))
    }

    /// The folder of a new run, in the first process, once it is clear that there can be such a run.
    pub fn begin(&self, run: &SavedRun, splits: &Splits) -> Result<Option<RunFolder>> {
        check_together(&world(), run, splits)?;
        let folder = || RunFolder::create(&self.out, &self.folder_name(&run.config));
        world().is_first().then(folder).transpose()
    }

    /// What the flags say, and where they say nothing, what was so far. `epoch` is its number of steps.
    pub fn policy(&self, so_far: CheckpointPolicy, epoch: usize) -> CheckpointPolicy {
        CheckpointPolicy {
            diagnose_every: self.diagnose_every.unwrap_or(so_far.diagnose_every),
            checkpoint_every: self.checkpoint_every.unwrap_or(so_far.checkpoint_every),
            keep: self.keep.unwrap_or(so_far.keep),
            keep_every: self.keep_every.map_or(so_far.keep_every, |epochs| epochs.saturating_mul(epoch)),
            images: so_far.images,
        }
    }

    /// Trains from where the run stands to its end, or to Ctrl-C, and shows how it goes. `what` is the subcommand. Of several
    /// processes the first has the folder.
    pub fn train(
        &self,
        what: &'static str,
        run: SavedRun,
        splits: &Splits,
        folder: Option<&RunFolder>,
    ) -> Result<Trainer> {
        let (steps, batch, done) = (run.config.steps, run.config.batch, run.trainer.optimizer.steps() as usize);
        let (world, threads) = (world(), rayon::current_num_threads());
        if world.size() > 1 {
            let words = [threads.to_string(), host()].join(" on ").into_bytes();
            let all = world.share(Ok(words))?;
            let all: Vec<_> = all.iter().map(|words| String::from_utf8_lossy(words)).collect();
            say!("{} processes, threads of each: {}", world.size(), all.join(", "));
        }
        let progress = Progress::new(steps, what);
        progress.advance(done, String::new);
        let (mut speed, mut diagnosis) = (0.0, String::new());
        let trained = train_together(&world, folder, run, splits, self.debug_nan, &mut |report| {
            // A running mean over about fifty steps: single steps jump.
            speed += (report.images_per_second - speed) / (report.step - done).min(50) as f64;
            if let Some(d) = &report.diagnostics {
                diagnosis = match d.get("held_out_accuracy") {
                    Some(accuracy) => format!("held-out images {:.1} % right", 100.0 * accuracy),
                    None => format!("rank {:.1}, std {:.3}", d["rank_me"], d["feature_std"]),
                };
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
}

/// Says so where a run's precision brings nothing: some processors have the instructions for bf16 at half the speed of f32's.
pub fn weigh(precision: Precision, device: Device) {
    if precision == Precision::Bf16 && !device.is_gpu() {
        no_gain(precision, peak::gain(precision)).iter().for_each(|line| note!("{line}"));
    }
}

fn no_gain(precision: Precision, gain: f64) -> Option<String> {
    (gain < 1.1).then(|| {
        format!(
            "warning: on this processor products in {precision} are {gain:.2} times as fast as in f32, which rounds less: \
             --precision f32"
        )
    })
}

/// Goes on with a run on a device: the other processes hear of it, and what is otherwise than before is kept once it is clear
/// that all can take part.
pub fn take_up(folder: &RunFolder, mut resumed: Resumed, device: Device) -> Result<(SavedRun, Splits)> {
    resumed.run.trainer = resumed.run.trainer.to_device(device);
    give(&world(), &resumed.run)?;
    check_together(&world(), &resumed.run, &resumed.splits)?;
    folder.save_changes(&resumed)?;
    Ok((resumed.run, resumed.splits))
}

/// Draws a picture into a run's folder, and gives its name. Of one that is not drawn it is said why: no run fails for a
/// picture.
pub fn keep(folder: &RunFolder, name: &'static str, draw: &dyn Fn(&Path) -> Result<()>) -> Option<&'static str> {
    let path = folder.file(name);
    let warn = |error: crate::Error| note!("warning: {} is not drawn: {}", path.display(), error.renamed(flag));
    draw(&path).map(|()| name).map_err(warn).ok()
}

/// The log of a run as a picture in its folder.
pub fn keep_curves(folder: &RunFolder, config: &RunConfig, known: &[Number]) -> Option<&'static str> {
    keep(folder, "curves.svg", &|path| curves(config, &folder.log()?, known).save_svg(path))
}

/// Says how many images a run went without.
pub fn say_skipped(splits: &Splits) {
    if splits.skipped() > 0 {
        let by = if world().size() > 1 { " by the first process" } else { "" };
        say!("files that could not be used and were skipped{by}: {}; the warnings name them", splits.skipped());
    }
}

/// Says what is in the folder of a run, and how it goes on where it was stopped. `what` is the subcommand.
pub fn report(what: &str, written: &[&str], folder: &RunFolder, trainer: &Trainer, config: &RunConfig) {
    written.iter().for_each(|name| say!("  {}", folder.file(name).display()));
    let step = trainer.optimizer.steps() as usize;
    if step < config.steps {
        say!("stopped at step {step} of {}, as asked; everything is written", config.steps);
        let device = trainer.params.device();
        let there = if device.is_gpu() { format!(" --device {device}") } else { String::new() };
        say!("stop-mim {what} --resume {}{there} goes on", folder.path().display());
    }
}

fn minutes(seconds: f64) -> String {
    if seconds.is_finite() { format!("{}:{:02}", seconds as u64 / 60, seconds as u64 % 60) } else { "?".into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_precision_that_brings_nothing_is_told() {
        assert!(no_gain(Precision::Bf16, 0.5).unwrap().contains("0.50 times as fast"));
        assert_eq!(no_gain(Precision::Bf16, 1.9), None);
    }
}
