//! The loop around Algorithm 1's step: data in, masks drawn, schedules followed, progress reported.

use std::io::Write;
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;

use rayon::prelude::*;

use super::algorithm_1::{Batch, Noise, StepParams, Trainer};
use super::config::RunConfig;
use crate::autograd::ops;
use crate::data::{Dataset, Loader, LoaderOptions, Normalization, Splits, Subset, evaluation_images};
use crate::error::panic_message;
use crate::eval::{feature_std, noise_sensitivity, pooled_features, rank_me, rms, target_std};
use crate::kernels::meter::{self, Phase};
use crate::methods::{Chunk, Model, ModelParams};
use crate::paper::{
    NeighborDistances, PositionDistribution, Sigma, WhitenedPositions, expected_noise_power, visible_norm,
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
    pub hyper: StepParams,
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
    /// d′ between neighboring positions; infinite without noise.
    pub neighbors: NeighborDistances,
    /// How often the best guess of a position from one draw of it is right, from 1/K to 1; 1 without noise.
    pub position_accuracy: f64,
    /// ½ E‖F₁ − F₂‖² per entry: the variance of a prediction that is the noise's, [`noise_sensitivity`]; 0 without
    /// noise.
    pub noise_sensitivity: f64,
}

/// A run that an error ended before its end.
#[derive(Debug)]
pub struct Failed {
    /// What went wrong.
    pub error: Error,
    /// The run as its last whole step left it: it can be saved, and can go on once the cause is gone. `None` if a thread
    /// panicked in the middle of an update.
    pub trainer: Option<Trainer>,
}

/// How closely a run is looked at.
#[derive(Clone, Copy, Debug)]
pub struct Watch {
    /// Steps between diagnostics; 0: only after the last step.
    pub diagnose_every: usize,
    /// Whether every number of every step must be finite, not only the loss and the gradients: [`Trainer::examine`].
    /// Twice as slow.
    pub every_number: bool,
}

impl From<usize> for Watch {
    /// Steps between diagnostics (0: only after the last), and nothing else.
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
/// between diagnostics, or a [`Watch`]; the last step has diagnostics too, unless there are no held-out images, or one
/// that cannot be read, which a line on standard error says. The weights
/// depend on the configuration alone, not on how the run is observed or on how many threads work.
///
/// # Errors
/// When the configuration cannot work, a training image cannot be read, training diverges, a thread of the loader or of the step
/// panics, or `observe` says so. What was learned by then is lost but for what `observe` kept; [`go_on`] gives it back.
pub fn pretrain(
    config: &RunConfig,
    splits: &Splits,
    watch: impl Into<Watch>,
    observe: &mut dyn FnMut(&StepReport, &Trainer) -> Result<ControlFlow<()>>,
) -> Result<Trainer> {
    config.validate()?;
    let (model, params) = fresh_model(config)?;
    go_on(Trainer::new(model, params), config, splits, watch, observe).map_err(|failed| failed.error)
}

/// [`pretrain`] from where `trainer` stands in the run of this configuration: at the step of its optimizer, within an
/// epoch or between two. The weights at the end are those, bit for bit, of a run that was never interrupted: order,
/// crops, masks, noise and schedules follow from the seed and the number of the step.
///
/// # Errors
/// As [`pretrain`], with what was learned by then.
pub fn go_on(
    mut trainer: Trainer,
    config: &RunConfig,
    splits: &Splits,
    watch: impl Into<Watch>,
    observe: &mut dyn FnMut(&StepReport, &Trainer) -> Result<ControlFlow<()>>,
) -> Result<Trainer, Box<Failed>> {
    let mut whole = trainer.optimizer.steps() as usize;
    match steps(&mut trainer, &mut whole, config, splits, watch.into(), observe) {
        Ok(()) => Ok(trainer),
        Err(error) => {
            // An update counts its step before it changes anything.
            let trainer = (trainer.optimizer.steps() as usize == whole).then_some(trainer);
            Err(Box::new(Failed { error, trainer }))
        }
    }
}

/// The steps from where the trainer stands to the end. `whole` follows: the steps that were done from beginning to end.
fn steps(
    trainer: &mut Trainer,
    whole: &mut usize,
    config: &RunConfig,
    splits: &Splits,
    watch: Watch,
    observe: &mut dyn FnMut(&StepReport, &Trainer) -> Result<ControlFlow<()>>,
) -> Result<()> {
    config.validate()?;
    config.supported()?;
    trainer.precision = config.precision;
    let Watch { diagnose_every, every_number } = watch;
    let done = *whole;
    let (lr, weight_decay, ema) = config.schedules();
    let normalization = no_panic(done + 1, || splits.normalization_or(config.normalization.as_ref()))?;
    let held_out = Subset::even(splits.test.clone(), HELD_OUT).unlabeled();
    let options = LoaderOptions {
        batch_size: config.batch,
        seed: config.seed,
        first_step: done,
        augment: Some(config.augment),
        normalization: normalization.clone(),
        threads: 1,
    };
    let images = splits.train.len() as f64;
    let loader = Loader::new(splits.train.clone(), options)?;
    let (mut clock, mut readable) = (Instant::now(), true);
    for (step, batch) in (done + 1..=config.steps).zip(loader) {
        let batch = masked(config, step, batch?)?;
        let hyper = StepParams { lr: lr.at(step), weight_decay: weight_decay.at(step), ema_momentum: ema.at(step) };
        let loss = no_panic(step, || {
            if every_number {
                trainer.examine(&batch)?;
            }
            trainer.step(&batch, &hyper)
        })?;
        *whole = step;

        let seconds = clock.elapsed().as_secs_f64();
        let last = step == config.steps;
        let due = last || (diagnose_every > 0 && step.is_multiple_of(diagnose_every));
        let diagnosed = match due && readable && !held_out.is_empty() {
            true => no_panic(step, || trainer.diagnose(config, (&held_out, &normalization))).map(Some),
            false => Ok(None),
        };
        let diagnosed = diagnosed.or_else(|error| match error {
            // Nothing is learned from held-out images: the run can do without them.
            Error::File { .. } | Error::Io { .. } => {
                readable = false;
                // That nobody may read it is no reason to end.
                let _ = writeln!(std::io::stderr(), "warning: no diagnostics from step {step} on: {error}");
                Ok(None)
            }
            error => Err(error),
        });
        // The step was made: it is reported, whatever became of the diagnostics.
        let (diagnostics, failed) = diagnosed.map_or_else(|e| (None, Err(e)), |d| (d, Ok(())));
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
            norm_m: phi.value(trainer.model.mask_token()).norm(),
            noise_rms: (noise_power / sizes.predictor.dim as f64).sqrt(),
            images_per_second: config.batch as f64 / seconds,
            diagnostics,
        };
        clock = Instant::now();
        let seen = observe(&report, trainer);
        failed?;
        if seen?.is_break() {
            break;
        }
    }
    Ok(())
}

