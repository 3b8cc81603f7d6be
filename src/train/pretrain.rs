//! The loop around Algorithm 1's step: data in, masks drawn, schedules followed, progress reported.

use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Instant;

use rayon::prelude::*;

use super::algorithm_1::{Batch, Hyper, Noise, Trainer};
use super::config::RunConfig;
use crate::autograd::ops;
use crate::data::{Dataset, Loader, LoaderOptions, Normalization, Splits, Subset, Unlabelled, evaluation_images};
use crate::error::panic_message;
use crate::eval::{feature_std, noise_sensitivity, pooled_features, rank_me, rms, target_std};
use crate::kernels::meter::{self, Phase};
use crate::methods::{Chunk, Model, ModelParams};
use crate::paper::{
    NeighbourDistances, PositionDistribution, Sigma, WhitenedPositions, expected_noise_power, sample_noise,
    visible_norm,
};
use crate::rng::{Purpose, stream};
use crate::tensor::{DType, Indices, Tensor};
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
    /// RMS(A n) = √(tr Σ / d_p): root mean square of the noise on a component of a position; 0 without noise.
    pub noise_rms: f64,
    /// Since the last report but for diagnostics.
    pub images_per_second: f64,
    /// On the steps that have them.
    pub diagnostics: Option<Diagnostics>,
}

/// Has the encoder collapsed, and does the noise hide anything? Measured on held-out images, with masks and noise that
/// are the same at every step. docs/diagnostics.md says what to look for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Diagnostics {
    /// The standard deviation of a pooled feature of the evaluated encoder over images, averaged over features.
    pub feature_std: f64,
    /// Effective rank of those features (RankMe), at most their width.
    pub rank_me: f64,
    /// The standard deviation of a target over images, at a fixed position and feature, averaged: [`target_std`].
    pub target_std: f64,
    /// |(I − 11ᵀ/d_p)A|: the part of A that the predictor can see, [`visible_norm`].
    pub visible_norm_a: f64,
    /// |γ| of the last layer norm of the encoder in training.
    pub norm_gamma: f64,
    /// RMS(A s_x): root mean square of the projected context features, per component, on visible tokens.
    pub context_rms: f64,
    /// d′ between neighbouring positions; infinite without noise.
    pub neighbours: NeighbourDistances,
    /// How often the best guess of a position from one draw of it is right, from 1/K to 1; 1 without noise.
    pub position_accuracy: f64,
    /// ½ E‖F₁ − F₂‖² per entry: the variance of a prediction that is the noise's, [`noise_sensitivity`]; 0 without
    /// noise.
    pub noise_sensitivity: f64,
}

/// How closely a run is looked at.
#[derive(Clone, Copy, Debug)]
pub struct Watch {
    /// Steps between diagnostics.
    pub diagnose_every: usize,
    /// Whether every number of every step must be finite, not only the loss and the gradients: [`Trainer::examine`].
    /// Twice as slow.
    pub every_number: bool,
}

impl From<usize> for Watch {
    /// Steps between diagnostics, and nothing else.
    fn from(diagnose_every: usize) -> Self {
        Watch { diagnose_every, every_number: false }
    }
}

/// Held-out images that rank and deviation of features are measured on.
const HELD_OUT: usize = 512;
/// Of these, how many the predictor and the targets are looked at with.
const PREDICTED: usize = 64;
/// Draws in all that positions are decoded from: a standard error of at most half a per cent.
const DECODED: usize = 10_000;
/// Key of the random streams of diagnostics: no step of training draws from them.
const DIAGNOSTICS: u64 = 1;

/// Pretrains, from scratch, on the data that was opened for this configuration.
///
/// After each step `observe` sees the report and the trainer; it may end the run there. `watch` is a number of steps
/// between diagnostics, or a [`Watch`]; the last step has diagnostics too. The weights depend on the configuration
/// alone, not on how the run is observed or on how many threads work.
///
/// # Errors
/// When the configuration cannot work, an image cannot be read, training diverges, or a thread of the loader or of the
/// step panics.
pub fn pretrain(
    config: &RunConfig,
    splits: &Splits,
    watch: impl Into<Watch>,
    observe: &mut dyn FnMut(&StepReport, &Trainer) -> Result<ControlFlow<()>>,
) -> Result<Trainer> {
    config.validate()?;
    let (model, params) = fresh_model(config)?;
    go_on(Trainer::new(model, params), config, splits, watch, observe)
}

