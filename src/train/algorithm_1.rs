//! Algorithm 1 of the paper: masked image modeling with stochastic positional embeddings.
//!
//! ```text
//!  1  input: iterations K, images S, σ, positions ψ      9  n_j ~ N(0, σI)
//!  2  params: A, m, encoder f_θ, predictor g_φ          11  m = A n + ψ_By + m
//!  3  for itr = 1, 2, …, K do                           12  c = A s_x + ψ_Bx
//!  4    I_x ~ S                                         14  ŝ_y ← g_φ(c, m)
//!  5    p ← patchify(I_x)                               15  s_y ← get_target(y)
//!  6    (x, B_x), (y, B_y) ← mask(p)                    16  loss ← L(ŝ_y, s_y)
//!  7    s_x ← f_θ(x)                                    17  sgd_step(loss; {θ, φ, A, m})
//! ```
//!
//! Lines 4 and 6 fill a [`Batch`]; line 9 is in [`Trainer::chunk`]; lines 5 to 16 are [`Method::record`], on a few images
//! at a time; line 17 is [`Trainer::step`]. (The comment of the paper's line 10 exchanges "masked" and "context", and the step
//! of the target encoder's moving average is left out there.)
//!
//! **Parallel over chunks of images, sequential inside.** A chunk runs from patches to gradients on one thread and one
//! tape, with activations that fit its core's cache. (Threads without a lane help those that have one: [`Teams`].)
//! **Same bits, however many threads:** chunks are cut by the batch alone, the noise of an image comes from a stream of its
//! own, whatever chunk it is in, and gradients are summed in a fixed order: in a row within a lane, lanes along a binary tree.

use std::ops::Range;
use std::sync::Arc;

use super::batch::{Batch, Part};
use super::lanes::{Lanes, halves};
use crate::autograd::Tape;
use crate::kernels::meter::{self, Phase};
use crate::kernels::{Precision, Teams, within_memory};
use crate::methods::{Chunk, Method, ModelConfig, ModelParams, Numbers, Recording};
use crate::nn::{AdamW, Ema, count_non_finite_beside};
use crate::processes::World;
use crate::tensor::{Device, Reading, Tensor};
use crate::{Error, Result};

/// The numbers of one step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepParams {
    /// Learning rate.
    pub lr: f64,
    /// Weight decay.
    pub weight_decay: f64,
    /// Momentum of the target encoder.
    pub ema_momentum: f64,
}

/// The loss of some images and its gradient.
#[derive(Debug)]
pub struct LossAndGradients {
    /// The mean loss over the batch, a scalar.
    pub loss: Tensor,
    /// Its gradient for each of [`ModelParams::trained_params`], in order.
    pub gradients: Vec<Tensor>,
    /// The means over the batch that the method [wants](crate::methods::Recording::means).
    pub means: Vec<Tensor>,
}

impl LossAndGradients {
    /// How many numbers here are not finite, or are of a gradient and have a square that is not: a scalar.
    fn count_non_finite(&self) -> Tensor {
        let others: Vec<&Tensor> = [&self.loss].into_iter().chain(&self.means).collect();
        count_non_finite_beside(&others, &self.gradients.iter().collect::<Vec<_>>())
    }
}

/// A step that was asked for: on a GPU it may still be under way. [`Trainer::finish`] says what came of it.
#[derive(Debug)]
#[must_use = "whether the step was made, only its end shows"]
pub struct StepUnderWay {
    /// The loss, how many numbers are not finite, and the method's numbers.
    reading: Reading,
    /// What those are called.
    numbers: Numbers<Tensor>,
}

/// What a step returns.
#[derive(Clone, Debug, PartialEq)]
pub struct StepOutcome {
    /// The loss before the step.
    pub loss: f64,
    /// The method's own [numbers](Method::numbers) after it.
    pub numbers: Numbers,
}

