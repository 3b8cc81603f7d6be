//! The loop around Algorithm 1's step: data in, masks drawn, schedules followed, progress reported.

use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Instant;

use super::algorithm_1::{StepOutcome, StepParams, Trainer};
use super::batch::{Batch, BatchView, Noise, Part};
use super::config::RunConfig;
use super::diagnostics::HELD_OUT;
use super::fine_tuning;
use crate::data::{Dataset, Loaded, Loader, LoaderOptions, Splits, Subset};
use crate::error::panic_message;
use crate::kernels::meter::{self, Phase};
use crate::kernels::within_memory;
use crate::methods::{Method, ModelParams, Numbers, ViewConfig};
use crate::nn::Param;
use crate::processes;
use crate::rng::{Purpose, stream};
use crate::tensor::{DType, Device, Indices, Tensor};
use crate::vit::EncoderConfig;
use crate::{Error, Result};

/// What is reported after a step.
#[derive(Clone, Debug)]
pub struct StepReport {
    /// Steps done, counted from 1.
    pub step: usize,
    /// Passes over the training images, with fractions.
    pub epoch: f64,
    /// The loss before the step.
    pub loss: f64,
    /// Learning rate, weight decay and momentum of the step.
    pub params: StepParams,
    /// The method's own [numbers](Method::numbers).
    pub numbers: Numbers,
    /// Since the last report but for diagnostics.
    pub images_per_second: f64,
    /// On the steps that have them: [`Trainer::diagnose`].
    pub diagnostics: Option<Numbers>,
}

impl StepReport {
    /// The method's number, or the diagnostic, of this name.
    pub fn number(&self, name: &str) -> Option<f64> {
        self.numbers.get(name).or_else(|| self.diagnostics.as_ref()?.get(name))
    }
}

/// A run that an error ended before its end.
#[derive(Debug)]
pub struct RunError {
    /// What went wrong.
    pub error: Error,
    /// The run as its last whole step left it: it can be saved, and can go on once the cause is gone. `None` if a thread
    /// panicked in the middle of an update.
    pub trainer: Option<Trainer>,
}

/// How closely a run is looked at.
#[derive(Clone, Copy, Debug)]
pub struct Monitoring {
    /// Steps between diagnostics; 0: only after the last step.
    pub diagnose_every: usize,
    /// Whether every number of every step must be finite, not only the loss and the gradients: [`Trainer::check_finite`].
    /// Twice as slow.
    pub every_number: bool,
    /// Whether nothing of a step is begun before the one before it was observed: for who measures steps. Otherwise a GPU, which
    /// would have nothing to do meanwhile, is asked for its gradients first. No bit depends on it.
    pub one_by_one: bool,
}

impl From<usize> for Monitoring {
    /// Steps between diagnostics (0: only after the last), and nothing else.
    fn from(diagnose_every: usize) -> Self {
        Monitoring { diagnose_every, every_number: false, one_by_one: false }
    }
}

/// Pretrains, from scratch, on the data that was opened for this configuration.
///
/// After each step `observe` sees the report and the trainer; it may end the run there. `watch` is a number of steps
/// between diagnostics, or a [`Monitoring`]; the last step has diagnostics too, unless there are no held-out images, or one
/// that cannot be read, which a line on standard error says. The weights
/// depend on the configuration alone, not on how the run is observed or on how many threads work.
///
/// # Errors
/// When the configuration cannot work, a training image cannot be read, training diverges, a thread of the loader or of the step
/// panics, or `observe` says so. What was learned by then is lost but for what `observe` kept; [`resume`] gives it back.
pub fn pretrain(
    config: &RunConfig,
    splits: &Splits,
    watch: impl Into<Monitoring>,
    observe: &mut dyn FnMut(&StepReport, &Trainer) -> Result<ControlFlow<()>>,
) -> Result<Trainer> {
    pretrain_on(Device::Cpu, config, splits, watch, observe)
}

/// [`pretrain`] on a device.
///
/// # Errors
/// As [`pretrain`]; when the device is not there.
pub fn pretrain_on(
    device: Device,
    config: &RunConfig,
    splits: &Splits,
    watch: impl Into<Monitoring>,
    observe: &mut dyn FnMut(&StepReport, &Trainer) -> Result<ControlFlow<()>>,
) -> Result<Trainer> {
    config.validate()?;
    device.open()?;
    let (method, params) = fresh_model(config)?;
    let trainer = Trainer::new(method, params).to_device(device);
    resume(trainer, config, splits, watch, observe).map_err(|failed| failed.error)
}

