//! Everything that decides a run: the same configuration gives the same weights (together with the file of weights that it
//! begins with, if it does).

use std::fs::File;
use std::io::Read;
use std::path::Path;

use super::algorithm_1::StepParams;
use super::fine_tuning::{self, FineTuning};
use super::schedule::{EmaMomentum, LearningRate, WeightDecay};
use crate::data::{Augment, Normalization, check_image_size};
use crate::files::ordinary;
use crate::kernels::{Device, Precision};
use crate::methods::{Masking, ModelConfig};
use crate::paper::masking::kept_units;
use crate::{Error, Result};

/// A file of weights that a run began with. The run goes on without it: this is for whoever asks where weights come from.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "checkpoint", derive(serde::Serialize, serde::Deserialize), serde(deny_unknown_fields))]
pub struct WeightsFile {
    /// Its path, as it was given.
    pub file: String,
    /// Its length.
    pub bytes: u64,
    /// The CRC-32 of all of it (`zlib.crc32`, `crc32` of a shell).
    pub crc32: u32,
}

impl WeightsFile {
    /// Of a file, which is read once from its beginning to its end.
    ///
    /// # Errors
    /// When it is no file or cannot be read.
    pub fn of(path: &Path) -> Result<Self> {
        ordinary(path, "give a file of weights")?;
        let (mut crc, mut bytes, mut piece) = (crc32fast::Hasher::new(), 0, vec![0; 1 << 16]);
        let mut read = || {
            let mut file = File::open(path)?;
            loop {
                match file.read(&mut piece)? {
                    0 => return Ok(()),
                    n => {
                        crc.update(&piece[..n]);
                        bytes += n as u64;
                    }
                }
            }
        };
        read().map_err(|e| Error::io("read", path, e))?;
        Ok(WeightsFile { file: path.display().to_string(), bytes, crc32: crc.finalize() })
    }
}

/// A run of pretraining, or of fine-tuning.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "checkpoint", derive(serde::Serialize, serde::Deserialize), serde(deny_unknown_fields))]
pub struct RunConfig {
    /// The model and the method. Of a run of fine-tuning the encoder and the initialization alone matter.
    pub model: ModelConfig,
    /// What a run of fine-tuning trains on top of the encoder; `None`: the run is one of pretraining.
    #[cfg_attr(feature = "checkpoint", serde(default, skip_serializing_if = "Option::is_none"))]
    pub fine_tuning: Option<FineTuning>,
    /// Where images come from, as [`crate::data::open`] reads it.
    pub data: String,
    /// How pixels become numbers, for whoever reads the weights too. `None`: as the data set suggests.
    pub normalization: Option<Normalization>,
    /// The weights that the run began with; `None`: those that the seed draws.
    pub init: Option<WeightsFile>,
    /// Which tokens are hidden.
    pub masking: Masking,
    /// How images are varied.
    pub augment: Augment,
    /// Images in a step.
    pub batch: usize,
    /// Steps in all, at most [`MAX_STEPS`](Self::MAX_STEPS).
    pub steps: usize,
    /// The learning rate over the steps.
    pub lr: LearningRate,
    /// The weight decay over the steps.
    pub weight_decay: WeightDecay,
    /// The momentum of moving averages over the steps.
    pub ema: EmaMomentum,
    /// What the operands of products are rounded to in training.
    pub precision: Precision,
    /// The one seed.
    pub seed: u64,
}

impl RunConfig {
    /// The most steps that a run can have: 10¹², thirty years at a thousand a second.
    pub const MAX_STEPS: u64 = 1_000_000_000_000;

