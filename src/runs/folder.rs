//! The folder, its lock, and the training in it.

use std::fs::{File, TryLockError};
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::log::{self, Log, Logged};
use super::rotation::Rotation;
use super::together::check_together;
use crate::data::Splits;
use crate::error::panic_message;
use crate::processes::World;
use crate::train::checkpoint::{self, SavedRun};
use crate::train::{Monitoring, RunError, StepReport, Trainer, resume};
use crate::{Error, Result, files};

/// Longest time between checkpoints of a run.
const CHECKPOINT_EVERY: Duration = Duration::from_secs(300);

/// Where in a run's folder its checkpoints are.
const CHECKPOINTS: &str = "checkpoints";

/// A run's folder. While a process has it, no other can.
#[derive(Debug)]
pub struct RunFolder {
    path: PathBuf,
    /// Locked. The system lets go of it when the process ends, however it ends.
    _lock: File,
}

impl RunFolder {
    /// A new folder `{parent}/{name}`, or `{name}-2`, `{name}-3`, … when that exists: no run overwrites another.
    ///
    /// # Errors
    /// When it cannot be made.
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

    /// The folder of a run that is to be resumed.
    ///
    /// # Errors
    /// When there is none, or another process is at work in it.
    pub fn open(path: &Path) -> Result<Self> {
        let is_folder = std::fs::metadata(path).map_err(|e| Error::io("open", path, e))?.is_dir();
        if path.join(CHECKPOINTS).is_dir() {
            return Self::lock(path.to_owned());
        }
        let problem = if is_folder { "no run: no folder of checkpoints is in it" } else { "not a folder" };
        Err(Error::file(path, problem, "give the folder of a run, such as runs/stop-shapes"))
    }

    /// The folder at `path`, made if it is not there; `None` while another has it. For runs that are named by what they are, so
    /// that whoever wants one takes up what others have left.
    ///
    /// # Errors
    /// When it cannot be made or locked.
    pub fn claim(path: &Path) -> Result<Option<Self>> {
        std::fs::create_dir_all(path).map_err(|e| Error::io("create", path, e))?;
        Self::try_lock(path.to_owned())
    }

    fn lock(path: PathBuf) -> Result<Self> {
        Self::try_lock(path.clone())?.ok_or_else(|| {
            let hint = "wait until it has ended, or end it (Ctrl-C, SIGTERM): it leaves a checkpoint";
            Error::file(path, "another process is at work on this run", hint)
        })
    }

    /// `None` while another has the lock.
    fn try_lock(path: PathBuf) -> Result<Option<Self>> {
        let file = path.join("lock");
        let lock = File::options().create(true).append(true).open(&file).map_err(|e| Error::io("open", &file, e))?;
        match lock.try_lock() {
            Ok(()) => {}
            // Some network file systems have no locks. To train is better there than not to.
            Err(TryLockError::Error(e)) if e.kind() == std::io::ErrorKind::Unsupported => {}
            Err(TryLockError::Error(e)) => return Err(Error::io("lock", file, e)),
            Err(TryLockError::WouldBlock) => return Ok(None),
        }
        Ok(Some(RunFolder { path, _lock: lock }))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A file in it.
    pub fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// What the run can be resumed from.
    pub fn checkpoints(&self) -> Rotation {
        Rotation::new(self.file(CHECKPOINTS))
    }

    /// The log: all rows of a short one; of a long one, rows evenly spread, and those with diagnostics.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn log(&self) -> Result<Logged> {
        log::logged(&self.file(log::NAME))
    }

    /// Trains from where the run stands to its end, and writes log, checkpoints and weights. `observe` sees each step, and
    /// may end the run there: then a checkpoint of that step is written first. `every_number`: see [`Monitoring`].
    ///
    /// # Errors
    /// As [`resume`]; when a file cannot be written. The steps that were done are not lost: there is a checkpoint of
    /// the last of them, if it can be written, and the error says from which step the run can be resumed.
    pub fn train(
        &self,
        run: SavedRun,
        splits: &Splits,
        every_number: bool,
        observe: &mut dyn FnMut(&StepReport) -> ControlFlow<()>,
    ) -> Result<Trainer> {
        train_together(&World::alone(), Some(self), run, splits, every_number, observe)
    }
}