/// [`pretrain`] from where `trainer` stands in the run of this configuration: at the step of its optimizer, within an
/// epoch or between two. The weights at the end are those, bit for bit, of a run that was never interrupted: order,
/// crops, masks, noise and schedules follow from the seed and the number of the step.
///
/// # Errors
/// As [`pretrain`], with what was learned by then.
pub fn resume(
    mut trainer: Trainer,
    config: &RunConfig,
    splits: &Splits,
    watch: impl Into<Monitoring>,
    observe: &mut dyn FnMut(&StepReport, &Trainer) -> Result<ControlFlow<()>>,
) -> Result<Trainer, Box<RunError>> {
    let mut whole = trainer.optimizer.steps() as usize;
    match steps(&mut trainer, &mut whole, config, splits, watch.into(), observe) {
        Ok(()) => Ok(trainer),
        Err(error) => {
            // An update counts its step before it changes anything.
            let trainer = (trainer.optimizer.steps() as usize == whole).then_some(trainer);
            Err(Box::new(RunError { error, trainer }))
        }
    }
}

/// The steps from where the trainer stands to the end. `whole` follows: the steps that were done from beginning to end.
fn steps(
    trainer: &mut Trainer,
    whole: &mut usize,
    config: &RunConfig,
    splits: &Splits,
    watch: Monitoring,
    observe: &mut dyn FnMut(&StepReport, &Trainer) -> Result<ControlFlow<()>>,
) -> Result<()> {
    let world = Arc::clone(&trainer.world);
    world.agree(can_train(trainer, config, splits))?;
    trainer.precision = config.precision;
    let Monitoring { diagnose_every, every_number, one_by_one } = watch;
    let done = *whole;
    let normalization = world.agree(no_panic(done + 1, || splits.normalization_or(config.normalization.as_ref())))?;
    let held_out = Subset::even(splits.test.clone(), HELD_OUT);
    let held_out = if trainer.method.wants_labels() { held_out } else { held_out.unlabeled() };
    let options = LoaderOptions {
        batch_size: config.batch,
        views: trainer.method.views().iter().map(|view| view.augment.unwrap_or(config.augment)).map(Some).collect(),
        labels: trainer.method.wants_labels(),
        seed: config.seed,
        first_step: done,
        normalization: normalization.clone(),
        // Beside a GPU the processor only draws noise; and one thread makes no more than some 27,000 images of `shapes` a second.
        threads: if trainer.params.device().is_gpu() { rayon::current_num_threads() } else { 1 },
        part: (world.size() > 1).then(|| trainer.own_images(config.batch)).transpose()?,
    };
    let images = splits.train.len() as f64;
    let mut loader = world.agree(Loader::new(splits.train.clone(), options))?;
    let ahead = trainer.params.device().is_gpu() && !one_by_one && world.size() == 1;
    // A step's batch and, ahead of the rest, its gradients: that changes nothing, so the trainer can still be looked at, or left
    // as it is.
    let mut begin = |trainer: &mut Trainer, step| {
        let loaded = loader.next().expect("it ends with an error, after which there are no steps");
        let batch = no_panic(step, || {
            let batch = batch(config, trainer, step, loaded?)?;
            if every_number {
                trainer.check_finite(&batch)?;
            }
            Ok(batch)
        });
        let batch = world.agree(batch)?;
        let found = ahead.then(|| no_panic(step, || trainer.fitting_gradients(&batch))).transpose()?;
        Ok((batch, found))
    };
    let (mut clock, mut readable, mut begun) = (Instant::now(), true, None);
    for step in done + 1..=config.steps {
        let (batch, found) = begun.take().unwrap_or_else(|| begin(trainer, step))?;
        let params = config.step_params(step);
        let StepOutcome { loss, numbers } = no_panic(step, || {
            let Some(found) = found else { return world.together(|| trainer.step(&batch, &params)) };
            let update = trainer.update(found, &params);
            begun = (step < config.steps).then(|| begin(trainer, step + 1));
            trainer.finish(update, &batch)
        })?;
        *whole = step;

        let seconds = clock.elapsed().as_secs_f64();
        let last = step == config.steps;
        let due = last || (diagnose_every > 0 && step.is_multiple_of(diagnose_every));
        let diagnosed = if due && readable && !held_out.is_empty() && world.is_first() {
            no_panic(step, || trainer.diagnose(config, (&held_out, &normalization))).map(Some)
        } else {
            Ok(None)
        };
        let diagnosed = diagnosed.or_else(|error| match error {
            // Nothing is learned from held-out images: the run can do without them.
            Error::File { .. } | Error::Io { .. } => {
                readable = false;
                // That nobody may read it is no reason to end.
                processes::note(format_args!("warning: no diagnostics from step {step} on: {error}"));
                Ok(None)
            }
            error => Err(error),
        });
        // The step was made: it is reported, whatever became of the diagnostics.
        let (diagnostics, failed) = diagnosed.map_or_else(|e| (None, Err(e)), |d| (d, Ok(())));
        let report = StepReport {
            step,
            epoch: (step * config.batch) as f64 / images,
            loss,
            params,
            numbers,
            images_per_second: config.batch as f64 / seconds,
            diagnostics,
        };
        clock = Instant::now();
        let seen = observe(&report, trainer);
        if due {
            world.agree(failed)?;
        }
        if seen?.is_break() {
            break;
        }
    }
    Ok(())
}

