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
//! Lines 4 and 6 fill a [`Batch`]; line 9 is in [`Trainer::cut`]; lines 5 to 16 are [`Trainer::record`], on a few
//! images at a time; line 17 is
//! [`Trainer::step`]. (The comment of the paper's line 10 exchanges "masked" and "context", and the step of the
//! target encoder's moving average is left out there.)
//!
//! **Parallel over chunks of images, sequential inside.** A chunk runs from patches to gradients on one thread and one
//! tape, with activations that fit its core's cache. **Same bits, however many threads:** chunks are cut by the batch
//! alone, the noise of an image comes from a stream of its own, whatever chunk it is in, and gradients are summed in a
//! fixed order: in a row within a lane, lanes along a binary tree.

use std::ops::Range;

use rayon::prelude::*;

use super::non_finite::{NonFiniteSource, first_non_finite};
use crate::autograd::{Tape, Var};
use crate::kernels::Precision;
use crate::kernels::meter::{self, Phase};
use crate::methods::{Chunk, Model, ModelParams};
use crate::nn::{AdamW, Ema, Params, Role, Weights};
use crate::paper::sample_noise;
use crate::rng::{Purpose, stream};
use crate::tensor::{Indices, Tensor};
use crate::{Error, Result};

/// What one step trains on: lines 4 and 6.
#[derive(Clone, Debug)]
pub struct Batch {
    /// I_x: \[B, 3, S, S\]
    pub images: Tensor,
    /// B_x: for each of E context masks, B rows.
    pub context: Vec<Indices>,
    /// B_y: for each of P target blocks, B rows.
    pub targets: Vec<Indices>,
    /// Where line 9 gets its noise.
    pub noise: Noise,
}

/// Where the noise n comes from.
#[derive(Clone, Debug)]
pub enum Noise {
    /// Drawn, for each image from its own stream of this seed, step and place in the batch: it is the same however the batch
    /// is cut.
    Drawn {
        /// Seed of the run.
        seed: u64,
        /// Step of the run.
        step: u64,
    },
    /// Given, for each target block \[E B, N_t, d_e\]: what parity tests and gradient checks do.
    Given(Vec<Tensor>),
}

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

/// What a chunk, or several summed, found.
#[derive(Debug)]
pub struct LossAndGradients {
    /// The mean loss over the batch.
    pub loss: f64,
    /// Its gradient for each trained parameter of θ, then φ, in order.
    pub gradients: Vec<Tensor>,
}

/// What stands on a tape after lines 5 to 16, and beside it.
#[derive(Debug)]
pub struct Recording {
    /// θ
    pub theta: Weights,
    /// φ
    pub phi: Weights,
    /// The targets, off the tape.
    pub s_y: Var,
    /// The loss, a scalar.
    pub loss: Var,
}

/// A model in training: parameters and the optimizer's memory.
#[derive(Clone, Debug)]
pub struct Trainer {
    /// What is computed.
    pub model: Model,
    /// θ, φ (with A and m), and the target encoder.
    pub params: ModelParams,
    /// Moments and step count.
    pub optimizer: AdamW,
    /// Images in a chunk.
    pub chunk_images: usize,
    /// What the operands of products are rounded to in a step. Of f64 tensors nothing is. A step panics when this processor
    /// cannot compute with it: [`Precision::is_available`].
    pub precision: Precision,
}

impl Trainer {
    /// A model about to start, in chunks whose activations fit a core's cache.
    pub fn new(model: Model, params: ModelParams) -> Self {
        let optimizer = AdamW::new(&params.trained());
        let chunk_images = default_chunk(&model);
        Trainer { model, params, optimizer, chunk_images, precision: Precision::F32 }
    }

    /// Line 17: one step on a batch. Gives the loss before the step.
    ///
    /// # Errors
    /// [`Error::Training`] when a trained parameter got no gradient, or the loss or a gradient is not finite: it names the
    /// first operation that made a number which is not. Nothing is changed.
    pub fn step(&mut self, batch: &Batch, hyper: &StepParams) -> Result<f64> {
        let found = self.gradients(batch)?;
        if let Some(problem) = self.unusable(&found) {
            return Err(self.non_finite(problem, first_non_finite(self, batch)));
        }
        let LossAndGradients { loss, gradients } = found;
        let _phase = meter::phase_of_all(Phase::Optimizer);
        let ModelParams { encoder, predictor, target } = &mut self.params;
        let ema = target.as_mut().map(|target| Ema { momentum: hyper.ema_momentum, target });
        let modules = [(encoder, ema), (predictor, None)];
        self.optimizer.update_averaged(modules, gradients, hyper.lr, hyper.weight_decay);
        Ok(loss)
    }

