//! F and A trained together, on samples: what tying holds up, and the way around it.
//!
//! Untied, A goes towards zero as it does under a fixed F, down to what steps of this learning rate can tell from it.
//! Tied, |A| ends at a share of where it began that falls with the noise: F's weights on the context may grow as A
//! shrinks, which keeps the context and makes the noise small beside ψ.
//!
//! Both hold where the noise has nowhere to go: with d_e = d_p = 4 = rank ψ. With d_p = 16 the four dimensions that A
//! reaches need not meet the four that the positions span. F can then read positions by weights that vanish on the
//! image of A: |A| stays large, and so does half of its part within span ψ, while the noise changes next to no
//! prediction. |A| alone would call that a success. (The exact subspace escape, an A orthogonal to span ψ, is a limit
//! of this that training does not go to.)
//!
//! | what | here |
//! |---|---|
//! | positions | 12 on a ring, ψ of rank 4 = (cos t, sin t, cos 2t, sin 2t, 0, …) in d_p dimensions |
//! | images | x ~ N(0, I₄), one context token; 16 fresh ones a step |
//! | targets | the field on the ring with coefficients x, of power 1 |
//! | F | 64 hidden GELUs on u and v |
//! | A, B | \[d_p, 4\], random, of norm 0.6 (d_p = 4) or 1.2 (d_p = 16): entries of 0.15 |
//! | training | 6000 Adam steps, learning rate 0.002 falling to 0, fresh noise for every token |

use crate::rng::Generator;
use rayon::prelude::*;

use super::ring::{self, Mlp, POSITIONS, RANK};
use super::training::{DTYPE, Schedule, Spread, Trace, fit, last};
use crate::autograd::{Var, ops};
use crate::lab::Finding;
use crate::nn::{Params, Role, Weights};
use crate::paper::{Sigma, sample_noise};
use crate::rng::{Purpose, stream};
use crate::tensor::Tensor;

/// One way of training.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct JointTraining {
    /// Whether the context goes through A too (Eq. 6), or through a B of its own.
    pub tied: bool,
    /// Width of a token.
    pub d_p: usize,
    /// The noise.
    pub sigma: Sigma,
    /// How long and how fast.
    pub schedule: Schedule,
}

/// What a run gave.
#[derive(Clone, Debug)]
pub struct JointRun {
    /// |A| / |A₀| over steps.
    pub norm: Trace,
    /// |PA| / |A₀| over steps, P the projection onto span ψ.
    pub in_span: Trace,
    /// ½ E|F₁ − F₂|² for two draws of the noise: the variance that the noise puts into a prediction, and so its part of
    /// the loss. The targets have power 1.
    pub sensitivity: f64,
    /// E(F − y)² at the end, per prediction.
    pub loss: f64,
}

/// Entries of A and B at the start.
pub(super) const ENTRY: f64 = 0.15;
/// Images a step.
pub(super) const ROWS: usize = 16;
/// Images on which a trained network is measured.
pub(super) const MEASURED: usize = 1024;

impl JointTraining {
    /// The full run: 6000 steps.
    pub fn new(tied: bool, d_p: usize, sigma: Sigma) -> Self {
        JointTraining { tied, d_p, sigma, schedule: Schedule { steps: 6000, lr: 0.002, decay: 0.0 } }
    }

    /// What is shown: untied; tied; tied with room outside span ψ.
    pub fn demonstrations() -> Vec<Self> {
        let cases = [
            (false, 4, 0.5),
            (false, 4, 1.0),
            (true, 4, 0.25),
            (true, 4, 0.5),
            (true, 4, 1.0),
            (true, 16, 0.5),
            (true, 16, 1.0),
        ];
        cases.map(|(tied, d_p, std)| Self::new(tied, d_p, Sigma::from_std(std))).to_vec()
    }

    /// One run for each seed, in parallel. The same bits on any number of threads.
    pub fn runs(&self, seeds: &[u64]) -> Vec<JointRun> {
        seeds.par_iter().map(|&seed| self.run(seed)).collect()
    }

