//! What the demonstrations that train have in common: A and B, Adam, and numbers over seeds.

use std::fmt;

use crate::autograd::{Tape, Var, ops};
use crate::nn::{AdamW, ParamId, Params, Role, Weights};
use crate::rng::{Generator, Purpose, stream};
use crate::tensor::{DType, Tensor};

/// Element type of networks that train on samples, as everywhere in the crate. What is exact is in f64.
pub(super) const DTYPE: DType = DType::F32;

/// Images on which a trained network is measured.
pub(super) const MEASURED: usize = 1024;

/// Images a step.
pub(super) const ROWS: usize = 16;

/// How long, how fast, and how much the projections decay.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Schedule {
    /// Adam steps.
    pub steps: usize,
    /// Learning rate of the first step; it falls to 0 by half a cosine.
    pub lr: f64,
    /// Weight decay (decoupled) of A and B alone.
    pub decay: f64,
}

/// A predictor F, the projections A and B that feed it, and where the draws come from: of initial weights, and of all
/// that follows.
pub(super) struct Setup {
    /// F's weights.
    pub network: Params,
    /// A and B, and what else stands before F. They alone decay.
    pub projections: Params,
    init: Generator,
    noise: Generator,
}

impl Setup {
    pub fn new(seed: u64) -> Self {
        let [init, noise] = [Purpose::Init, Purpose::Noise].map(|purpose| stream(seed, purpose, [0, 0]));
        Setup { network: Params::new(), projections: Params::new(), init, noise }
    }

    /// F, by `make`, whose parameters and draws it is given.
    pub fn predictor<F>(&mut self, make: impl FnOnce(&mut Params, &mut Generator) -> F) -> F {
        make(&mut self.network, &mut self.init)
    }

    /// A random matrix of entries of this root mean square: exactly that (`exact`), or on average.
    pub fn projection(&mut self, name: &str, shape: [usize; 2], entry: f64, exact: bool) -> ParamId {
        let start = if exact {
            let start = Tensor::normal(shape, 1.0, DTYPE, &mut self.init);
            start.scaled(entry * (start.elements() as f64).sqrt() / start.norm())
        } else {
            Tensor::normal(shape, entry, DTYPE, &mut self.init)
        };
        self.projections.add(name, start, Role::Trained)
    }

    /// A, and B: the same when `tied`.
    pub fn pair(&mut self, tied: bool, shape: [usize; 2], entry: f64, exact: bool) -> (ParamId, ParamId) {
        let a = self.projection("A", shape, entry, exact);
        (a, if tied { a } else { self.projection("B", shape, entry, exact) })
    }

    /// Trains on fresh images of `world`, with the traces of what `watch` sees, as in [`fit`], and then measures F on
    /// [`MEASURED`] more, under two draws of the noise.
    pub fn train<X, const N: usize>(
        mut self,
        schedule: &Schedule,
        world: impl Fn(usize, &mut Generator) -> (X, Var),
        predict: impl Fn(&Weights, &Weights, &X, &mut Generator) -> Var,
        watch: impl Fn(&Params) -> [f64; N],
    ) -> ([Trace; N], Measured) {
        let Setup { network, projections, noise, .. } = &mut self;
        let loss = |w: &Weights, p: &Weights| {
            let (x, y) = world(ROWS, noise);
            ops::mse(&predict(w, p, &x, noise), &y)
        };
        let traces = fit(schedule, [&mut *network, &mut *projections], loss, watch);
        let (w, p) = (network.constants(), projections.constants());
        let (x, y) = world(MEASURED, noise);
        let draws = [(); 2].map(|()| predict(&w, &p, &x, noise));
        let [apart, loss] = [&draws[1], &y].map(|other| ops::mse(&draws[0], other).item());
        (traces, Measured { sensitivity: 0.5 * apart, loss })
    }
}

