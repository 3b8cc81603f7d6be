//! The target encoder's weights: an exponential moving average of the context encoder's.

use rayon::prelude::*;

use super::params::{Params, Role};
use crate::kernels;

/// target ← μ target + (1 − μ) online, for every trained parameter.
///
/// The official code averages the fixed position table along; the two are equal, so but for rounding nothing changes,
/// and here fixed tables are left alone.
///
/// # Panics
/// When the two have different parameters.
#[track_caller]
pub fn update_ema(momentum: f64, online: &Params, target: &mut Params) {
    let online: Vec<_> = online.iter().collect();
    let target: Vec<_> = target.iter_mut().collect();
    assert_eq!(online.len(), target.len(), "ema: the two have different parameters");
    online.into_par_iter().zip(target).for_each(|(online, target)| {
        assert_eq!(online.name, target.name, "ema: the two have different parameters");
        if online.role == Role::Trained {
            kernels::ema(momentum, online.value.buffer(), target.value.buffer_mut());
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::Tensor;

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