/// [`RunFolder::train`] in several processes, all of which call it: the first has the run's folder, the others have none. What
/// the first one's trainer is, all are. All know that a checkpoint is written before any goes on; a run that `observe` ends in
/// one of them ends in all.
///
/// # Errors
/// As [`RunFolder::train`], the same in all processes; when they are not about to make the same run.
pub fn train_together(
    world: &Arc<World>,
    folder: Option<&RunFolder>,
    run: SavedRun,
    splits: &Splits,
    every_number: bool,
    observe: &mut dyn FnMut(&StepReport) -> ControlFlow<()>,
) -> Result<Trainer> {
    check_together(world, &run, splits)?;
    let SavedRun { config, policy, trainer } = run;
    let done = trainer.optimizer.steps() as usize;
    let open = |folder: &RunFolder| {
        let log = Log::open(folder.file(log::NAME), done)?;
        if done == 0 {
            // So that the run can be resumed from its first step.
            folder.checkpoints().save(&config, &policy, &trainer)?;
        }
        Ok(log)
    };
    let mut log = world.agree(folder.map(open).transpose())?;
    let due = |step: usize| {
        let every = |steps: usize| steps > 0 && step.is_multiple_of(steps);
        every(policy.checkpoint_every) || every(policy.keep_every) || step == config.steps
    };
    // In the first process, a checkpoint of what all of them have.
    let save = |log: Result<()>, trainer: &Trainer| match (folder, trainer.whole()) {
        (Some(folder), Some(whole)) => log.and_then(|()| folder.checkpoints().save(&config, &policy, &whole)),
        _ => Ok(()),
    };
    // The last checkpoint that there is, and the last that was tried.
    let (mut kept, mut tried, mut saved) = (done, done, Instant::now());
    let kept_so_far = |error: Error, kept: usize| match folder.map(|folder| folder.path.display()) {
        None => error,
        Some(path) => error
            .noted(format!("the run is kept as it was after step {kept}: `RunFolder::open` {path} goes on from there")),
    };
    let watch = Monitoring { every_number, ..policy.diagnose_every.into() };
    let trained = resume(trainer.among(world)?, &config, splits, watch, &mut |report, trainer| {
        let logged = log.as_mut().map_or(Ok(()), |log| log.append(report));
        let said = logged.map(|()| {
            let ends = observe(report).is_break();
            let saves = log.is_some() && (due(report.step) || saved.elapsed() > CHECKPOINT_EVERY);
            vec![u8::from(ends), u8::from(saves)]
        });
        let said = world.share(said)?;
        let [ends, saves] = [0, 1].map(|what| said.iter().any(|said| said[what] == 1));
        if ends || saves {
            tried = report.step;
            let synced = log.as_ref().map_or(Ok(()), Log::sync); // first: no checkpoint is ahead of the log
            world.agree(save(synced, trainer))?;
            (kept, saved) = (tried, Instant::now());
        }
        Ok(if ends { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
    });
    let trainer = trained.map_err(|failed| {
        let RunError { mut error, trainer } = *failed;
        if let Some(trainer) = trainer.filter(|trainer| trainer.optimizer.steps() as usize > tried) {
            let step = trainer.optimizer.steps() as usize;
            let _ = log.as_ref().map(Log::sync); // what a log has lost is said on resuming
            // A GPU that failed cannot give its weights back, and panics.
            let save = || save(Ok(()), &trainer);
            let saved = catch_unwind(AssertUnwindSafe(save)).unwrap_or_else(|panic| {
                let hint = "the checkpoint before it is whole";
                Err(Error::config(panic_message(&*panic).to_owned(), hint))
            });
            match world.agree(saved) {
                Ok(()) => kept = step,
                Err(e) => error = error.noted(format!("and step {step} cannot be kept: {e}")),
            }
        }
        kept_so_far(error, kept)
    })?;
    let step = trainer.optimizer.steps() as usize;
    let weights =
        |folder: &RunFolder| checkpoint::save(&folder.file("checkpoint.safetensors"), &config, step, &trainer.params);
    world.agree(folder.map_or(Ok(()), weights)).map_err(|error| kept_so_far(error, kept))?;
    Ok(trainer)
}
