//! Where the time of a training step goes: by phase, by operation, and against the limit of the processor.
//!
//! The steps are those of [`pretrain_on`], on its own data, with the meter of [`crate::kernels::meter`] running. It does
//! not change what is computed. What a step keeps for its backward pass is [`saved`]'s business.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use super::graph::{Saved, saved};
use crate::data::Splits;
use crate::kernels::Precision;
#[cfg(feature = "cuda")]
use crate::kernels::cuda::{Gpu, KernelTime, KernelTimes};
use crate::kernels::meter::{self, Phase, Place, Sum, Totals};
use crate::kernels::peak;
use crate::rng::{Purpose, stream};
use crate::tensor::{DType, Device, Tensor};
use crate::train::{Batch, Monitoring, Noise, RunConfig, Trainer, pretrain_on};
use crate::{Error, Result};

/// What was measured over some steps of a run.
#[derive(Clone, Debug)]
pub struct Profile {
    /// Steps measured.
    pub steps: usize,
    /// Images in a step.
    pub batch: usize,
    /// Images in a chunk.
    pub chunk_images: usize,
    /// Threads that compute.
    pub threads: usize,
    /// From the end of the last step that was not measured to the end of the last that was.
    pub wall: Duration,
    /// How long of it, all threads together, a thread had work and no core, as other programs ran; `None` where the
    /// system does not say. It is part of the times of phases and operations.
    pub waited: Option<Duration>,
    /// What the meter counted, all steps together.
    pub totals: Totals,
    /// In what products are computed.
    pub precision: Precision,
    /// Operations a second of all threads at once with multiply-adds of this precision in registers: [`peak`]; 0 of a GPU.
    pub peak: f64,
    /// What a chunk keeps for its backward pass.
    pub saved: Vec<Saved>,
    /// The loss before the last step.
    pub loss: f64,
    /// What a GPU did, if one computed.
    #[cfg(feature = "cuda")]
    pub gpu: Option<OnGpu>,
}

/// What a GPU did in all steps that were measured, and what it can.
#[cfg(feature = "cuda")]
#[derive(Clone, Debug)]
pub struct OnGpu {
    /// Its name.
    pub name: String,
    /// Each kernel's file, name, launches and time; the longest first.
    pub kernels: Vec<(&'static str, &'static str, KernelTime)>,
    /// Operations a second of a large product in the precision of the run, measured here.
    pub product_peak: f64,
    /// Bytes a second, read and written, of a large sum of two tensors, measured here.
    pub bandwidth: f64,
}

/// The phases of the computing threads in the order of a step, with what a table calls them, and on which pass through the
/// network they are.
pub const PHASES: [(Phase, &str, &str); 8] = [
    (Phase::Data, "data, masks, noise", "forward"),
    (Phase::Target, "target encoder", "forward"),
    (Phase::Context, "context encoder", "forward"),
    (Phase::Predictor, "predictor and loss", "forward"),
    (Phase::Backward, "backward", "backward"),
    (Phase::GradientSum, "gradient sum", "update"),
    (Phase::Optimizer, "AdamW and EMA", "update"),
    (Phase::Rest, "rest", ""),
];

impl Profile {
    /// threads × wall time: what phases and idleness add up to.
    pub fn thread_time(&self) -> Duration {
        self.wall * self.threads as u32
    }

    /// What was counted in a phase.
    pub fn of_phase(&self, phase: Phase) -> Sum {
        self.sum(|place| place.phase == phase)
    }

    /// What was counted in all phases of the computing threads.
    pub fn busy(&self) -> Sum {
        self.sum(|place| place.phase != Phase::Loading)
    }

    /// The time in which a thread had nothing to do. None where the clocks disagree by more.
    pub fn idle(&self) -> Duration {
        self.thread_time().saturating_sub(self.busy().time)
    }