/// Whether there can be such a run here.
fn can_train(trainer: &Trainer, config: &RunConfig, splits: &Splits) -> Result<()> {
    config.validate()?;
    config.supported_on(trainer.params.device())?;
    let EncoderConfig { channels, image_size, .. } = *trainer.method.encoder().config();
    for images in [&splits.train, &splits.test].into_iter().filter(|images| !images.is_empty()) {
        let (c, s) = (images.channels(), images.image_size());
        if (c, s) != (channels, image_size) {
            let problem =
                format!("images of {c} channels, {s}x{s}, for an encoder of {channels}, {image_size}x{image_size}");
            return Err(Error::config(problem, "set channels and image_size of the encoder to those of the images"));
        }
    }
    Ok(())
}

/// What `work` gives, or its panic, on whichever thread of the pool, as an error. After that the trainer may have made half
/// a step: then its optimizer counts one more than was done.
pub(super) fn no_panic<R>(step: usize, work: impl FnOnce() -> Result<R>) -> Result<R> {
    catch_unwind(AssertUnwindSafe(|| within_memory(work).flatten())).unwrap_or_else(|panic| {
        Err(Error::Training {
            step,
            problem: format!("a thread panicked: {}", panic_message(&*panic)),
            hint: "this is a bug in the program, the method or the data set, not in the data: please report it".into(),
        })
    })
}

/// The model that a run with this configuration starts from: the untrained baseline.
///
/// # Errors
/// When the sizes do not fit together.
pub fn fresh_model(config: &RunConfig) -> Result<(Arc<dyn Method>, ModelParams)> {
    let mut rng = stream(config.seed, Purpose::Init, [0, 0]);
    match &config.fine_tuning {
        Some(tuning) => fine_tuning::build(&config.model, tuning, DType::F32, &mut rng),
        None => config.model.build(DType::F32, &mut rng),
    }
}

