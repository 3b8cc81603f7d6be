//! What a step trains on: images with their masks, and where their noise comes from. Lines 4, 6 and 9 of Algorithm 1.

use std::ops::Range;

use rayon::prelude::*;

use crate::kernels::meter::{self, Phase};
use crate::methods::{Chunk, Draws, Method, View};
use crate::paper::{NoiseOn, sample_noise};
use crate::rng::{Purpose, stream};
use crate::tensor::{Device, Indices, Tensor};

/// One view of each image of a batch, with its masks.
#[derive(Clone, Debug)]
pub struct BatchView {
    /// \[B, C, S, S\]
    pub images: Tensor,
    /// B_x: for each of E context masks, B rows; none: every token is visible.
    pub context: Vec<Indices>,
    /// B_y: for each of P target blocks, B rows; none: nothing is predicted.
    pub targets: Vec<Indices>,
}

/// What one step trains on: lines 4 and 6.
#[derive(Clone, Debug)]
pub struct Batch {
    /// The views that the method [wants](Method::views), in that order.
    pub views: Vec<BatchView>,
    /// The class of each image, B rows of one, where the method [wants](Method::wants_labels) it.
    pub labels: Option<Indices>,
    /// Where line 9 gets its noise.
    pub noise: Noise,
    /// Which images of the step's batch these are; `None`: all of them.
    pub part: Option<Part>,
}

/// Which images of a batch a process has, where other processes have the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// The place in the batch of the first of them.
    pub first: usize,
    /// The images of the whole batch.
    pub of: usize,
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
    /// Given, for each target block \[E B, N_t, d_e\], where masked tokens have noise, and then for the context
    /// \[E B, N_c, d_e\], where it has: what parity tests and gradient checks do.
    Given(Vec<Tensor>),
}

impl Batch {
    /// One view of each image with masks: what the methods of the paper want. `images` are \[B, C, S, S\]; there are B rows
    /// for each of E context masks, and for each of P target blocks.
    pub fn masked(images: Tensor, context: Vec<Indices>, targets: Vec<Indices>, noise: Noise) -> Self {
        Batch { views: vec![BatchView { images, context, targets }], labels: None, noise, part: None }
    }

    /// The part of the step's batch that these images are.
    pub fn part(&self) -> Part {
        self.part.unwrap_or(Part { first: 0, of: self.len() })
    }

    /// B, the number of images.
    pub fn len(&self) -> usize {
        self.views.first().map_or(0, |view| view.images.shape()[0])
    }

    /// Whether there are no images.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The same batch on another device.
    #[must_use]
    pub fn to_device(&self, device: Device) -> Self {
        let masks = |masks: &[Indices]| masks.iter().map(|m| m.to_device(device)).collect();
        let view = |v: &BatchView| BatchView {
            images: v.images.to_device(device),
            context: masks(&v.context),
            targets: masks(&v.targets),
        };
        Batch {
            views: self.views.iter().map(view).collect(),
            labels: self.labels.as_ref().map(|labels| labels.to_device(device)),
            noise: self.noise.clone(),
            part: self.part,
        }
    }

    /// What [`Trainer::chunk`](super::Trainer::chunk) says.
    pub(super) fn chunk(&self, method: &dyn Method, images: Range<usize>) -> Chunk {
        let _phase = meter::phase(Phase::Data);
        let view = |view: &BatchView| {
            let rows = |masks: &[Indices], repeat: usize| {
                let rows: Vec<_> = masks.iter().map(|m| m.slice_rows(images.clone()).repeat(repeat)).collect();
                (!rows.is_empty()).then(|| Indices::concat(&rows))
            };
            View {
                images: view.images.rows(images.clone()),
                context: rows(&view.context, 1),
                targets: rows(&view.targets, view.context.len().max(1)),
            }
        };
        Chunk {
            views: self.views.iter().map(view).collect(),
            labels: self.labels.as_ref().map(|labels| labels.slice_rows(images.clone())),
            draws: match self.noise {
                Noise::Drawn { seed, step } => {
                    Some(Draws { seed, step, first: (self.part().first + images.start) as u64 })
                }
                Noise::Given(_) => None,
            },
            noise: self.noise(method, images.clone(), NoiseOn::Masked),
            context_noise: self.noise(method, images, NoiseOn::Context),
        }
    }

    /// Line 9: the noise for some images of a batch, on their masked tokens, \[P E b, N_t, d_e\], or on those of their
    /// context, \[E b, N_c, d_e\]; `None`: the method wants none there.
    fn noise(&self, method: &dyn Method, images: Range<usize>, on: NoiseOn) -> Option<Tensor> {
        let (sigma, wanted) = (method.sigma()?, method.noise_on());
        let view = self.views.iter().find(|view| !view.targets.is_empty())?;
        let targets = if wanted.masked() { view.targets.len() } else { 0 };
        // Where the draws come from, for which tokens, and which of the given tensors are theirs.
        let (purpose, masks, given) = match on {
            NoiseOn::Masked if wanted.masked() => (Purpose::Noise, &view.targets, 0..targets),
            NoiseOn::Context if wanted.context() => (Purpose::ContextNoise, &view.context, targets..targets + 1),
            _ => return None,
        };
        let (context_masks, per_image) = (view.context.len().max(1), masks.first()?.per_row());
        let runs: Vec<Tensor> = match &self.noise {
            Noise::Drawn { seed, step } => {
                let blocks = context_masks * given.len();
                let shape = [blocks, per_image, method.noise_width()];
                let of_image = |image: usize| {
                    let mut rng = stream(*seed, purpose, [*step, (self.part().first + image) as u64]);
                    sample_noise(shape, sigma, view.images.dtype(), &mut rng)
                };
                // [P E or E, N_t or N_c, d_e] each. For a chunk on a CPU its own thread draws: the others have theirs.
                let drawn: Vec<Tensor> = match view.images.device().is_gpu() {
                    true => images.into_par_iter().map(of_image).collect(),
                    false => images.map(of_image).collect(),
                };
                (0..blocks).flat_map(|block| drawn.iter().map(move |n| n.rows(block..block + 1))).collect()
            }
            Noise::Given(blocks) => {
                let runs = blocks[given].iter().flat_map(|n| (0..context_masks).map(move |e| (n, e * self.len())));
                runs.map(|(n, at)| n.rows(at + images.start..at + images.end)).collect()
            }
        };
        Some(Tensor::concat_rows(&runs).to_device(view.images.device()))
    }
}
