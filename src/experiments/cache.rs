//! What was trained and measured, kept on disk: by what it is, so that no experiment does again what another has done.
//!
//! ```text
//! OUT/cache/stop-1f0c…/              a run's folder, named by its whole configuration
//!   checkpoints/, log.csv, lock      as of every run
//!   checkpoint.safetensors           the trained model
//!   measured/probe-83ab….json        what a metric found, named by the metric's whole configuration
//! OUT/cache/untrained-…/, pixels-…/  likewise, of what needs no training
//! ```
//!
//! A file is whole or not there ([`crate::files`]). Who trains or measures something has its folder's lock; others do
//! something else meanwhile.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use super::metrics::Metric;
use crate::data::{self, Normalization, Splits};
use crate::methods::{Method, ModelParams};
use crate::rng::DRAWS;
use crate::runs::{Rotation, RunFolder, default_policy};
use crate::tensor::Device;
use crate::train::checkpoint::{self, CheckpointPolicy, FORMAT, SavedRun};
use crate::train::{RunConfig, StepReport, Trainer, fresh_model};
use crate::{Error, Result, files};

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A trained model.
    Trained,
    /// The same model before its first step.
    Untrained,
    /// No model: the pixels of the images.
    Pixels,
}

/// What is measured, of which run.
#[derive(Clone, Debug, PartialEq)]
pub struct Subject {
    /// What of the run.
    pub kind: Kind,
    /// The run: its model, its images, its seed.
    pub config: RunConfig,
}

/// Data sets, each opened once.
pub struct Images {
    side: usize,
    opened: Mutex<BTreeMap<String, Splits>>,
}

impl Images {
    /// None yet; all of them will be of `side` × `side` pixels.
    pub fn new(side: usize) -> Self {
        Images { side, opened: Mutex::default() }
    }

    /// The images that `spec` names.
    ///
    /// # Errors
    /// As [`data::open`].
    pub fn open(&self, spec: &str) -> Result<Splits> {
        let mut opened = self.opened.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(splits) = opened.get(spec) {
            return Ok(splits.clone());
        }
        let splits = data::open(spec, self.side)?;
        splits.normalization()?; // measured here once, and not by everyone who gets a copy
        opened.insert(spec.to_owned(), splits.clone());
        Ok(splits)
    }
}

/// What a name in the cache stands for: two that differ in anything have different names.
pub(super) fn name_of(prefix: &str, configuration: &serde_json::Value) -> String {
    // FNV-1a with 64 bits. What is in a folder is compared with what was asked for, so that a name that two share is an error
    // and no mistake.
    let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
    let hash = configuration.to_string().as_bytes().iter().fold(0xcbf2_9ce4_8422_2325, step);
    format!("{prefix}-{hash:016x}")
}

impl Subject {
    /// A model trained so.
    pub fn trained(config: RunConfig) -> Self {
        Subject { kind: Kind::Trained, config }
    }

    /// All that decides what is measured. Where the files of the images lie is no part of it: what
    /// they are is, as far as [`Dataset::identity`](crate::data::Dataset::identity) tells it.
    fn configuration(&self, images: &Images) -> Result<serde_json::Value> {
        let RunConfig { model, normalization, seed, .. } = &self.config;
        Ok(match self.kind {
            Kind::Trained => {
                let splits = images.open(&self.config.data)?;
                let images = [splits.train.identity(), splits.test.identity()];
                let config = RunConfig { data: String::new(), ..self.config.clone() };
                serde_json::json!({ "run": config, "images": images, "draws": DRAWS, "format": FORMAT })
            }
            Kind::Untrained => {
                serde_json::json!({ "untrained": model, "images": normalization, "seed": seed, "draws": DRAWS })
            }
            Kind::Pixels => serde_json::json!({ "pixels": model.encoder.image_size, "images": normalization }),
        })
    }

    /// Its name in the cache.
    ///
    /// # Errors
    /// When its images cannot be opened.
    pub fn name(&self, images: &Images) -> Result<String> {
        let prefix = match self.kind {
            Kind::Trained => self.config.model.method.name(),
            Kind::Untrained => "untrained",
            Kind::Pixels => "pixels",
        };
        Ok(name_of(prefix, &self.configuration(images)?))
    }
}

/// What the folder of a cache is called, beside those of results.
pub const FOLDER: &str = "cache";

/// A folder of what was trained and measured.
#[derive(Clone, Debug)]
pub struct Cache {
    folder: PathBuf,
    /// Where models are trained. They are read and measured on the CPU, and known by what they are, not by where they were made.
    pub device: Device,
}

