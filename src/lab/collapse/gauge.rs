//! The gauge escape, in training: a scale that tying does not tie.
//!
//! Features come out of a layer norm, s = γ ⊙ x̂ + β. The context is A s; the noise is A n, with n of a scale of its
//! own. So (A, γ, β) → (A/c, cγ, cβ) leaves the context as it is and divides the noise by c: the tied loss has no
//! reason to keep c = 1, and a good one to raise it. Weight decay acts on A and not on γ and β (as in the official
//! code), and pushes the same way. |A| then tells nothing; the noise-to-signal ratio of what goes through A does.
//!
//! The world, F and A are those of [`joint_training`](super::joint_training) with d_p = 4, where the noise has nowhere
//! to go. Features: x̂ is a layer norm of z ~ N(0, I₈), and the coefficients of the field are four of its eight
//! entries.

use rayon::prelude::*;

use super::joint_training::ENTRY;
use super::ring::{self, Mlp, POSITIONS, RANK};
use super::training::{DTYPE, MEASURED, Measured, Schedule, Setup, Trace, last, mean};
use crate::autograd::{Var, ops};
use crate::lab::Finding;
use crate::nn::{LayerNorm, Role};
use crate::paper::{Sigma, sample_noise};
use crate::rng::{Generator, Purpose, stream};
use crate::tensor::Tensor;

/// Entries of a feature vector.
const FEATURES: usize = 8;

/// One way of training.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GaugeTraining {
    /// Whether γ and β are trained; else they stay at 1 and 0.
    pub free: bool,
    /// The noise.
    pub sigma: Sigma,
    /// How long and how fast, and the weight decay of A.
    pub schedule: Schedule,
}

/// What a run gave.
#[derive(Clone, Debug)]
pub struct GaugeRun {
    /// |A| / |A₀| over steps.
    pub norm: Trace,
    /// |γ| / |γ₀| over steps.
    pub gamma: Trace,
    /// √(E|An|² / E|As|²) over steps: at the start the standard deviation of n.
    pub noise_to_signal: Trace,
    /// F at the end.
    pub end: Measured,
}

impl GaugeTraining {
    /// What is shown, with a standard deviation of 0.5 and a weight decay of 0.1: γ and β held, and trained.
    pub fn demonstrations() -> [Self; 2] {
        [false, true].map(|free| Self::new(free, Sigma::from_std(0.5), 0.1))
    }

    /// The full run: 6000 steps, learning rate 0.002 falling to 0.
    pub fn new(free: bool, sigma: Sigma, decay: f64) -> Self {
        GaugeTraining { free, sigma, schedule: Schedule { steps: 6000, lr: 0.002, decay } }
    }

    /// One run for each seed, in parallel. The same bits on any number of threads.
    pub fn runs(&self, seeds: &[u64]) -> Vec<GaugeRun> {
        seeds.par_iter().map(|&seed| self.run(seed)).collect()
    }

    /// One run.
    pub fn run(&self, seed: u64) -> GaugeRun {
        let GaugeTraining { free, sigma, schedule } = *self;
        let mut setup = Setup::new(seed);
        let mlp = setup.predictor(|params, rng| Mlp::new(RANK, 64, DTYPE, params, rng));
        let a = setup.projection("A", [RANK, FEATURES], ENTRY, true);
        let role = if free { Role::Trained } else { Role::Fixed };
        let layer_norm = LayerNorm {
            weight: setup.projections.add("gamma", Tensor::full([FEATURES], 1.0, DTYPE), role),
            bias: setup.projections.add("beta", Tensor::zeros([FEATURES], DTYPE), role),
        };
        let before = [a, layer_norm.weight].map(|id| setup.projections.value(id).norm());
        let world = |rows: usize, rng: &mut Generator| {
            let z = Tensor::normal([rows, 1, FEATURES], 1.0, DTYPE, rng);
            let normal = ops::layer_norm(&z.clone().into(), None, LayerNorm::EPS);
            let four = normal.slice(2, 0..RANK).reshape([rows, RANK]);
            (Var::constant(z), Var::constant(ring::field(four.value())))
        };
        let (many, _) = world(MEASURED, &mut stream(seed, Purpose::Eval, [0, 0]));
        let ([norm, gamma, noise_to_signal], end) = setup.train(
            &schedule,
            world,
            |w, p, z, rng| {
                let n = sample_noise([z.shape()[0], POSITIONS, FEATURES], sigma, DTYPE, rng);
                mlp.predict(w, (&p[a], &p[a]), &layer_norm.forward(p, z), n)
            },
            |projections| {
                let [of_a, of_gamma] = [a, layer_norm.weight].map(|id| projections.value(id).norm());
                let p = projections.constants();
                let a_s = ops::linear(&layer_norm.forward(&p, &many), &p[a], None);
                let signal = a_s.value().norm() / (MEASURED as f64).sqrt();
                [of_a / before[0], of_gamma / before[1], sigma.std() * of_a / signal]
            },
        );
        GaugeRun { norm, gamma, noise_to_signal, end }
    }
}

/// What training with γ held and with γ free should show.
pub fn findings(held: &[GaugeRun], free: &[GaugeRun]) -> Vec<Finding> {
    let ratios = [held, free].map(|runs| mean(runs, |run| last(&run.noise_to_signal)));
    let start = mean(held, |run| run.noise_to_signal[0].1);
    let growth = mean(free, |run| last(&run.gamma));
    let below = |compared: &str, smaller, larger| Finding::below("gauge escape in training", compared, smaller, larger);
    vec![
        below("0.8 of the first and the last noise-to-signal ratio, γ held", 0.8 * start, ratios[0]),
        below("last noise-to-signal ratio, γ free, and 0.7 of γ held", ratios[1], 0.7 * ratios[0]),
        below("1.3 and |γ|/|γ₀|", 1.3, growth),
    ]
}