/// What `work` gives, or its panic, on whichever thread of the pool, as an error. After that the trainer may have made half
/// a step: then its optimizer counts one more than was done.
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

    /// Where the model stands, on held-out images, of which there is at least one. `config` gives the masks and the seed.
    ///
    /// # Errors
    /// When an image cannot be read, the masks do not fit the model, or the features are not finite: those of no images
    /// are not.
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
            rank_me: rank_me(&features[0], &|| Ok(()))?,
            target_std,
            visible_norm_a: visible_norm(a.value()),
            norm_gamma: params.encoder.value(model.encoder.last_norm()).norm(),
            context_rms,
            neighbors: positions.neighbors((grid, grid)),
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
    let mut rng = stream(config.seed, Purpose::Eval, [DIAGNOSTICS, 1]);
    let (context, targets) = config.masking.sample(count, encoder.patches(), &mut rng)?;
    // Under the noise of two steps that no run comes to.
    let batches = [u64::MAX - 1, u64::MAX].map(|step| {
        let (context, targets) = (context.clone(), targets.clone());
        Batch { images: images.clone(), context, targets, noise: Noise::Drawn { seed: config.seed, step } }
    });
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::data::{self, testing::Made};
    use crate::lab::small;

    /// The first images of another data set, of which one is bad: an error, or a bug of the program.
    fn few(images: &Arc<dyn Dataset>, len: usize, bad: Option<usize>, panics: bool) -> Arc<dyn Dataset> {
        let images = Arc::clone(images);
        Arc::new(Made::new(len, images.image_size(), move |index, _, out| {
            if bad == Some(index) {
                assert!(!panics, "image {index} is haunted");
                return Err(Error::file("some/image.png", "is bad", "mend it"));
            }
            images.pixels(index, out)
        }))
    }

    /// Two epochs of six steps on images without labels.
    fn run(train: (Option<usize>, bool), test: (usize, Option<usize>, bool)) -> (RunConfig, Trainer, Splits) {
        let trainer = small::trainer(small::stop(), false, DType::F32);
        let normalization = Some(Normalization::CIFAR10);
        let config = RunConfig { steps: 12, normalization, ..small::run(&trainer) };
        let shapes = data::open("shapes", 16).unwrap();
        let train = few(&shapes.train, 60, train.0, train.1);
        let splits = Splits::new(train, few(&shapes.test, test.0, test.1, test.2));
        (config, trainer, splits)
    }

    fn onward(_: &StepReport, _: &Trainer) -> Result<ControlFlow<()>> {
        Ok(ControlFlow::Continue(()))
    }

    /// Whatever ends a run, its trainer comes back as its last whole step left it, and that step was reported.
    #[test]
    fn an_error_gives_back_what_was_learned() {
        let fine = (None, false);
        let few = (20, None, false);
        let no_step = usize::MAX;
        let cases = [
            (run((Some(8), false), few), no_step, "some/image.png: is bad"),
            (run((Some(8), true), few), no_step, "the loader panicked: image 8 is haunted"),
            (run(fine, (20, Some(8), true)), no_step, "a thread panicked: image 8 is haunted"),
            (run(fine, few), 4, "no space"),
        ];
        for ((config, trainer, splits), full_at, words) in cases {
            let mut reported = 0;
            let failed = go_on(trainer.clone(), &config, &splits, 5, &mut |report, _| {
                reported = report.step;
                match report.step == full_at {
                    true => Err(Error::config("no space", "make some")),
                    false => Ok(ControlFlow::Continue(())),
                }
            });
            let Failed { error, trainer: given_back } = *failed.unwrap_err();
            assert!(error.to_string().contains(words), "{error}");
            let given_back = given_back.expect("no update was cut short");
            assert_eq!(given_back.optimizer.steps() as usize, reported, "{words}");
            assert!(reported > 0 && reported < 12, "{words}: {reported}, and nothing is seen");
            let (_, _, whole) = run(fine, few);
            let there = go_on(trainer, &config, &whole, 0, &mut |report, _| {
                Ok(if report.step == reported { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
            });
            assert!(small::bits(&given_back) == small::bits(&there.unwrap()), "{words}");
        }
    }

    #[test]
    fn a_step_that_was_not_made_leaves_the_one_before() {
        let (mut config, trainer, splits) = run((None, false), (20, None, false));
        (config.lr, config.weight_decay) = ([1e30; 3], [0.0; 2]);
        let failed = *go_on(trainer, &config, &splits, 0, &mut onward).unwrap_err();
        let Error::Training { step, .. } = failed.error else { panic!("{}", failed.error) };
        assert_eq!(failed.trainer.unwrap().optimizer.steps() as usize, step - 1);
    }

    #[test]
    fn few_held_out_images_are_enough_and_none_are_passed_over() {
        for held_out in [0, 1, 3] {
            let (config, trainer, splits) = run((None, false), (held_out, None, false));
            let mut diagnosed = Vec::new();
            let trainer = go_on(trainer, &config, &splits, 5, &mut |report, _| {
                diagnosed.extend(report.diagnostics.map(|d| (report.step, d)));
                Ok(ControlFlow::Continue(()))
            });
            assert_eq!(trainer.unwrap().optimizer.steps(), 12);
            let steps: Vec<usize> = diagnosed.iter().map(|(step, _)| *step).collect();
            assert_eq!(steps, if held_out == 0 { vec![] } else { vec![5, 10, 12] });
            for (_, d) in diagnosed {
                let numbers = [d.feature_std, d.rank_me, d.target_std, d.context_rms, d.noise_sensitivity];
                assert!(numbers.iter().all(|x| x.is_finite()), "{held_out} held out: {d:?}");
            }
        }
    }

    #[test]
    fn a_held_out_image_that_cannot_be_read_costs_the_diagnostics_alone() {
        let (config, trainer, splits) = run((None, false), (20, Some(8), false));
        let hurt = go_on(trainer.clone(), &config, &splits, 5, &mut |report, _| {
            assert!(report.diagnostics.is_none());
            Ok(ControlFlow::Continue(()))
        });
        let (_, _, whole) = run((None, false), (20, None, false));
        let whole = go_on(trainer, &config, &whole, 5, &mut onward);
        assert!(small::bits(&hurt.unwrap()) == small::bits(&whole.unwrap()));
    }

    #[test]
    fn diagnostics_every_zero_steps_are_those_at_the_end() {
        let (config, trainer, splits) = run((None, false), (20, None, false));
        let mut diagnosed = Vec::new();
        let ended = go_on(trainer, &config, &splits, 0, &mut |report, _| {
            diagnosed.extend(report.diagnostics.map(|_| report.step));
            Ok(ControlFlow::Continue(()))
        });
        ended.unwrap();
        assert_eq!(diagnosed, [12]);
    }
}
