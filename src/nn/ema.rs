//! The target encoder's weights: an exponential moving average of the context encoder's.

use super::params::{Param, Params, Role};
use crate::kernels::optim::{self, EmaStep};
use crate::tensor::Tensor;

/// A module's moving average, about to follow it.
#[derive(Debug)]
pub struct Ema<'a> {
    /// μ
    pub momentum: f64,
    /// The average.
    pub target: &'a mut Params,
}

impl<'a> Ema<'a> {
    /// For each parameter of `online`, in order, μ and its average.
    ///
    /// # Panics
    /// When the two have different parameters.
    #[track_caller]
    pub(super) fn averages_of(self, online: &Params) -> impl Iterator<Item = (f64, &'a mut Tensor)> + use<'a> {
        let Ema { momentum, target } = self;
        let is = |p: &Param| (p.name.clone(), *p.value.shape(), p.value.dtype());
        let same = online.iter().map(is).eq(target.iter().map(is));
        assert!(same, "ema: the two have different parameters");
        target.iter_mut().map(move |average| (momentum, &mut average.value))
    }
}

/// target ← μ target + (1 − μ) online, for every trained parameter.
///
/// The official code averages the fixed position table along; the two are equal, so but for rounding nothing changes,
/// and here fixed tables are left alone.
///
/// # Panics
/// When the two have different parameters.
#[track_caller]
pub fn update_ema(momentum: f64, online: &Params, target: &mut Params) {
    let averages = Ema { momentum, target }.averages_of(online);
    let trained = online.iter().zip(averages).filter(|(param, _)| param.role == Role::Trained);
    let steps = trained.map(|(param, (momentum, average))| EmaStep {
        momentum,
        weight: param.value.buffer(),
        average: average.buffer_mut(),
    });
    optim::ema(steps.collect());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn averages_what_is_trained() {
        let params = |x: f64| {
            let mut params = Params::new();
            params.add("w", Tensor::new([1], vec![x]), Role::Trained);
            params.add("table", Tensor::new([1], vec![x]), Role::Fixed);
            params
        };
        let (online, mut target) = (params(1.0), params(3.0));
        update_ema(0.75, &online, &mut target);
        let values: Vec<f64> = target.iter().map(|p| p.value.item()).collect();
        assert_eq!(values, [0.75 * 3.0 + 0.25, 3.0]);
    }
}