    /// Looks at every value and every gradient of a step, whether or not the loss and the parameters' gradients depend on
    /// it. Takes as long as a step or two and changes nothing.
    ///
    /// # Errors
    /// [`Error::Training`] when one is not finite: it names the first operation that made such a number.
    pub fn examine(&self, batch: &Batch) -> Result<()> {
        match first_non_finite(self, batch) {
            None => Ok(()),
            found => Err(self.non_finite("a number on the way to the loss or back is not finite".into(), found)),
        }
    }

    /// Why no step can be made with what was found, if so.
    fn unusable(&self, LossAndGradients { loss, gradients }: &LossAndGradients) -> Option<String> {
        let _phase = meter::phase_of_all(Phase::Optimizer);
        if !loss.is_finite() {
            return Some(format!("the loss is {loss}"));
        }
        let bad = gradients.par_iter().position_first(|gradient| !AdamW::accepts(gradient))?;
        let trained = self.params.trained().into_iter().flat_map(|p| p.iter()).filter(|p| p.role == Role::Trained);
        let name = trained.map(|param| &param.name[..]).nth(bad).unwrap_or("?");
        let what = if gradients[bad].is_finite() { "too large to be squared" } else { "not finite" };
        Some(format!("the gradient of {name} is {what}"))
    }

    fn non_finite(&self, problem: String, source: Option<NonFiniteSource>) -> Error {
        let diverged = "the step was not made; try a lower learning rate or a longer warm-up";
        match source {
            Some(source) => self.error(format!("{problem}; first, {source}"), source.advice().unwrap_or(diverged)),
            None => self.error(format!("{problem}; every number on the way to it was finite"), diverged),
        }
    }

    /// The loss of a batch and its gradients: the mean over the batch's images, cut into chunks.
    ///
    /// # Errors
    /// [`Error::Training`] when a trained parameter got no gradient.
    ///
    /// # Panics
    /// When the batch is empty.
    #[track_caller]
    pub fn gradients(&self, batch: &Batch) -> Result<LossAndGradients> {
        let images = batch.images.shape()[0];
        assert!(images > 0 && self.chunk_images > 0, "gradients: {images} images in chunks of {}", self.chunk_images);
        let chunks: Vec<Range<usize>> =
            (0..images).step_by(self.chunk_images).map(|i| i..(i + self.chunk_images).min(images)).collect();
        let lanes = (chunks.len() / 2).clamp(LANES.start, LANES.end);
        self.sum(batch, &chunks, chunks.len().div_ceil(lanes))
    }

    /// The chunks' findings: up to `in_a_row` one after the other, each adding to what the last one found; more along a
    /// binary tree, the halves of each node at once.
    fn sum(&self, batch: &Batch, chunks: &[Range<usize>], in_a_row: usize) -> Result<LossAndGradients> {
        if chunks.len() <= in_a_row {
            let nothing = LossAndGradients { loss: 0.0, gradients: Vec::new() };
            return chunks.iter().try_fold(nothing, |sum, chunk| self.chunk(batch, chunk.clone(), sum));
        }
        let (left, right) = chunks.split_at(chunks.len().div_ceil(in_a_row).div_ceil(2) * in_a_row);
        let (left, right) = rayon::join(|| self.sum(batch, left, in_a_row), || self.sum(batch, right, in_a_row));
        let (mut left, right) = (left?, right?);
        let _phase = meter::phase(Phase::GradientSum);
        left.loss += right.loss;
        left.gradients.iter_mut().zip(&right.gradients).for_each(|(sum, g)| sum.add_assign(g));
        Ok(left)
    }

    /// Lines 5 to 16 for some images of a batch, and the reverse sweep, added to what was found before (with no
    /// gradients: nothing).
    fn chunk(&self, batch: &Batch, images: Range<usize>, sum: LossAndGradients) -> Result<LossAndGradients> {
        let (_phase, _products) = (meter::phase(Phase::Rest), self.precision.enter());
        let share = images.len() as f64 / batch.images.shape()[0] as f64;
        let chunk = self.cut(batch, images); // with line 9: n_j ~ N(0, σI)
        let tape = Tape::new();
        let averaged = self.params.target.as_ref().map(Params::constants);
        let Recording { theta, phi, loss, .. } = self.record(&chunk, &tape, averaged.as_ref());

        let places = self.params.trained().into_iter().flat_map(|p| p.iter()).zip(theta.iter().chain(phi.iter()));
        let trained: Vec<_> = places.filter(|(param, _)| param.role == Role::Trained).collect();
        let dloss = Tensor::full(*loss.shape(), share, loss.dtype());
        let mut found = tape.backward_onto(&loss, dloss, trained.iter().map(|(_, place)| *place).zip(sum.gradients));
        let gradients = trained
            .into_iter()
            .map(|(param, place)| found.take(place).ok_or_else(|| self.no_gradient(&param.name)))
            .collect::<Result<_>>()?;
        Ok(LossAndGradients { loss: sum.loss + share * loss.item(), gradients })
    }