    /// What was counted of each operation on each pass, the longest first. `None` is what lies between operations.
    pub fn by_op(&self) -> Vec<(Option<&'static str>, &'static str, Sum)> {
        let mut rows = BTreeMap::<_, Sum>::new();
        for (phase, _, pass) in PHASES {
            for (place, sum) in self.totals.iter().filter(|(place, _)| place.phase == phase) {
                *rows.entry((place.op, pass)).or_default() += *sum;
            }
        }
        let mut rows: Vec<_> = rows.into_iter().map(|((op, pass), sum)| (op, pass, sum)).collect();
        rows.sort_by_key(|(.., sum)| std::cmp::Reverse(sum.time));
        rows
    }

    /// Operations a second that one thread reaches while all are at it.
    pub fn peak_of_a_thread(&self) -> f64 {
        self.peak / self.threads as f64
    }

    fn sum(&self, of: impl Fn(&Place) -> bool) -> Sum {
        self.totals.iter().filter(|(place, _)| of(place)).fold(Sum::default(), |mut all, (_, sum)| {
            all += *sum;
            all
        })
    }
}

/// Measures `steps` steps of the run that `config` describes, after `warm_up` more (at least one), from scratch.
///
/// Everything runs on the threads of the current pool: none of them waits outside of it, so that threads × wall time is
/// all the time there is. The loader has a thread of its own, as in a run.
///
/// # Errors
/// As [`pretrain_on`]; and when there are no steps to measure.
///
/// # Panics
/// When the meter is running already.
pub fn profile(config: &RunConfig, splits: &Splits, device: Device, warm_up: usize, steps: usize) -> Result<Profile> {
    if steps == 0 || warm_up == 0 {
        let problem = format!("{steps} steps to measure after {warm_up}");
        return Err(Error::config(problem, "ask for at least one of each"));
    }
    // One more than is measured: the last step of a run has diagnostics.
    let last = warm_up + steps;
    let config = RunConfig { steps: config.steps.max(last + 1), ..config.clone() };
    rayon::scope(|_| {
        let (mut running, mut clock, mut waited) = (None, Instant::now(), None);
        let (mut wall, mut totals, mut loss) = (Duration::ZERO, Totals::new(), f64::NAN);
        #[cfg(feature = "cuda")]
        let mut kernels = KernelTimes::new();
        let watch = Monitoring { one_by_one: true, ..usize::MAX.into() };
        let trainer = pretrain_on(device, &config, splits, watch, &mut |report, _| {
            if report.step == warm_up {
                #[cfg(feature = "cuda")]
                if let Device::Cuda(ordinal) = device {
                    Gpu::open(ordinal)?.start_timing()?;
                }
                waited = waited_for_a_core();
                running = Some(meter::start());
                clock = Instant::now();
            }
            if report.step < last {
                return Ok(ControlFlow::Continue(()));
            }
            (wall, loss) = (clock.elapsed(), report.loss);
            #[cfg(feature = "cuda")]
            if let Device::Cuda(ordinal) = device {
                kernels = Gpu::open(ordinal)?.stop_timing();
            }
            totals = running.take().map(meter::Running::stop).unwrap_or_default();
            // Threads that are asked may wait before they answer: that is not of this time any more.
            let most = wall * rayon::current_num_threads() as u32;
            waited = waited_for_a_core().zip(waited).map(|(after, before)| after.saturating_sub(before).min(most));
            Ok(ControlFlow::Break(()))
        })?;
        Ok(Profile {
            steps: last - warm_up,
            batch: config.batch,
            chunk_images: trainer.chunk_images.min(config.batch),
            threads: rayon::current_num_threads(),
            wall,
            waited,
            totals,
            precision: trainer.precision,
            peak: if device.is_gpu() { 0.0 } else { peak_of_all_threads(trainer.precision) },
            saved: saved_by_a_chunk(&config, &trainer)?,
            loss,
            #[cfg(feature = "cuda")]
            gpu: match device {
                Device::Cuda(ordinal) => Some(on_gpu(&*Gpu::open(ordinal)?, kernels, trainer.precision)),
                _ => None,
            },
        })
    })
}