/// [`pretrain`] from where `trainer` stands in the run of this configuration: at the step of its optimizer, within an
/// epoch or between two. The weights at the end are those, bit for bit, of a run that was never interrupted: order,
/// crops, masks, noise and schedules follow from the seed and the number of the step.
///
/// # Errors
/// As [`pretrain`].
pub fn go_on(
    mut trainer: Trainer,
    config: &RunConfig,
    splits: &Splits,
    watch: impl Into<Watch>,
    observe: &mut dyn FnMut(&StepReport, &Trainer) -> Result<ControlFlow<()>>,
) -> Result<Trainer> {
    config.validate()?;
    config.supported()?;
    trainer.precision = config.precision;
    let Watch { diagnose_every, every_number } = watch.into();
    let done = trainer.optimizer.steps() as usize;
    let (lr, weight_decay, ema) = config.schedules();
    let normalization = config.normalization.map_or_else(|| splits.normalization(), Ok)?;
    let held_out = Unlabelled::new(Arc::new(Subset::even(splits.test.clone(), HELD_OUT)));
    let options = LoaderOptions {
        batch_size: config.batch,
        seed: config.seed,
        first_step: done,
        augment: Some(config.augment),
        normalization,
        threads: 1,
    };
    let images = splits.train.len() as f64;
    let loader = Loader::new(splits.train.clone(), options)?;
    let mut clock = Instant::now();
    for (step, batch) in (done + 1..=config.steps).zip(loader) {
        let batch = masked(config, step, batch?)?;
        let hyper = Hyper { lr: lr.at(step), weight_decay: weight_decay.at(step), ema_momentum: ema.at(step) };
        let loss = no_panic(step, || {
            if every_number {
                trainer.examine(&batch)?;
            }
            trainer.step(&batch, &hyper)
        })?;

        let seconds = clock.elapsed().as_secs_f64();
        let last = step == config.steps;
        let diagnostics = match last || step % diagnose_every.max(1) == 0 {
            true => Some(no_panic(step, || trainer.diagnose(config, (&held_out, &normalization)))?),
            false => None,
        };
        let Model { config: ref sizes, ref predictor, .. } = trainer.model;
        let phi = &trainer.params.predictor;
        let a = phi.value(predictor.embed.weight);
        let noise_power = expected_noise_power(a, sizes.method.sigma().unwrap_or(Sigma::SILENT));
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

/// What `work` gives, or its panic, on whichever thread of the pool, as an error. After that the trainer may have made half
/// a step: it is to be dropped.
fn no_panic<R>(step: usize, work: impl FnOnce() -> Result<R>) -> Result<R> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        Err(Error::Training {
            step,
            problem: format!("a thread panicked: {}", panic_message(&*panic)),
            hint: "this is a bug in the program or its data set, not in the data: please report it".into(),
        })
    })
}

/// The model that a run with this configuration starts from: the untrained baseline.
///
/// # Errors
/// When the sizes do not fit together.
pub fn fresh_model(config: &RunConfig) -> Result<(Model, ModelParams)> {
    Model::new(&config.model, DType::F32, &mut stream(config.seed, Purpose::Init, [0, 0]))
}

/// Lines 4 and 6 of Algorithm 1: a batch of images with the masks of this step.
fn masked(config: &RunConfig, step: usize, images: Tensor) -> Result<Batch> {
    let _phase = meter::phase(Phase::Data);
    let mut rng = stream(config.seed, Purpose::Mask, [step as u64, 0]);
    let (context, targets) = config.masking.sample(config.batch, config.model.encoder.patches(), &mut rng)?;
    Ok(Batch { images, context, targets, noise: Noise::Drawn { seed: config.seed, step: step as u64 } })
}

impl Trainer {
    /// The distribution of the positions that masked tokens stand at, Eqs. (3) and (4), with ψ \[1, K, d_p\] of every
    /// patch, row by row. A method without noise has σ = 0.
    pub fn positions(&self) -> PositionDistribution {
        let (phi, config) = (&self.params.predictor, &self.model.config);
        let psi = phi.value(self.model.predictor.position);
        let ([_, tokens, d_p], patches) = (psi.dims("positions: psi"), config.encoder.patches());
        let psi = psi.reshape([tokens, d_p]).rows(tokens - patches..tokens); // MAE's class token is no patch
        PositionDistribution {
            psi: psi.reshape([1, patches, d_p]).into(),
            a: phi.value(self.model.projection()).clone().into(),
            sigma: config.method.sigma().unwrap_or(Sigma::SILENT),
        }
    }