    /// Lines 5 to 16, with θ and φ as leaves of `tape`. `averaged` are the target encoder's weights.
    ///
    /// # Panics
    /// When the method has a target encoder and `averaged` is `None`.
    #[doc(alias = "Algorithm 1")]
    pub fn record(&self, chunk: &Chunk, tape: &Tape, averaged: Option<&Weights>) -> Recording {
        let Trainer { model, params, .. } = self;
        let (theta, phi) = (params.encoder.on(tape), params.predictor.on(tape));

        let s_x = model.encode(&theta, chunk); //              5, 7:   s_x ← f_θ(x)
        let (c, m) = model.tokens(&phi, &s_x, chunk); //       11, 12: m = An + ψ_By + m,  c = As_x + ψ_Bx
        let s_y_hat = model.predict(&phi, &c, &m); //          14:     ŝ_y ← g_φ(c, m)
        let s_y = model.targets(averaged, chunk); //           15:     s_y ← get_target(y)
        let loss = model.loss(&s_y_hat, &s_y); //              16:     loss ← L(ŝ_y, s_y)

        Recording { theta, phi, s_y, loss }
    }

    /// Some images of a batch with their masks and noise, in the row order of the official code: target block by
    /// target block, inside each context mask by context mask, inside each image by image.
    pub fn cut(&self, batch: &Batch, images: Range<usize>) -> Chunk {
        let _phase = meter::phase(Phase::Data);
        let rows = |masks: &[Indices]| -> Vec<Indices> { masks.iter().map(|m| m.slice_rows(images.clone())).collect() };
        let context_masks = batch.context.len();
        let targets: Vec<Indices> = rows(&batch.targets).iter().map(|m| m.repeat(context_masks)).collect();
        let targets = Indices::concat(&targets);
        let noise = self.model.config.method.sigma().map(|sigma| match &batch.noise {
            Noise::Drawn { seed, step } => {
                let blocks = context_masks * batch.targets.len();
                let shape = [blocks, targets.per_row(), self.model.config.encoder.dim];
                let of_image = |image: usize| {
                    let mut rng = stream(*seed, Purpose::Noise, [*step, image as u64]);
                    sample_noise(shape, sigma, batch.images.dtype(), &mut rng)
                };
                let drawn: Vec<Tensor> = images.clone().map(of_image).collect(); // [P E, N_t, d_e] each
                let rows = (0..blocks).flat_map(|block| drawn.iter().map(move |n| n.rows(block..block + 1)));
                Tensor::concat_rows(&rows.collect::<Vec<_>>()) // [P E b, N_t, d_e]
            }
            Noise::Given(blocks) => {
                let total = batch.images.shape()[0];
                let runs = blocks.iter().flat_map(|n| (0..context_masks).map(move |e| (n, e * total)));
                let runs: Vec<Tensor> = runs.map(|(n, at)| n.rows(at + images.start..at + images.end)).collect();
                Tensor::concat_rows(&runs)
            }
        });
        Chunk {
            images: batch.images.rows(images.clone()),
            context: Indices::concat(&rows(&batch.context)),
            targets,
            noise,
        }
    }

    fn no_gradient(&self, name: &str) -> Error {
        self.error(
            format!("no gradient reaches the parameter {name}"),
            "declare it with Role::Unread if nothing is to read it, or find where the graph is cut",
        )
    }

    fn error(&self, problem: String, hint: &str) -> Error {
        Error::Training { step: self.optimizer.steps() as usize + 1, problem, hint: hint.into() }
    }
}

/// Sums of gradients that a step computes at once, from 8 to 16: as many threads can work on one batch. Each is as large
/// as the model, and adding two of them is a pass over memory, so there are no more of them than that.
const LANES: Range<usize> = 8..16;

/// Images in a chunk, by how much one image holds in a block: measured, see docs/performance.md. More, and activations
/// fall out of the level-2 cache; fewer, and there is too little to multiply each weight with. At most 8, so that a
/// batch of 64 keeps eight threads busy; a power of two, so that
/// it divides the usual batches.
fn default_chunk(model: &Model) -> usize {
    const ELEMENTS: usize = 1 << 16;
    let encoder = &model.config.encoder;
    let images = (ELEMENTS / (encoder.patches() * encoder.dim)).clamp(1, 8);
    1 << images.ilog2()
}