/// What was timed there, and the limits of the card.
#[cfg(feature = "cuda")]
fn on_gpu(gpu: &Gpu, kernels: KernelTimes, precision: Precision) -> OnGpu {
    use crate::autograd::ops;
    use crate::kernels::within_memory;
    let mut kernels: Vec<_> = kernels.into_iter().map(|((file, kernel), time)| (file, kernel, time)).collect();
    kernels.sort_by_key(|(.., time)| std::cmp::Reverse(time.time));
    let device = Device::Cuda(gpu.ordinal());
    // The best of some tries, of work that takes milliseconds on a large card, and of less where that has no memory.
    let best = |work: &dyn Fn()| {
        let once = || {
            gpu.wait();
            let clock = Instant::now();
            work();
            gpu.wait();
            clock.elapsed().as_secs_f64()
        };
        (0..5).map(|_| once()).fold(f64::INFINITY, f64::min)
    };
    let of_side = |side: usize| {
        within_memory(|| {
            let x = Tensor::full([side, side], 0.5, DType::F32).to_device(device);
            let (a, b) = (crate::autograd::Var::constant(x.clone()), crate::autograd::Var::constant(x.clone()));
            let product = best(&|| {
                let _products = precision.enter();
                ops::linear(&a, &b, None);
            });
            let sum = best(&|| {
                ops::add(&a, &b);
            });
            let n = side as f64;
            (2.0 * n.powi(3) / product, 12.0 * n * n / sum)
        })
    };
    let largest = if gpu.free_and_total().1 > 4 << 30 { 8192 } else { 64 }; // less memory has no card, but what plays one
    let (product_peak, bandwidth) = of_side(largest).unwrap_or_default();
    OnGpu { name: gpu.name.clone(), kernels, product_peak, bandwidth }
}

/// How long the threads of this pool have waited for a core since they began: Linux tells.
fn waited_for_a_core() -> Option<Duration> {
    let of_a_thread = || {
        let text = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?; // ran, waited, times: nanoseconds
        text.split_whitespace().nth(1)?.parse().ok().map(Duration::from_nanos)
    };
    rayon::broadcast(|_| of_a_thread()).into_iter().sum()
}

/// What the threads of this pool reach together, all at once: the best of some tries.
fn peak_of_all_threads(precision: Precision) -> f64 {
    const TRIES: usize = 5;
    let time = Duration::from_millis(50);
    let once = || rayon::broadcast(|_| peak::flops_per_second(precision, time)).iter().sum::<f64>();
    (0..TRIES).map(|_| once()).fold(0.0, f64::max)
}

/// What the first chunk of a batch keeps. It depends on sizes and masks alone.
fn saved_by_a_chunk(config: &RunConfig, trainer: &Trainer) -> Result<Vec<Saved>> {
    let batch = random_batch(config)?.to_device(trainer.params.device());
    Ok(saved(trainer, &trainer.chunk(&batch, 0..trainer.chunk_images.min(config.batch))))
}

/// A batch as the run's first, but with random pixels.
///
/// # Errors
/// When no such masks exist.
pub fn random_batch(config: &RunConfig) -> Result<Batch> {
    let (encoder, seed) = (&config.model.encoder, config.seed);
    let mut rng = stream(seed, Purpose::Mask, [1, 0]);
    let (context, targets) = config.masking.sample(config.batch, encoder.patches(), &mut rng)?;
    let shape = [config.batch, encoder.channels, encoder.image_size, encoder.image_size];
    let images = Tensor::normal(shape, 1.0, DType::F32, &mut stream(seed, Purpose::Eval, [0, 0]));
    Ok(Batch::masked(images, context, targets, Noise::Drawn { seed, step: 1 }))
}