    /// One run.
    pub fn run(&self, seed: u64) -> JointRun {
        let JointTraining { tied, d_p, sigma, schedule } = *self;
        let rng = &mut stream(seed, Purpose::Init, [0, 0]);
        let (mut network, mut projections) = (Params::new(), Params::new());
        let mlp = Mlp::new(d_p, 64, DTYPE, &mut network, rng);
        let mut projection = |name| {
            let start = Tensor::normal([d_p, RANK], 1.0, DTYPE, rng);
            let scale = ENTRY * (start.elements() as f64).sqrt() / start.norm();
            projections.add(name, start.scaled(scale), Role::Trained)
        };
        let a = projection("A");
        let b = if tied { a } else { projection("B") };
        let before = projections.value(a).norm();
        let rng = &mut stream(seed, Purpose::Noise, [0, 0]);
        let features = |rows: usize, rng: &mut Generator| {
            let x = Tensor::normal([rows, 1, RANK], 1.0, DTYPE, rng);
            let y = ring::field(&x.reshape([rows, RANK]));
            (Var::constant(x), Var::constant(y))
        };
        let predict = |w: &Weights, p: &Weights, x: &Var, rng: &mut Generator| {
            let n = sample_noise([x.shape()[0], POSITIONS, RANK], sigma, DTYPE, rng);
            mlp.predict(w, (&p[a], &p[b]), x, n)
        };
        let (mut norms, mut in_span) = (Trace::new(), Trace::new());
        fit(
            &schedule,
            [&mut network, &mut projections],
            |w, p| {
                let (x, y) = features(ROWS, rng);
                ops::mse(&predict(w, p, &x, rng), &y)
            },
            |step, projections| {
                let a = projections.value(a);
                norms.push((step as f64, a.norm() / before));
                in_span.push((step as f64, a.rows(0..RANK).norm() / before)); // the first four axes are span ψ
            },
        );
        let (w, p) = (network.constants(), projections.constants());
        let (x, y) = features(MEASURED, rng);
        let draws = [predict(&w, &p, &x, rng), predict(&w, &p, &x, rng)];
        JointRun {
            norm: norms,
            in_span,
            sensitivity: 0.5 * ops::mse(&draws[0], &draws[1]).item(),
            loss: ops::mse(&draws[0], &y).item(),
        }
    }
}

/// What [`JointTraining::demonstrations`] should show, in their order.
pub fn findings(settings: &[JointTraining], runs: &[Vec<JointRun>]) -> Vec<Finding> {
    let statement = "F and A trained together";
    let mean = |runs: &[JointRun], of: fn(&JointRun) -> f64| Spread::of(runs.iter().map(of)).mean;
    let norm = |runs: &[JointRun]| mean(runs, |run| last(&run.norm));
    let of = |tied: bool, d_p: usize| -> Vec<(&JointTraining, &[JointRun])> {
        let chosen = settings.iter().zip(runs).filter(|(s, _)| (s.tied, s.d_p) == (tied, d_p));
        chosen.map(|(s, runs)| (s, &runs[..])).collect()
    };
    let (untied, tied, wide) = (of(false, RANK), of(true, RANK), of(true, 4 * RANK));
    let mut findings = Vec::new();
    let mut below = |compared: String, smaller, larger| {
        findings.push(Finding::below(statement, &compared, smaller, larger));
    };
    for (s, runs) in &untied {
        below(format!("|A|/|A₀| and 0.02, untied, std {}", s.sigma.std()), norm(runs), 0.02);
    }
    for (s, runs) in &tied {
        below(format!("0.1 and |A|/|A₀|, tied, std {}", s.sigma.std()), 0.1, norm(runs));
    }
    for pair in tied.windows(2) {
        below("|A|/|A₀| falls with the noise, tied".into(), norm(pair[1].1), norm(pair[0].1));
    }
    for (s, runs) in &wide {
        let std = s.sigma.std();
        below(format!("0.5 and |A|/|A₀|, tied, d_p = 16, std {std}"), 0.5, norm(runs));
        for (_, narrow) in tied.iter().filter(|(other, _)| other.sigma == s.sigma) {
            let sensitivity = [runs, narrow].map(|runs| mean(runs, |run| run.sensitivity));
            below(
                format!("noise sensitivity of d_p = 16 and a 30th of that of 4, std {std}"),
                sensitivity[0],
                sensitivity[1] / 30.0,
            );
        }
    }
    findings
}
