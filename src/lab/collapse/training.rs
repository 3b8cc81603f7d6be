//! What the demonstrations that train have in common: Adam, and numbers over seeds.

use std::fmt;

use crate::autograd::{Tape, Var};
use crate::nn::{AdamW, Params, Weights};
use crate::tensor::{DType, Tensor};

/// Element type of networks that train on samples, as everywhere in the crate. What is exact is in f64.
pub(super) const DTYPE: DType = DType::F32;

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

/// Trains a network and the projections A and B that feed it. `loss` is what a step lowers; `watch` sees the
/// projections, and how many steps they have made: 0, and then after every hundredth of the run.
pub(super) fn fit(
    schedule: &Schedule,
    [network, projections]: [&mut Params; 2],
    mut loss: impl FnMut(&Weights, &Weights) -> Var,
    mut watch: impl FnMut(usize, &Params),
) {
    let Schedule { steps, lr, decay } = *schedule;
    let mut optimizers = [AdamW::new(&[network]), AdamW::new(&[projections])];
    for step in 0..steps {
        if step % (steps / 100).max(1) == 0 {
            watch(step, projections);
        }
        let tape = Tape::new();
        let weights = [network.on(&tape), projections.on(&tape)];
        let mut gradients = tape.backward(&loss(&weights[0], &weights[1]));
        let lr = lr * 0.5 * (1.0 + (std::f64::consts::PI * step as f64 / steps as f64).cos());
        let [optimizer, other] = &mut optimizers;
        let mut take = |of: &Weights| -> Vec<Tensor> {
            of.iter().filter(|w| w.is_tracked()).map(|w| gradients.take(w).expect("the loss reads all")).collect()
        };
        let [of_network, of_projections] = [take(&weights[0]), take(&weights[1])];
        optimizer.update(&mut [network], of_network, lr, 0.0);
        other.update(&mut [projections], of_projections, lr, decay);
    }
    watch(steps, projections);
}

/// A quantity over training: (step, value).
pub type Trace = Vec<(f64, f64)>;

/// The last value of a trace; NaN for an empty one.
pub fn last(trace: &Trace) -> f64 {
    trace.last().map_or(f64::NAN, |&(_, y)| y)
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
        match (small, sd) {
            (false, Some(sd)) => write!(f, "{mean:.3} ± {sd:.3}"),
            (false, None) => write!(f, "{mean:.3}"),
            (true, Some(sd)) => write!(f, "{mean:.1e} ± {sd:.0e}"),
            (true, None) => write!(f, "{mean:.1e}"),
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