/// A model, ready to be measured, or its pixels.
pub struct Specimen<'a> {
    /// Where it is trained further, if it is.
    pub device: Device,
    /// What it is.
    pub subject: &'a Subject,
    /// The model; `None` for pixels.
    pub model: Option<(Arc<dyn Method>, ModelParams)>,
    /// The folder where it is kept, locked: of a trained model with its log and its `checkpoint.safetensors`.
    pub folder: &'a RunFolder,
    /// All images.
    pub images: &'a Images,
}

impl Specimen<'_> {
    /// How its images are normalized.
    ///
    /// # Errors
    /// When that has to be measured, and an image cannot be read.
    pub fn normalization(&self) -> Result<Normalization> {
        let RunConfig { normalization, data, .. } = &self.subject.config;
        self.images.open(data)?.normalization_or(normalization.as_ref())
    }
}

/// What a metric has found: numbers by their names.
pub type Values = BTreeMap<String, f64>;

/// A file of [`Values`].
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Measured {
    /// The configuration of the metric.
    metric: serde_json::Value,
    /// What was measured.
    subject: serde_json::Value,
    /// As text: JSON has no word for infinity.
    values: BTreeMap<String, String>,
    /// The CRC-32 of the three above.
    crc32: u32,
}

impl Measured {
    fn checksum(&self) -> u32 {
        let json = serde_json::json!([self.metric, self.subject, self.values]);
        crc32fast::hash(json.to_string().as_bytes())
    }
}

impl Cache {
    /// The cache in this folder, which is made with the first thing in it.
    pub fn new(folder: PathBuf) -> Self {
        Cache { folder, device: Device::Cpu }
    }

    /// Where something of this name is.
    pub fn folder(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// The folder of this name for this process alone; `None` while another works on it.
    ///
    /// # Errors
    /// When it cannot be made or locked.
    pub fn claim(&self, name: &str) -> Result<Option<RunFolder>> {
        RunFolder::claim(&self.folder(name))
    }

    /// The steps that are done of a run of this name and length, as far as they are kept. What is kept may be damaged: that is
    /// found when it is read.
    pub fn steps_done(&self, name: &str, length: usize) -> usize {
        let folder = self.folder(name);
        let newest = Rotation::new(folder.join("checkpoints")).steps().ok().and_then(|steps| steps.first().copied());
        // A model whose checkpoints were removed: of a run that was stopped there would be one.
        newest.unwrap_or(if folder.join(MODEL).is_file() { length } else { 0 })
    }

    /// Where a measurement of something of this name is.
    fn measured(&self, name: &str, metric: &dyn Metric, images: &Images) -> Result<PathBuf> {
        let file = name_of(metric.name(), &metric.configuration(images)?) + ".json";
        Ok(self.folder(name).join("measured").join(file))
    }

    /// What this metric found, if that is kept and whole. A damaged file counts as none, and `note` is told.
    ///
    /// # Errors
    /// When a file is there and cannot be read, or is of something else.
    pub fn values(
        &self,
        (subject, images): (&Subject, &Images),
        metric: &dyn Metric,
        note: &dyn Fn(&str),
    ) -> Result<Option<Values>> {
        let path = self.measured(&subject.name(images)?, metric, images)?;
        let json = match std::fs::read(&path) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            json => json.map_err(|e| Error::io("read", &path, e))?,
        };
        let whole = serde_json::from_slice::<Measured>(&json).ok().filter(|found| found.checksum() == found.crc32);
        let values = |found: &Measured| -> Option<Values> {
            found.values.iter().map(|(name, value)| Some((name.clone(), value.parse().ok()?))).collect()
        };
        let Some((found, values)) = whole.and_then(|found| values(&found).map(|values| (found, values))) else {
            note(&format!("{}: damaged; it is measured anew", path.display()));
            return Ok(None);
        };
        if (&found.metric, &found.subject) != (&metric.configuration(images)?, &subject.configuration(images)?) {
            return Err(Error::file(path, "a measurement of something else", "remove it, or give another folder"));
        }
        Ok(Some(values))
    }