/// A method in training: parameters and the optimizer's memory.
#[derive(Clone, Debug)]
pub struct Trainer {
    /// What is computed.
    pub method: Arc<dyn Method>,
    /// With what.
    pub params: ModelParams,
    /// Moments and step count.
    pub optimizer: AdamW,
    /// Images in a chunk.
    pub chunk_images: usize,
    /// What the operands of products are rounded to in a step. Of f64 tensors nothing is. A step panics when their device
    /// cannot compute with it: [`Precision::is_available_on`].
    pub precision: Precision,
    /// The processes that train together. Where there are several, the optimizer has the moments of this one's share alone.
    pub world: Arc<World>,
}

impl Trainer {
    /// A model about to start, in chunks whose activations fit a core's cache.
    pub fn new(method: Arc<dyn Method>, params: ModelParams) -> Self {
        let optimizer = optimizer(&*method, &params);
        let chunk_images = default_chunk(&*method, &params);
        Trainer { method, params, optimizer, chunk_images, precision: Precision::F32, world: World::alone() }
    }

    /// The same trainer on another device, in the chunks that are best there. A step's numbers differ from those of the device
    /// before by rounding.
    #[must_use]
    pub fn to_device(mut self, device: Device) -> Self {
        if self.params.device() != device {
            self.params = self.params.to_device(device);
            self.optimizer.to_device(device);
            self.chunk_images = default_chunk(&*self.method, &self.params);
        }
        self
    }

    /// The configuration of a method of this crate.
    ///
    /// # Panics
    /// When the method is from outside.
    #[track_caller]
    pub fn config(&self) -> &ModelConfig {
        self.method.config().expect("a method of this crate")
    }

    /// Line 17: one step on a batch.
    ///
    /// # Errors
    /// [`Error::Training`] when a trained parameter got no gradient, or the loss or a gradient is not finite: it names the
    /// first operation that made a number which is not. Nothing is changed.
    pub fn step(&mut self, batch: &Batch, params: &StepParams) -> Result<StepOutcome> {
        if self.world.size() > 1 {
            return self.step_together(batch, params);
        }
        // A GPU has nothing to do while the host looks at what came of a step. Who makes many asks for the gradients of the next
        // before it finishes this one, as `pretrain` does.
        let found = self.fitting_gradients(batch)?;
        let step = self.update(found, params);
        self.finish(step, batch)
    }

    /// [`gradients`](Self::gradients) in chunks that fit the memory of a GPU.
    ///
    /// # Errors
    /// As [`gradients`](Self::gradients); when not even one image fits.
    pub fn fitting_gradients(&mut self, batch: &Batch) -> Result<LossAndGradients> {
        self.fitting(batch, |trainer| trainer.gradients(batch))?
    }

    /// Asks for the update by these gradients: a device that finds a number in them which is not finite changes nothing. Does
    /// not wait for a GPU.
    pub fn update(&mut self, found: LossAndGradients, params: &StepParams) -> StepUnderWay {
        let _phase = meter::phase_of_all(Phase::Optimizer);
        self.params.device().in_one_graph(|| {
            let bad = found.count_non_finite();
            let LossAndGradients { loss, gradients, means } = found;
            let ema = |target| Ema { momentum: params.ema_momentum, target };
            let modules = self.params.trained_and_average().into_iter();
            let modules = modules.map(|(module, average)| (module, average.map(ema)));
            self.optimizer.update_unless(Some(&bad), modules, gradients, params.lr, params.weight_decay);
            let before = self.params.state.clone();
            self.method.next_state(&mut self.params.state, &means);
            self.params.state.iter_mut().zip(&before).for_each(|(x, before)| x.1.undo_unless_zero(&bad, &before.1));
            let numbers = self.method.numbers(&self.params, &means);
            let read: Vec<&Tensor> = [&loss, &bad].into_iter().chain(numbers.tensors()).collect();
            StepUnderWay { reading: Tensor::begin_reading(&read), numbers }
        })
    }

    /// Waits for the update that was the last to be asked for, by the gradients of this batch; for nothing that was asked for
    /// after it.
    ///
    /// # Errors
    /// As [`step`](Self::step).
    pub fn finish(&mut self, step: StepUnderWay, batch: &Batch) -> Result<StepOutcome> {
        let read = step.reading.wait();
        let &[loss, bad, ref numbers @ ..] = &read[..] else { unreachable!("a loss and a count were asked for") };
        if bad == 0.0 {
            return Ok(StepOutcome { loss, numbers: step.numbers.with(numbers.iter().copied()) });
        }
        self.optimizer.restore(self.optimizer.steps() - 1); // nothing was changed but the count
        Err(self.why_not_finite(loss, batch))
    }

