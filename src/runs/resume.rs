//! An interrupted run is taken up again: on the same images, for another length if that is asked for.

use super::folder::RunFolder;
use super::log;
use super::rotation::Newest;
use crate::data::{self, OpenOptions, Splits};
use crate::train::RunConfig;
use crate::train::checkpoint::{CheckpointPolicy, SavedRun};
use crate::{Error, Result};

/// What stands between the lists of both splits in [`CheckpointPolicy::images`].
const HELD_OUT: &str = "; held out: ";

/// How long a run is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Length {
    /// So many steps in all.
    Steps(usize),
    /// So many passes over the training images, with fractions.
    Epochs(f64),
}

impl Length {
    /// The steps in all, with `epoch` steps in an epoch.
    ///
    /// # Errors
    /// When a number of epochs is not one, or they are more steps than a run can have.
    pub fn steps(self, epoch: usize) -> Result<usize> {
        let epochs = match self {
            Length::Steps(steps) => return Ok(steps),
            Length::Epochs(epochs) => epochs,
        };
        if !(epochs >= 0.0 && epochs.is_finite()) {
            return Err(Error::config(format!("`epochs` is {epochs}"), "choose a number that is not negative"));
        }
        let steps = (epochs * epoch as f64).round();
        if steps > RunConfig::MAX_STEPS as f64 {
            let problem = format!("`epochs` is {epochs}: {steps:e} steps, at {epoch} in an epoch");
            let most = RunConfig::MAX_STEPS / epoch as u64;
            return Err(Error::config(problem, format!("choose at most {most} epochs, which are 10^12 steps")));
        }
        Ok(steps as usize)
    }
}

/// How a new run on these images is watched and kept where nobody says otherwise: twenty diagnostics, a checkpoint with
/// each epoch, of which the last two are kept.
pub fn default_policy(config: &RunConfig, splits: &Splits) -> CheckpointPolicy {
    CheckpointPolicy {
        diagnose_every: (config.steps / 20).max(1),
        checkpoint_every: splits.train.len() / config.batch,
        keep: 2,
        keep_every: 0,
        images: images(splits),
    }
}

/// A run that [`RunFolder::resume`] took up.
pub struct Resumed {
    /// The run after its last whole checkpoint.
    pub run: SavedRun,
    /// Its images.
    pub splits: Splits,
    /// What the user should know, line by line: damaged checkpoints, other held-out images, steps missing in the log.
    pub notes: Vec<String>,
    /// Whether the last checkpoint was damaged, so that an earlier one is taken.
    pub damaged: bool,
    /// The run as the checkpoint has it.
    before: (RunConfig, CheckpointPolicy),
}

impl RunFolder {
    /// Takes up the run from its last whole checkpoint. `data`: where its images are now, if they have moved.
    ///
    /// # Errors
    /// When no checkpoint can be used, or the images to train on are not there or are others than before.
    pub fn resume(&self, data: Option<&str>, options: OpenOptions) -> Result<Resumed> {
        let Newest { mut run, damaged } = self.checkpoints().newest()?;
        let before = (run.config.clone(), run.policy.clone());
        if let Some(data) = data {
            run.config.data = data::absolute_spec(data)?;
        }
        let mut notes: Vec<String> = damaged.iter().map(Error::to_string).collect();
        let opened = data::open_with(&run.config.data, run.config.model.encoder.image_size, options);
        let splits = opened.map_err(|error| match data {
            Some(_) => error,
            None => error.noted("if the images have moved, say where they are now with `data`, as in folder:DIR"),
        })?;
        let splits = match &run.config.fine_tuning {
            Some(tuning) => tuning.choose(&splits, run.config.seed)?,
            None => splits,
        };
        notes.extend(check_images(&run.config.data, &splits, &run.policy.images)?);
        run.policy.images = images(&splits);
        let (done, path) = (run.trainer.optimizer.steps() as usize, self.file(log::NAME));
        let (_, logged) = log::read(&path, done)?;
        let logged = logged.len();
        if logged < done {
            notes.push(format!("{}: {} of the {done} steps done are not in it", path.display(), done - logged));
        }
        Ok(Resumed { run, splits, notes, damaged: !damaged.is_empty(), before })
    }

    /// Keeps what was changed in a run that was taken up: a checkpoint with it, if there is anything.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn save_changes(&self, resumed: &Resumed) -> Result<()> {
        let Resumed { run: SavedRun { config, policy, trainer }, before, .. } = resumed;
        if (config, policy) == (&before.0, &before.1) {
            Ok(())
        } else {
            self.checkpoints().save(config, policy, trainer)
        }
    }
}

impl Resumed {
    /// Steps done.
    pub fn done(&self) -> usize {
        self.run.trainer.optimizer.steps() as usize
    }

    /// Makes the run longer or shorter. Gives what becomes of its schedules, line by line.
    ///
    /// # Errors
    /// When it cannot have this length.
    pub fn set_length(&mut self, length: Length) -> Result<Vec<String>> {
        let (done, run) = (self.done(), &mut self.run.config);
        let (steps, before) = (length.steps(self.splits.train.len() / run.batch)?, run.steps);
        if steps < done {
            let problem = format!("a run of {steps} steps cannot go on after step {done}");
            return Err(Error::config(problem, format!("ask for at least {done} steps in all: those done count")));
        }
        let changed = RunConfig { steps, ..run.clone() };
        changed.validate()?;
        let (now, then) = (run.step_params(done.max(1)), changed.step_params(done + 1));
        *run = changed;
        let mut notes = Vec::new();
        if steps == before {
            return Ok(notes);
        }
        let what = format!("a run of {before} steps becomes one of {steps}");
        notes.push(format!("{what}: its warm-up stays, its schedules stretch to the new end"));
        if done == 0 || done == steps {
            return Ok(notes);
        }
        let mut note = |what: &str, now: String, then: String| {
            notes.push(format!("  {what}: {now} at step {done}, {then} at step {}", done + 1));
        };
        note("learning rate", format!("{:.3e}", now.lr), format!("{:.3e}", then.lr));
        note("weight decay", format!("{:.4}", now.weight_decay), format!("{:.4}", then.weight_decay));
        if run.model.method.has_target_encoder() {
            note("EMA momentum", format!("{:.6}", now.ema_momentum), format!("{:.6}", then.ema_momentum));
        }
        Ok(notes)
    }
}

/// Identifies the images of a run: the lists of both splits.
pub(super) fn images(splits: &Splits) -> String {
    [splits.train.identity(), splits.test.identity()].join(HELD_OUT)
}

/// Checks that these are the images that the run trains on. Other held-out images are no error, as no weight depends on them: a
/// note says so.
fn check_images(data: &str, splits: &Splits, before: &str) -> Result<Option<String>> {
    let (train, held_out) = (splits.train.identity(), splits.test.identity());
    let other = |now: &str, before: &str| {
        let problem = format!("{data}: not the images of this run: {now}, where there were {before}");
        let hint = "bring back the files under their names (warnings name those that cannot be used), say with `data` \
                    where they are, or begin a new run";
        Error::config(problem, hint)
    };
    match before.split_once(HELD_OUT) {
        Some((before, _)) if before != train => Err(other(&train, before)),
        Some((_, before)) if before != held_out => {
            Ok(Some(format!("held out are other images than before: {held_out}, where there were {before}")))
        }
        Some(_) => Ok(None),
        // An earlier version wrote numbers of images, and statistics of pixels.
        None if before.starts_with(&format!("{} and {} images, ", splits.train.len(), splits.test.len())) => Ok(None),
        None => Err(other(&images(splits), before)),
    }
}