/// A trained F, on fresh images.
#[derive(Clone, Copy, Debug)]
pub struct Measured {
    /// ½ E|F₁ − F₂|² for two draws of the noise: the variance that the noise puts into a prediction, and so its part of
    /// the loss. The targets have power 1.
    pub sensitivity: f64,
    /// E(F − y)², per prediction.
    pub loss: f64,
}

/// Trains a network and the projections A and B that feed it. `loss` is what a step lowers. `watch` sees the projections
/// before the first step and after every hundredth of the run: the traces are of what it gives.
pub(super) fn fit<const N: usize>(
    schedule: &Schedule,
    [network, projections]: [&mut Params; 2],
    mut loss: impl FnMut(&Weights, &Weights) -> Var,
    watch: impl Fn(&Params) -> [f64; N],
) -> [Trace; N] {
    let mut traces = [(); N].map(|()| Trace::new());
    let mut look = |step: usize, projections: &Params| {
        traces.iter_mut().zip(watch(projections)).for_each(|(trace, y)| trace.push((step as f64, y)));
    };
    let Schedule { steps, lr, decay } = *schedule;
    let mut optimizers = [AdamW::new(&[network]), AdamW::new(&[projections])];
    for step in 0..steps {
        if step % (steps / 100).max(1) == 0 {
            look(step, projections);
        }
        let tape = Tape::new();
        let weights = [network.on(&tape), projections.on(&tape)];
        let mut gradients = tape.backward(&loss(&weights[0], &weights[1]));
        let lr = lr * 0.5 * (1.0 + (std::f64::consts::PI * step as f64 / steps as f64).cos());
        for (i, decay) in [0.0, decay].into_iter().enumerate() {
            let leaves = weights[i].iter().filter(|w| w.is_tracked());
            let found = leaves.map(|w| gradients.take(w).expect("the loss reads all")).collect();
            let params: &mut Params = if i == 0 { network } else { projections };
            optimizers[i].update(&mut [params], found, lr, decay);
        }
    }
    look(steps, projections);
    traces
}

/// A quantity over training: (step, value).
pub type Trace = Vec<(f64, f64)>;

/// The last value of a trace; NaN for an empty one.
pub fn last(trace: &Trace) -> f64 {
    trace.last().map_or(f64::NAN, |&(_, y)| y)
}

/// The mean over the runs of several seeds.
pub(super) fn mean<R>(runs: &[R], of: impl Fn(&R) -> f64) -> f64 {
    Spread::of(runs.iter().map(of)).mean
}

/// Mean and standard deviation (with n − 1) over seeds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spread {
    /// The mean.
    pub mean: f64,
    /// The standard deviation; `None` of a single value.
    pub sd: Option<f64>,
}

impl Spread {
    /// Of these values.
    pub fn of(values: impl IntoIterator<Item = f64>) -> Self {
        let values: Vec<f64> = values.into_iter().collect();
        let n = values.len() as f64;
        let mean = values.iter().sum::<f64>() / n;
        let squares = values.iter().map(|x| (x - mean).powi(2)).sum::<f64>();
        Spread { mean, sd: (n > 1.0).then(|| (squares / (n - 1.0)).sqrt()) }
    }
}

impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Spread { mean, sd } = *self;
        let small = mean.abs() < 0.01 && mean != 0.0;
        if small { write!(f, "{mean:.1e}") } else { write!(f, "{mean:.3}") }?;
        match sd {
            Some(sd) if small => write!(f, " ± {sd:.0e}"),
            Some(sd) => write!(f, " ± {sd:.3}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mean_and_standard_deviation() {
        let spread = Spread::of([1.0, 2.0, 4.0, 5.0]);
        assert_eq!(spread.mean, 3.0);
        assert!((spread.sd.unwrap() - (10.0f64 / 3.0).sqrt()).abs() < 1e-15);
        assert_eq!(Spread::of([7.0]).to_string(), "7.000");
        assert_eq!(Spread::of([0.25, 0.75]).to_string(), "0.500 ± 0.354");
        assert_eq!(Spread::of([1e-4, 3e-4]).to_string(), "2.0e-4 ± 1e-4");
    }
}