    /// Settings that can work together.
    ///
    /// # Errors
    /// [`Error::Config`] that names the first setting that cannot work and says what to do.
    pub fn validate(&self) -> Result<()> {
        self.validate_model()?;
        check_image_size(self.model.encoder.image_size)?; // before masks, whose check grows with the grid
        self.augment.check()?;
        let channels = self.model.encoder.channels;
        self.normalization.as_ref().map_or(Ok(()), |n| n.check_channels(channels))?;
        match &self.masking {
            _ if self.fine_tuning.is_some() => {} // it sees whole images
            Masking::Blocks(blocks) => {
                let side = self.model.encoder.grid();
                let problem = format!("masks for a grid of {:?} tokens, images of {side}x{side}", blocks.grid);
                if blocks.grid != (side, side) {
                    return Err(Error::config(problem, "draw masks on the grid of the encoder"));
                }
                blocks.validate()?
            }
            Masking::Random { ratio, unit } => {
                kept_units(self.model.encoder.grid(), *unit, *ratio)?;
            }
        }
        let positive = |x: f64| x > 0.0 && x.is_finite();
        let check = |fine: bool, problem: String, hint: &str| {
            if fine { Ok(()) } else { Err(Error::config(problem, hint)) }
        };
        let LearningRate { start, peak, end, warmup } = self.lr;
        check(
            positive(peak) && start >= 0.0 && end >= 0.0 && start.is_finite() && end.is_finite(),
            format!("a learning rate from {start} over {peak} to {end}"),
            "the peak must be positive, the others not negative",
        )?;
        let decay = [self.weight_decay.start, self.weight_decay.end];
        check(
            decay.iter().all(|d| *d >= 0.0 && d * peak < 1.0),
            format!("a weight decay of {decay:?} at a learning rate of {peak}"),
            "weight decay times learning rate must stay between 0 and 1",
        )?;
        let ema = [self.ema.start, self.ema.end];
        check(
            ema.iter().all(|m| (0.0..=1.0).contains(m)),
            format!("an EMA momentum of {ema:?}"),
            "choose from 0 (the target is the encoder) to 1 (the target never moves)",
        )?;
        check(self.batch > 0 && self.steps > 0, "a run of no steps or empty batches".into(), "ask for at least one")?;
        check(
            self.steps as u64 <= Self::MAX_STEPS,
            format!("a run of {} steps", self.steps),
            "ask for at most 10^12 steps: fewer `steps`, or fewer `epochs`",
        )?;
        check(
            warmup <= self.steps,
            format!("a warm-up of {warmup} steps in a run of {}", self.steps),
            "make the warm-up shorter or the run longer",
        )
    }

    /// What is trained, for logs and headlines: the name of the method, or `finetune`.
    pub fn name(&self) -> &'static str {
        if self.fine_tuning.is_some() { fine_tuning::NAME } else { self.model.method.name() }
    }

    /// Sizes that fit together, and a method that can work on them.
    ///
    /// # Errors
    /// As [`validate`](Self::validate).
    pub(super) fn validate_model(&self) -> Result<()> {
        match &self.fine_tuning {
            Some(tuning) => tuning.validate(&self.model.encoder),
            None => self.model.validate(),
        }
    }

    /// Numbers in the parameters of the run's model, from its sizes alone.
    #[cfg(feature = "checkpoint")]
    pub(super) fn elements(&self) -> u64 {
        self.fine_tuning.as_ref().map_or_else(|| self.model.elements(), |t| t.elements(&self.model.encoder))
    }

    /// Whether this device can train so.
    ///
    /// # Errors
    /// [`Error::Config`] when it has no instructions for products in this precision.
    pub fn supported_on(&self, device: Device) -> Result<()> {
        if self.precision.is_available_on(device) {
            return Ok(());
        }
        let problem = match self.precision {
            Precision::Bf16 => "products in bf16 need a GPU or a processor with AVX512-BF16, and this one has none",
            _ => "products in tf32 need a GPU",
        };
        let hint = "train in f32: leave `precision` as it is; a run that began in another can go on where it began";
        Err(Error::config(problem, hint))
    }

    /// The numbers of a step, counted from 1.
    pub fn step_params(&self, step: usize) -> StepParams {
        StepParams {
            lr: self.lr.at(step, self.steps),
            weight_decay: self.weight_decay.at(step, self.steps),
            ema_momentum: self.ema.at(step, self.steps),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::DType;
    use crate::train::small;

    #[test]
    fn a_run_has_an_end() {
        let run = small::run(&small::trainer(small::stop(), false, DType::F32));
        let of = |steps: u64| RunConfig { steps: usize::try_from(steps).unwrap_or(usize::MAX), ..run.clone() };
        of(RunConfig::MAX_STEPS).validate().unwrap();
        for steps in [RunConfig::MAX_STEPS + 1, u64::MAX] {
            let error = of(steps).validate().unwrap_err().to_string();
            assert!(error.contains(&format!("a run of {steps} steps")) && error.contains("10^12"), "{error}");
        }
    }

    /// The checksum is Python's: `zlib.crc32(bytes(range(256)) * 1000)`.
    #[test]
    fn an_origin_is_a_name_a_length_and_a_checksum() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("weights");
        std::fs::write(&path, (0..=255).collect::<Vec<u8>>().repeat(1000)).unwrap();
        let origin = WeightsFile::of(&path);
        std::fs::remove_file(&path).unwrap();
        let file = path.display().to_string();
        assert_eq!(origin.unwrap(), WeightsFile { file, bytes: 256_000, crc32: 0xFC70_AF1A });
        assert!(WeightsFile::of(&path).is_err() && WeightsFile::of(Path::new(".")).is_err());
    }
}
