//! Checkpoint rotation: the folder `checkpoints/` of a run, with `step-00000120.safetensors` and so on.
//!
//! Each file holds all that the run needs to be resumed ([`save_run`]). The last few are kept, so that a damaged newest one
//! costs only the steps since the one before it, and some for good. A file goes only after a newer one is on disk.

use std::path::PathBuf;

use crate::files::{UNFINISHED, sync_folder};
use crate::train::checkpoint::{CheckpointPolicy, SavedRun, load_run, save_run};
use crate::train::{RunConfig, Trainer};
use crate::{Error, Result};

/// The checkpoints of one run. One process at a time may use it.
#[derive(Clone, Debug)]
pub struct Rotation {
    folder: PathBuf,
}

/// What [`Rotation::newest`] found.
#[derive(Debug)]
pub struct Newest {
    /// The run of the newest checkpoint that is whole.
    pub run: SavedRun,
    /// What is wrong with newer files.
    pub damaged: Vec<Error>,
}

impl Rotation {
    /// The checkpoints in a folder, which is made with the first of them.
    pub fn new(folder: PathBuf) -> Self {
        Rotation { folder }
    }

    /// The file for a step.
    pub fn file(&self, step: usize) -> PathBuf {
        self.folder.join(format!("step-{step:08}.safetensors"))
    }

    /// The steps that there are files for, newest first.
    ///
    /// # Errors
    /// When the folder is there and cannot be read.
    pub fn steps(&self) -> Result<Vec<usize>> {
        let step = |name: &str| {
            let step = name.strip_prefix("step-")?.strip_suffix(".safetensors")?.parse().ok()?;
            self.file(step).ends_with(name).then_some(step) // step-9.safetensors is none of ours
        };
        let mut steps: Vec<usize> = self.names()?.iter().filter_map(|name| step(name)).collect();
        steps.sort_unstable_by_key(|step| std::cmp::Reverse(*step));
        Ok(steps)
    }

    fn names(&self) -> Result<Vec<String>> {
        let cannot = |e| Error::io("read", &self.folder, e);
        let entries = match std::fs::read_dir(&self.folder) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(cannot)?,
        };
        let names: std::io::Result<Vec<_>> = entries.map(|entry| Ok(entry?.file_name())).collect();
        // A name that is not UTF-8 is none of ours.
        Ok(names.map_err(cannot)?.into_iter().filter_map(|name| name.into_string().ok()).collect())
    }

    /// Writes a checkpoint, and then removes those that are neither among the last nor kept for good.
    ///
    /// # Errors
    /// When it cannot be written; those before it are still there.
    pub fn save(&self, config: &RunConfig, policy: &CheckpointPolicy, trainer: &Trainer) -> Result<()> {
        if !self.folder.is_dir() {
            let made = std::fs::create_dir_all(&self.folder).and_then(|()| sync_folder(&self.folder));
            made.map_err(|e| Error::io("create", &self.folder, e))?;
        }
        save_run(&self.file(trainer.optimizer.steps() as usize), config, policy, trainer)?;
        let for_good = |step: usize| step > 0 && policy.keep_every > 0 && step.is_multiple_of(policy.keep_every);
        let old = self.steps()?.into_iter().skip(policy.keep.max(1)).filter(|step| !for_good(*step));
        for path in old.map(|step| self.file(step)) {
            std::fs::remove_file(&path).map_err(|e| Error::io("remove", path, e))?;
        }
        Ok(())
    }

    /// The newest checkpoint that is whole. Damaged ones before it are set aside, with `.damaged` behind their names,
    /// and what a killed process left half written is removed.
    ///
    /// # Errors
    /// When there is none: what is wrong with each is said. When the system does not let one be read: that is no damage,
    /// and may pass.
    pub fn newest(&self) -> Result<Newest> {
        let unfinished = self.names()?.into_iter().filter(|name| name.ends_with(UNFINISHED));
        for path in unfinished.map(|name| self.folder.join(name)).filter(|path| path.is_file()) {
            std::fs::remove_file(&path).map_err(|e| Error::io("remove", path, e))?;
        }
        let mut damaged = Vec::new();
        for step in self.steps()? {
            match load_run(&self.file(step)) {
                Err(e @ Error::Io { .. }) => return Err(e),
                Err(e) => damaged.push((step, e)),
                Ok(run) => {
                    for (step, _) in &damaged {
                        let (from, aside) = (self.file(*step), self.file(*step).with_extension("safetensors.damaged"));
                        std::fs::rename(&from, aside).map_err(|e| Error::io("rename", from, e))?;
                    }
                    return Ok(Newest { run, damaged: damaged.into_iter().map(|(_, e)| e).collect() });
                }
            }
        }
        let problem = if damaged.is_empty() {
            "no checkpoint is in it".to_owned()
        } else {
            damaged.iter().fold("no checkpoint in it can be used".into(), |all, (_, e)| format!("{all}\n  {e}"))
        };
        Err(Error::file(&self.folder, problem, "begin a new run (`RunFolder::create`)"))
    }
}