    /// Where the model stands, on the first held-out images. `config` gives the masks and the seed.
    ///
    /// # Errors
    /// When an image cannot be read, the masks do not fit the model, or the features are not finite.
    pub fn diagnose(
        &self,
        config: &RunConfig,
        (held_out, normalization): (&dyn Dataset, &Normalization),
    ) -> Result<Diagnostics> {
        let Trainer { model, params, .. } = self;
        let features = pooled_features(&model.encoder, params.evaluated(), (held_out, normalization), 1, &|_| Ok(()))?;
        let feature_std = feature_std(&features[0]);
        if !feature_std.is_finite() {
            return Err(Error::Training {
                step: self.optimizer.steps() as usize,
                problem: "features of held-out images are not finite".into(),
                hint: "try a lower --lr or a longer --warmup".into(),
            });
        }
        let [context_rms, noise_sensitivity, target_std] =
            look_at_predictions(self, config, (held_out, normalization))?;
        let PositionDistribution { psi, a, sigma } = self.positions();
        let [_, patches, d_p] = psi.dims("diagnose: psi");
        let positions = WhitenedPositions::new(&psi.value().reshape([patches, d_p]), a.value(), sigma);
        let grid = model.config.encoder.grid();
        let mut rng = stream(config.seed, Purpose::Eval, [DIAGNOSTICS, 0]);
        Ok(Diagnostics {
            feature_std,
            rank_me: rank_me(&features[0]),
            target_std,
            visible_norm_a: visible_norm(a.value()),
            norm_gamma: params.encoder.value(model.encoder.last_norm()).norm(),
            context_rms,
            neighbours: positions.neighbours((grid, grid)),
            position_accuracy: positions.decoding_accuracy(DECODED.div_ceil(patches), &mut rng),
            noise_sensitivity,
        })
    }
}

/// RMS(A s_x), the noise sensitivity, and the deviation of the targets over images.
fn look_at_predictions(
    trainer: &Trainer,
    config: &RunConfig,
    (held_out, normalization): (&dyn Dataset, &Normalization),
) -> Result<[f64; 3]> {
    let Trainer { model, params, chunk_images, .. } = trainer;
    let encoder = &model.config.encoder;
    let count = held_out.len().min(PREDICTED);
    let images = evaluation_images(held_out, 0..count, normalization)?;
    let images = Tensor::new([count, 3, encoder.image_size, encoder.image_size], images);
    let random = |i| stream(config.seed, Purpose::Eval, [DIAGNOSTICS, i]);
    let (context, targets) = config.masking.sample(count, encoder.patches(), &mut random(1))?;
    let sigma = model.config.method.sigma().unwrap_or(Sigma::SILENT);
    let under_noise = |i| {
        let mut rng = random(i);
        let draw = |b: &Indices| [context.len() * count, b.per_row(), encoder.dim];
        let noise = targets.iter().map(|b| sample_noise(draw(b), sigma, DType::F32, &mut rng)).collect();
        let (context, targets) = (context.clone(), targets.clone());
        Batch { images: images.clone(), context, targets, noise: Noise::Given(noise) }
    };
    let batches = [under_noise(2), under_noise(3)];
    let look = |start: usize| {
        let part = start..(start + chunk_images).min(count);
        let [first, second] = batches.each_ref().map(|batch| trainer.cut(batch, part.clone()));
        let (theta, phi) = (params.encoder.constants(), params.predictor.constants());
        let averaged = params.target.as_ref().map(|target| target.constants());
        let s_x = model.encode(&theta, &first);
        let predict = |chunk: &Chunk| {
            let (c, m) = model.tokens(&phi, &s_x, chunk);
            model.predict(&phi, &c, &m).value().clone()
        };
        let sensitivity = noise_sensitivity(&predict(&first), &predict(&second));
        let a_s_x = ops::linear(&s_x, &phi[model.projection()], None);
        let everywhere = Chunk { targets: Indices::all(part.len(), encoder.patches()), ..first };
        let targets = model.targets(averaged.as_ref(), &everywhere).value().clone();
        let share = part.len() as f64 / count as f64;
        (share * rms(a_s_x.value()).powi(2), share * sensitivity, targets)
    };
    let starts: Vec<usize> = (0..count).step_by(*chunk_images).collect();
    // Summed in the order of the images, whichever thread was first.
    let seen: Vec<(f64, f64, Tensor)> = starts.into_par_iter().map(look).collect();
    let power: f64 = seen.iter().map(|(power, ..)| power).sum();
    let sensitivity = seen.iter().map(|(_, sensitivity, _)| sensitivity).sum();
    let targets: Vec<Tensor> = seen.into_iter().map(|(.., targets)| targets).collect();
    Ok([power.sqrt(), sensitivity, target_std(&Tensor::concat_rows(&targets))])
}
