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

use rayon::prelude::*;

use super::ring::{self, Mlp, POSITIONS, RANK};
use super::training::{DTYPE, Measured, Schedule, Setup, Trace, last, mean};
use crate::autograd::Var;
use crate::lab::Finding;
use crate::paper::{Sigma, sample_noise};
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
    /// F at the end.
    pub end: Measured,
}

/// Entries of A and B at the start.
pub(super) const ENTRY: f64 = 0.15;

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
        let mut setup = Setup::new(seed);
        let mlp = setup.predictor(|params, rng| Mlp::new(d_p, 64, DTYPE, params, rng));
        let (a, b) = setup.pair(tied, [d_p, RANK], ENTRY, true);
        let before = setup.projections.value(a).norm();
        let ([norm, in_span], end) = setup.train(
            &schedule,
            |rows, rng| {
                // One context token an image, whose features are the coefficients of the field.
                let x = Tensor::normal([rows, 1, RANK], 1.0, DTYPE, rng);
                let y = ring::field(&x.reshape([rows, RANK]));
                (Var::constant(x), Var::constant(y))
            },
            |w, p, x, rng| {
                let n = sample_noise([x.shape()[0], POSITIONS, RANK], sigma, DTYPE, rng);
                mlp.predict(w, (&p[a], &p[b]), x, n)
            },
            |projections| {
                let a = projections.value(a);
                [a.norm() / before, a.rows(0..RANK).norm() / before] // the first four axes are span ψ
            },
        );
        JointRun { norm, in_span, end }
    }
}

/// What [`JointTraining::demonstrations`] should show, in their order.
pub fn findings(settings: &[JointTraining], runs: &[Vec<JointRun>]) -> Vec<Finding> {
    let statement = "F and A trained together";
    let norm = |runs: &[JointRun]| mean(runs, |run| last(&run.norm));
    let of = |tied: bool, d_p: usize| -> Vec<(&JointTraining, &[JointRun])> {
        let chosen = settings.iter().zip(runs).filter(|(s, _)| (s.tied, s.d_p) == (tied, d_p));
        chosen.map(|(s, runs)| (s, &runs[..])).collect()
    };
    let (untied, tied, wide) = (of(false, RANK), of(true, RANK), of(true, 4 * RANK));
    let mut findings = Vec::new();
    let mut below =
        |compared: String, smaller, larger| findings.push(Finding::below(statement, compared, smaller, larger));
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
            let [wide, narrow] = [runs, narrow].map(|runs| mean(runs, |run| run.end.sensitivity));
            let compared = format!("noise sensitivity of d_p = 16 and a 30th of that of 4, std {std}");
            below(compared, wide, narrow / 30.0);
        }
    }
    findings
}