    /// Keeps what this metric found.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn keep(&self, (subject, images): (&Subject, &Images), metric: &dyn Metric, values: &Values) -> Result<()> {
        let path = self.measured(&subject.name(images)?, metric, images)?;
        let folder = path.parent().unwrap_or(Path::new("."));
        std::fs::create_dir_all(folder).map_err(|e| Error::io("create", folder, e))?;
        let values = values.iter().map(|(name, value)| (name.clone(), value.to_string())).collect();
        let (metric, subject) = (metric.configuration(images)?, subject.configuration(images)?);
        let mut measured = Measured { metric, subject, values, crc32: 0 };
        measured.crc32 = measured.checksum();
        files::write_whole(&path, serde_json::to_string_pretty(&measured).expect("plain data").as_bytes())
    }

    /// The model of a subject: read, if it is kept; trained, as far as it is not. What is damaged is trained anew, and `note` is
    /// told.
    ///
    /// # Errors
    /// As [`RunFolder::train`]; [`Error::Interrupted`], when `observe` ends the training. All steps done are kept.
    pub fn model(
        &self,
        (subject, images): (&Subject, &Images),
        folder: &RunFolder,
        diagnoses: usize,
        note: &dyn Fn(&str),
        observe: &mut dyn FnMut(&StepReport) -> ControlFlow<()>,
    ) -> Result<Option<(Arc<dyn Method>, ModelParams)>> {
        let config = &subject.config;
        match subject.kind {
            Kind::Pixels => return Ok(None),
            Kind::Untrained => return fresh_model(config).map(Some),
            Kind::Trained => {}
        }
        let file = folder.file(MODEL);
        if file.is_file() {
            match checkpoint::load(&file) {
                Ok(found) => {
                    is_of(&found.config, config, &file)?;
                    if found.step == config.steps {
                        return Ok(Some((found.method, found.params)));
                    }
                }
                Err(error @ Error::Io { .. }) => return Err(error),
                Err(error) => note(&format!("{error}\n  it is made anew from the run's last checkpoint")),
            }
        }
        let splits = images.open(&config.data)?;
        let begin = || fresh_model(config).map(|(method, params)| Trainer::new(method, params));
        let trainer = train((config, &splits, self.device), folder, diagnoses, begin, note, observe)?;
        Ok(Some((trainer.method.clone(), trainer.params)))
    }

    /// A trained model that is kept.
    ///
    /// # Errors
    /// When it is not, or cannot be read.
    pub fn load(&self, subject: &Subject, images: &Images) -> Result<(Arc<dyn Method>, ModelParams)> {
        if subject.kind == Kind::Trained {
            let file = self.folder(&subject.name(images)?).join(MODEL);
            let found = checkpoint::load(&file)?;
            is_of(&found.config, &subject.config, &file)?;
            return Ok((found.method, found.params));
        }
        fresh_model(&subject.config)
    }
}

/// Trains in `folder` on a device to the end, from the last checkpoint there or, if there is none, from what `begin` makes. What is damaged
/// is trained anew, and `note` is told.
///
/// # Errors
/// As [`RunFolder::train`]; [`Error::Interrupted`], when `observe` ends the training. All steps done are kept.
pub(super) fn train(
    (config, splits, device): (&RunConfig, &Splits, Device),
    folder: &RunFolder,
    diagnoses: usize,
    begin: impl FnOnce() -> Result<Trainer>,
    note: &dyn Fn(&str),
    observe: &mut dyn FnMut(&StepReport) -> ControlFlow<()>,
) -> Result<Trainer> {
    let diagnose_every = (config.steps / diagnoses.max(1)).max(1);
    // What a run needs to go on is written every five minutes and at the end; of a finished one nobody needs two.
    let policy = CheckpointPolicy { diagnose_every, checkpoint_every: 0, keep: 1, ..default_policy(config, splits) };
    let run = match begun(&folder.checkpoints(), note)? {
        Some(run) => run,
        None => SavedRun { config: config.clone(), policy, trainer: begin()? },
    };
    is_of(&run.config, config, folder.path())?;
    let trainer = run.trainer.to_device(device);
    let trainer = folder.train(SavedRun { trainer, ..run }, splits, false, observe)?.to_device(Device::Cpu);
    if (trainer.optimizer.steps() as usize) < config.steps {
        return Err(Error::Interrupted);
    }
    Ok(trainer)
}

/// A run at its last checkpoint; `None`, if there is none that is whole.
fn begun(checkpoints: &Rotation, note: &dyn Fn(&str)) -> Result<Option<SavedRun>> {
    if checkpoints.steps()?.is_empty() {
        return Ok(None);
    }
    match checkpoints.newest() {
        Ok(newest) => {
            newest.damaged.iter().for_each(|error| note(&error.to_string()));
            Ok(Some(newest.run))
        }
        Err(error @ Error::Io { .. }) => Err(error),
        Err(error) => {
            note(&format!("{error}\n  the run is made anew"));
            for path in checkpoints.steps()?.into_iter().map(|step| checkpoints.file(step)) {
                std::fs::remove_file(&path).map_err(|e| Error::io("remove", path, e))?;
            }
            Ok(None)
        }
    }
}

/// The trained model in a run's folder.
const MODEL: &str = "checkpoint.safetensors";

/// That what was found at `path` is of this run, wherever its images lay.
fn is_of(found: &RunConfig, config: &RunConfig, path: &Path) -> Result<()> {
    if *found == (RunConfig { data: found.data.clone(), ..config.clone() }) {
        return Ok(());
    }
    let hint = "remove its folder: what was in it is trained again";
    Err(Error::file(path, "the run of another configuration", hint))
}
