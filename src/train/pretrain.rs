//! The loop around Algorithm 1's step: data in, masks drawn, schedules followed, progress reported.

use std::ops::ControlFlow;
use std::time::Instant;

use super::algorithm_1::{Batch, Hyper, Noise, Trainer};
use super::config::RunConfig;
use crate::data::{Dataset, First, Loader, LoaderOptions, Splits};
use crate::eval::{feature_std, pooled_features, rank_me};
use crate::methods::{Method, Model, ModelParams};
use crate::paper::expected_noise_power;
use crate::rng::{Purpose, stream};
use crate::tensor::{DType, Tensor};
use crate::{Error, Result};

/// What is reported after a step.
#[derive(Clone, Copy, Debug)]
pub struct StepReport {
    /// Steps done, counted from 1.
    pub step: usize,
    /// Passes over the training images, with fractions.
    pub epoch: f64,
    /// The loss before the step.
    pub loss: f64,
    /// The numbers of the step.
    pub hyper: Hyper,
    /// |A|, the Frobenius norm of the tied projection (I-JEPA, MAE: of B).
    pub norm_a: f64,
    /// |m|, the length of the token that stands for the masked ones.
    pub norm_m: f64,
    /// √(tr Σ / d_p): root mean square of the noise on a component of a position; 0 without noise.
    pub noise_rms: f64,
    /// Since the last report but for diagnostics.
    pub images_per_second: f64,
    /// Collapse diagnostics, on the steps that have them.
    pub diagnostics: Option<Diagnostics>,
}

/// Has the encoder collapsed? Measured on held-out images, on pooled features of the evaluated encoder.
#[derive(Clone, Copy, Debug)]
pub struct Diagnostics {
    /// The standard deviation of a feature over images, averaged over features.
    pub feature_std: f64,
    /// Effective rank of the features (RankMe), at most their width.
    pub rank_me: f64,
}

/// Held-out images that diagnostics look at.
const HELD_OUT: usize = 512;

/// Pretrains, from scratch, on the data that was opened for this configuration.
///
/// After each step `observe` sees the report and the trainer; it may end the run there. `diagnose_every` is a number
/// of steps; the last step has diagnostics too. The weights depend on the configuration alone, not on how the run is
/// observed or on how many threads work.
///
/// # Errors
/// When the configuration cannot work, an image cannot be read, or training diverges.
pub fn pretrain(
    config: &RunConfig,
    splits: &Splits,
    diagnose_every: usize,
    observe: &mut dyn FnMut(&StepReport, &Trainer) -> Result<ControlFlow<()>>,
) -> Result<Trainer> {
    config.validate()?;
    let (model, params) = fresh_model(config)?;
    let mut trainer = Trainer::new(model, params);
    let (lr, weight_decay, ema) = config.schedules();
    let held_out = First::new(splits.test.clone(), HELD_OUT);
    let options = LoaderOptions {
        batch_size: config.batch,
        seed: config.seed,
        first_step: 0,
        augment: Some(config.augment),
        normalization: splits.normalization,
        threads: 1,
    };
    let images = splits.train.len() as f64;
    let loader = Loader::new(splits.train.clone(), options)?;
    let mut clock = Instant::now();
    for (step, batch) in (1..=config.steps).zip(loader) {
        let batch = masked(config, step, batch?.images)?;
        let hyper = Hyper { lr: lr.at(step), weight_decay: weight_decay.at(step), ema_momentum: ema.at(step) };
        let loss = trainer.step(&batch, &hyper)?;

        let seconds = clock.elapsed().as_secs_f64();
        let last = step == config.steps;
        let diagnostics = match last || step % diagnose_every.max(1) == 0 {
            true => Some(diagnose(&trainer, &held_out, splits)?),
            false => None,
        };
        let Model { config: ref sizes, ref predictor, .. } = trainer.model;
        let phi = &trainer.params.predictor;
        let a = phi.value(predictor.embed.weight);
        let noise_power = match sizes.method {
            Method::Stop { sigma, .. } => expected_noise_power(a, sigma),
            Method::Ijepa { .. } | Method::Mae { .. } => 0.0,
        };
        let report = StepReport {
            step,
            epoch: (step * config.batch) as f64 / images,
            loss,
            hyper,
            norm_a: a.norm(),
            norm_m: phi.value(trainer.model.shared_token()).norm(),
            noise_rms: (noise_power / sizes.predictor.dim as f64).sqrt(),
            images_per_second: config.batch as f64 / seconds,
            diagnostics,
        };
        clock = Instant::now();
        if observe(&report, &trainer)?.is_break() {
            break;
        }
    }
    Ok(trainer)
}

/// The model that a run with this configuration starts from: the untrained baseline.
///
/// # Errors
/// When the sizes do not fit together.
pub fn fresh_model(config: &RunConfig) -> Result<(Model, ModelParams)> {
    Model::new(&config.model, DType::F32, &mut stream(config.seed, Purpose::Init, [0, 0]))
}

/// Lines 4 and 6 of Algorithm 1: a batch of images with the masks of this step.
fn masked(config: &RunConfig, step: usize, images: Vec<f32>) -> Result<Batch> {
    let encoder = &config.model.encoder;
    let side = encoder.image_size;
    let mut rng = stream(config.seed, Purpose::Mask, [step as u64, 0]);
    let (context, targets) = config.masking.sample(config.batch, encoder.patches(), &mut rng)?;
    let images = Tensor::new([config.batch, 3, side, side], images);
    Ok(Batch { images, context, targets, noise: Noise::Drawn { seed: config.seed, step: step as u64 } })
}

fn diagnose(trainer: &Trainer, held_out: &First, splits: &Splits) -> Result<Diagnostics> {
    let data = (held_out as &dyn Dataset, &splits.normalization);
    let features = pooled_features(&trainer.model.encoder, trainer.params.evaluated(), data, 1, &|_| ())?;
    let diagnostics = Diagnostics { feature_std: feature_std(&features[0]), rank_me: rank_me(&features[0]) };
    match diagnostics.feature_std.is_finite() {
        true => Ok(diagnostics),
        false => Err(Error::Training {
            step: trainer.optimizer.steps() as usize,
            problem: "features of held-out images are not finite".into(),
            hint: "try a lower --lr or a longer --warmup".into(),
        }),
    }
}