    /// What `work` finds in chunks of half as many images until they fit the memory of a GPU; those are kept.
    pub(super) fn fitting<R>(&mut self, batch: &Batch, work: impl Fn(&Self) -> R) -> Result<R> {
        loop {
            match within_memory(|| work(self)) {
                Ok(found) => return Ok(found),
                Err(error) if self.chunk_images <= 1 => {
                    return Err(error.noted("not even one image at a time fits; a smaller model might"));
                }
                Err(_) => self.chunk_images = self.chunk_images.min(batch.len()).div_ceil(2),
            }
        }
    }

    /// The loss of a batch and its gradients: the mean over the batch's images, cut into chunks.
    ///
    /// # Errors
    /// [`Error::Training`] when a trained parameter got no gradient.
    ///
    /// # Panics
    /// When the batch is empty, or a part of one.
    #[track_caller]
    pub fn gradients(&self, batch: &Batch) -> Result<LossAndGradients> {
        assert!(batch.part.is_none(), "gradients: of a part of a batch, in one process");
        let lanes = self.lanes(batch.len());
        self.params.device().in_one_graph(|| self.sum(batch, &lanes, 0..lanes.count(), &Teams::of(lanes.count())))
    }

    /// The tree along which a batch of so many images is summed.
    pub(super) fn lanes(&self, images: usize) -> Lanes {
        assert!(images > 0 && self.chunk_images > 0, "gradients: {images} images in chunks of {}", self.chunk_images);
        match self.params.device().is_gpu() {
            true => Lanes::one(images, self.chunk_images),
            false => Lanes::new(images, self.chunk_images, is_large(&self.params)),
        }
    }

    /// The sum over a branch of the tree: the chunks of a lane one after the other, each adding to what the last one found; the
    /// halves of a larger branch at once. Threads that find no lane to begin help with those under way.
    fn sum(&self, batch: &Batch, lanes: &Lanes, branch: Range<usize>, teams: &Teams) -> Result<LossAndGradients> {
        if branch.len() == 1 {
            let _team = teams.begin();
            let mut chunks = lanes.chunks(branch.start);
            let sum = chunks.try_fold(None, |sum, chunk| self.add_chunk(batch, chunk, sum, None).map(Some))?;
            return Ok(sum.expect("at least one chunk"));
        }
        let (left, right) = halves(&branch);
        let half = |half| self.sum(batch, lanes, half, teams);
        let (left, right) = rayon::join(|| half(left), || half(right));
        let (mut left, right) = (left?, right?);
        let _there = (meter::phase(Phase::GradientSum), teams.between());
        left.loss.add_assign(&right.loss);
        left.gradients.iter_mut().zip(&right.gradients).for_each(|(sum, g)| sum.add_assign(g));
        assert_eq!(left.means.len(), right.means.len(), "a method has as many means in every chunk");
        left.means.iter_mut().zip(&right.means).for_each(|(sum, mean)| sum.add_assign(mean));
        Ok(left)
    }

