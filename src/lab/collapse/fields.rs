//! A and F trained together as in [`joint_training`](super::joint_training), with a transformer for F: smooth fields on
//! a grid, some patches seen, others asked for.
//!
//! In tokens of width 32 the positions of a 6 × 6 grid span 11 dimensions, which leaves A much room beside them.
//! Without weight decay nothing makes an A vanish that nobody reads, so the untied |A| stalls while its noise loses its
//! effect. Weight decay on A and B takes away what is not needed: then untied and tied part.

use std::f64::consts::PI;

use rand::seq::SliceRandom;
use rayon::prelude::*;

use super::training::{DTYPE, Measured, Schedule, Setup, Trace, last, mean};
use crate::autograd::{Var, ops};
use crate::lab::Finding;
use crate::nn::{Init, LinearInit, Role};
use crate::paper::{Sigma, context_token, masked_token, sample_noise, stochastic_position, tied_tokens};
use crate::rng::Generator;
use crate::tensor::{Indices, Tensor};
use crate::vit::{Names, Predictor, PredictorConfig};

/// Patches along a side.
const GRID: usize = 6;
/// d_e
const FEATURES: usize = 8;
/// Frequencies along each side.
const MODES: usize = 3;
/// Patches seen, and patches asked for: drawn anew for every image.
const TOKENS: usize = 12;

/// One way of training.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FieldTraining {
    /// Whether the context goes through A too.
    pub tied: bool,
    /// The noise.
    pub sigma: Sigma,
    /// How long and how fast, and the weight decay of A and B.
    pub schedule: Schedule,
}

/// What a run gave.
#[derive(Clone, Debug)]
pub struct FieldRun {
    /// |A| / |A₀| over steps.
    pub norm: Trace,
    /// F at the end, per feature; features have power 1.
    pub end: Measured,
}

/// Some images: what is seen, where that is, and where is asked for.
struct Images {
    seen: Var,
    context: Indices,
    targets: Indices,
}

impl Images {
    /// Some images, each of the features a random field of power 1, and the features of the patches that are asked for.
    fn draw(rows: usize, rng: &mut Generator) -> (Self, Var) {
        // Cosines that are orthonormal on the grid, each of power 1/9 in the sum.
        let wave = |mode: usize, at: usize| (PI * mode as f64 * (at as f64 + 0.5) / GRID as f64).cos();
        let cosine = |mode: usize, at: usize| if mode == 0 { 1.0 } else { 2f64.sqrt() * wave(mode, at) };
        let mode = |k: usize, patch: usize| cosine(k / MODES, patch / GRID) * cosine(k % MODES, patch % GRID);
        let modes = Tensor::from_fn([GRID * GRID, MODES * MODES], DTYPE, |i| {
            mode(i % (MODES * MODES), i / (MODES * MODES)) / MODES as f64
        });
        let coefficients = Tensor::normal([rows, MODES * MODES, FEATURES], 1.0, DTYPE, rng);
        let features = Var::from(modes).matmul(&coefficients.into());
        let mut places: Vec<u32> = (0..(GRID * GRID) as u32).collect();
        let mut drawn = [Vec::new(), Vec::new()];
        for _ in 0..rows {
            places.shuffle(rng);
            drawn[0].extend_from_slice(&places[..TOKENS]);
            drawn[1].extend_from_slice(&places[TOKENS..2 * TOKENS]);
        }
        let [context, targets] = drawn.map(|places| Indices::new(rows, TOKENS, places));
        let (seen, wanted) = (ops::gather_tokens(&features, &context), ops::gather_tokens(&features, &targets));
        (Images { seen, context, targets }, wanted)
    }
}

impl FieldTraining {
    /// The full run: 3000 steps, noise of standard deviation 1.
    pub fn new(tied: bool, decay: f64) -> Self {
        let schedule = Schedule { steps: 3000, lr: 0.002, decay };
        FieldTraining { tied, sigma: Sigma::from_std(1.0), schedule }
    }

    /// What is shown: untied and tied, without weight decay and with a decay of 2.
    pub fn demonstrations() -> [Self; 4] {
        [(false, 0.0), (true, 0.0), (false, 2.0), (true, 2.0)].map(|(tied, decay)| Self::new(tied, decay))
    }

    /// One run for each seed, in parallel. The same bits on any number of threads.
    pub fn runs(&self, seeds: &[u64]) -> Vec<FieldRun> {
        seeds.par_iter().map(|&seed| self.run(seed)).collect()
    }

    /// One run.
    pub fn run(&self, seed: u64) -> FieldRun {
        let FieldTraining { tied, sigma, schedule } = *self;
        let mut setup = Setup::new(seed);
        let config = PredictorConfig { dim: 32, depth: 1, heads: 2, learned_positions: false, embed_std: 0.02 };
        let predictor = setup.predictor(|params, rng| {
            let mut init = Init { params, rng, dtype: DTYPE, linear: LinearInit::Xavier };
            Predictor::new(&config, (FEATURES, FEATURES), GRID, Names::Predictor, Role::Trained, &mut init)
        });
        // A and B stand apart, since they alone decay.
        setup.network.set_role(predictor.embed.weight, Role::Unused);
        setup.network.set_role(predictor.embed.bias, Role::Unused);
        let (a, b) = setup.pair(tied, [config.dim, FEATURES], 0.35, false);
        let before = setup.projections.value(a).norm();
        let ([norm], end) = setup.train(
            &schedule,
            Images::draw,
            |w, p, images, rng| {
                let n = sample_noise(*images.seen.shape(), sigma, DTYPE, rng).into();
                let psi = |at: &Indices| ops::gather_tokens(&w[predictor.position], at);
                let (psi_x, psi_y, m) = (psi(&images.context), psi(&images.targets), &w[predictor.mask_token]);
                let (c, masked) = if tied {
                    tied_tokens(&p[a], (&images.seen, &psi_x), (&n, &psi_y), m, None)
                } else {
                    let masked = masked_token(&stochastic_position(&p[a], &n, &psi_y), m);
                    (context_token(&psi_x, &p[b], &images.seen, None), masked)
                };
                predictor.forward(w, &c, &masked)
            },
            |projections| [projections.value(a).norm() / before],
        );
        FieldRun { norm, end }
    }
}

/// What [`FieldTraining::demonstrations`] should show.
pub fn findings(runs: &[Vec<FieldRun>; 4]) -> Vec<Finding> {
    let [untied, _, untied_decay, tied_decay] = [0, 1, 2, 3].map(|i: usize| mean(&runs[i], |run| last(&run.norm)));
    let below = |compared: &str, smaller, larger| Finding::below("a transformer", compared, smaller, larger);
    vec![
        below("0.3 and |A|/|A₀|, untied, no decay: it stalls", 0.3, untied),
        below("three times |A|/|A₀| untied and tied, decay 2", 3.0 * untied_decay, tied_decay),
        below("|A|/|A₀| untied, decay 2, and 0.03", untied_decay, 0.03),
    ]
}