/// Lines 4 and 6 of Algorithm 1: a batch of images with the masks of this step, where the parameters are.
fn batch(config: &RunConfig, trainer: &Trainer, step: usize, loaded: Loaded) -> Result<Batch> {
    let _phase = meter::phase(Phase::Data);
    let Trainer { method, params, .. } = trainer;
    let place = |p: &Param| (p.value.device(), p.value.dtype());
    let (device, dtype) = params.trained_params().next().map_or((Device::Cpu, DType::F32), place);
    let tokens = method.encoder().config().patches();
    let Loaded { views, labels, first } = loaded;
    let part = (trainer.world.size() > 1).then_some(Part { first, of: config.batch });
    let view = |(i, (images, view)): (usize, (Tensor, ViewConfig))| {
        let mut rng = stream(config.seed, Purpose::Mask, [step as u64, i as u64]);
        // For the whole batch, whose masks are of one length.
        let (context, targets) =
            if view.masked { config.masking.sample(config.batch, tokens, &mut rng)? } else { (vec![], vec![]) };
        let here = |masks: Vec<Indices>| match part {
            Some(Part { first, .. }) => masks.iter().map(|m| m.slice_rows(first..first + images.shape()[0])).collect(),
            None => masks,
        };
        Ok(BatchView { images: images.to_dtype(dtype), context: here(context), targets: here(targets) })
    };
    let batch = Batch {
        views: views.into_iter().zip(method.views()).enumerate().map(view).collect::<Result<_>>()?,
        labels: labels.map(|labels| Indices::new(labels.len(), 1, labels)),
        noise: Noise::Drawn { seed: config.seed, step: step as u64 },
        part,
    };
    Ok(batch.to_device(device))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::schedule::{LearningRate, WeightDecay};
    use super::*;
    use crate::data::{self, Normalization, testing::Made};
    use crate::train::small;

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

    /// Masks and noise are those of the step, and of no other.
    #[test]
    fn each_step_has_masks_and_noise_of_its_own() {
        let (config, trainer, _) = run((None, false), (20, None, false));
        let at = |step: usize| {
            let views = vec![Tensor::zeros([config.batch, 3, 16, 16], DType::F32)];
            let batch = batch(&config, &trainer, step, Loaded { views, labels: None, first: 0 }).unwrap();
            let chunk = trainer.chunk(&batch, 0..config.batch);
            (chunk.targets().clone(), chunk.noise.unwrap().to_f64_vec()[0])
        };
        let (one, two) = (at(1), at(2));
        assert!(at(1) == one && one.0 != two.0 && one.1 != two.1);
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
            let failed = resume(trainer.clone(), &config, &splits, 5, &mut |report, _| {
                reported = report.step;
                if report.step == full_at {
                    return Err(Error::config("no space", "make some"));
                }
                Ok(ControlFlow::Continue(()))
            });
            let RunError { error, trainer: given_back } = *failed.unwrap_err();
            assert!(error.to_string().contains(words), "{error}");
            let given_back = given_back.expect("no update was cut short");
            assert_eq!(given_back.optimizer.steps() as usize, reported, "{words}");
            assert!(reported > 0 && reported < 12, "{words}: {reported}, and nothing is seen");
            let (_, _, whole) = run(fine, few);
            let there = resume(trainer, &config, &whole, 0, &mut |report, _| {
                Ok(if report.step == reported { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
            });
            assert!(small::bits(&given_back) == small::bits(&there.unwrap()), "{words}");
        }
    }

    #[test]
    fn a_step_that_was_not_made_leaves_the_one_before() {
        let (mut config, trainer, splits) = run((None, false), (20, None, false));
        (config.lr, config.weight_decay) =
            (LearningRate { start: 1e30, peak: 1e30, end: 1e30, warmup: 0 }, WeightDecay { start: 0.0, end: 0.0 });
        let failed = *resume(trainer, &config, &splits, 0, &mut onward).unwrap_err();
        let Error::Training { step, .. } = failed.error else { panic!("{}", failed.error) };
        assert_eq!(failed.trainer.unwrap().optimizer.steps() as usize, step - 1);
    }

    #[test]
    fn few_held_out_images_are_enough_and_none_are_passed_over() {
        for held_out in [0, 1, 3] {
            let (config, trainer, splits) = run((None, false), (held_out, None, false));
            let mut diagnosed = Vec::new();
            let trainer = resume(trainer, &config, &splits, 5, &mut |report, _| {
                diagnosed.extend(report.diagnostics.clone().map(|d| (report.step, d)));
                assert_eq!(report.epoch, report.step as f64 / 6.0);
                Ok(ControlFlow::Continue(()))
            });
            assert_eq!(trainer.unwrap().optimizer.steps(), 12);
            let steps: Vec<usize> = diagnosed.iter().map(|(step, _)| *step).collect();
            assert_eq!(steps, if held_out == 0 { vec![] } else { vec![5, 10, 12] });
            for (_, d) in diagnosed {
                assert!(d.0.len() > 5 && d.0.iter().all(|x| x.value.is_finite()), "{held_out} held out: {d:?}");
            }
        }
    }

    #[test]
    fn a_held_out_image_that_cannot_be_read_costs_the_diagnostics_alone() {
        let (config, trainer, splits) = run((None, false), (20, Some(8), false));
        let hurt = resume(trainer.clone(), &config, &splits, 5, &mut |report, _| {
            assert!(report.diagnostics.is_none());
            Ok(ControlFlow::Continue(()))
        });
        let (_, _, whole) = run((None, false), (20, None, false));
        let whole = resume(trainer, &config, &whole, 5, &mut onward);
        assert!(small::bits(&hurt.unwrap()) == small::bits(&whole.unwrap()));
    }

    #[test]
    fn diagnostics_every_zero_steps_are_those_at_the_end() {
        let (config, trainer, splits) = run((None, false), (20, None, false));
        let mut diagnosed = Vec::new();
        let ended = resume(trainer, &config, &splits, 0, &mut |report, _| {
            diagnosed.extend(report.diagnostics.as_ref().map(|_| report.step));
            Ok(ControlFlow::Continue(()))
        });
        ended.unwrap();
        assert_eq!(diagnosed, [12]);
    }
}