    /// Lines 5 to 16 for some images of the step's batch, and the reverse sweep, added to what was found before. Gradients go to
    /// `complete`, if that is given, each with the place of its parameter and as soon as the sweep is done with it.
    pub(super) fn add_chunk(
        &self,
        batch: &Batch,
        images: Range<usize>,
        sum: Option<LossAndGradients>,
        complete: Option<&mut dyn FnMut(usize, Tensor)>,
    ) -> Result<LossAndGradients> {
        let (_phase, _products) = (meter::phase(Phase::Rest), self.precision.enter());
        let Part { first, of } = batch.part();
        let share = images.len() as f64 / of as f64;
        let chunk = self.chunk(batch, images.start - first..images.end - first); // with line 9: n_j ~ N(0, σI)
        let tape = Tape::new();
        let weights = self.params.on(&tape);
        let recording = self.method.record(&weights, &chunk); // lines 5 to 16

        let Recording { loss, means } = recording;
        let mut found = LossAndGradients {
            loss: loss.value().scaled(share),
            gradients: Vec::new(),
            means: means.iter().map(|mean| mean.scaled(share)).collect(),
        };
        let mut before = Vec::new();
        if let Some(sum) = sum {
            found.loss.add_assign(&sum.loss);
            assert_eq!(found.means.len(), sum.means.len(), "a method has as many means in every chunk");
            found.means.iter_mut().zip(&sum.means).for_each(|(mean, sum)| mean.add_assign(sum));
            before = sum.gradients;
        }
        let dloss = loss.value().full_like(share);
        let before = weights.leaves().zip(before);
        if let Some(complete) = complete {
            let mut none: Vec<Option<&str>> = self.params.trained_params().map(|p| Some(&p.name[..])).collect();
            tape.backward_handing_over(&loss, dloss, before, &mut |param, gradient| {
                none[param] = None;
                complete(param, gradient);
            });
            return none.into_iter().flatten().next().map_or(Ok(found), |name| Err(self.no_gradient(name)));
        }
        let mut gradients = tape.backward_onto(&loss, dloss, before);
        for (leaf, param) in weights.leaves().zip(self.params.trained_params()) {
            found.gradients.push(gradients.take(leaf).ok_or_else(|| self.no_gradient(&param.name))?);
        }
        Ok(found)
    }

    /// Some images of a batch with their masks and noise (line 9), in the row order of the official code: target block by target
    /// block, inside each context mask by context mask, inside each image by image.
    pub fn chunk(&self, batch: &Batch, images: Range<usize>) -> Chunk {
        batch.chunk(&*self.method, images)
    }

    fn no_gradient(&self, name: &str) -> Error {
        self.error(
            format!("no gradient reaches the parameter {name}"),
            "declare it with Role::Unused if nothing is to read it, or find where the graph is cut",
        )
    }

    pub(super) fn error(&self, problem: String, hint: &str) -> Error {
        Error::Training { step: self.optimizer.steps() as usize + 1, problem, hint: hint.into() }
    }
}

/// An optimizer about to start, with the method's parameter groups.
pub(super) fn optimizer(method: &dyn Method, params: &ModelParams) -> AdamW {
    let mut optimizer = AdamW::new(&params.trained().collect::<Vec<_>>());
    optimizer.groups = params.trained_params_by_module().map(|(module, p)| method.group(module, p)).collect();
    optimizer
}

/// Whether a sum of gradients is so large that several at once would be most of the memory of a step, and the products of a
/// chunk so large that threads can share them.
fn is_large(params: &ModelParams) -> bool {
    params.trained().map(|params| params.trained_elements()).sum::<usize>() >= 1 << 24
}

/// Images in a chunk, by how much one image holds in a block: measured, see docs/performance.md. More, and activations
/// fall out of the level-2 cache; fewer, and there is too little to multiply each weight with. At most 8, so that a
/// batch of 64 keeps eight threads busy; a power of two, so that it divides the usual batches. Of a large model, whose
/// weights come from memory, two. On a GPU, the whole batch.
fn default_chunk(method: &dyn Method, params: &ModelParams) -> usize {
    const ELEMENTS: usize = 1 << 17;
    if params.device().is_gpu() {
        return usize::MAX;
    }
    if is_large(params) {
        return 2;
    }
    let encoder = method.encoder().config();
    let images = (ELEMENTS / (encoder.patches() * encoder.dim)).clamp(1, 8);
    1 << images.ilog2()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::{DType, times_shared};
    use crate::train::small;

    #[test]
    #[cfg_attr(miri, ignore = "large")]
    fn threads_without_a_lane_help() {
        let trainer = Trainer { chunk_images: 7, ..small::trainer(small::stop(), true, DType::F32) };
        let batch = small::batch(&trainer);
        let shared = |threads| {
            small::with_threads(threads, || {
                trainer.gradients(&batch).unwrap();
                rayon::broadcast(|_| times_shared()).into_iter().sum::<usize>()
            })
        };
        assert_eq!(trainer.lanes(batch.len()).count(), 1);
        assert_eq!(shared(1), 0);
        assert!(shared(3) > 100);
    }
}
