//! Initialization, and what creates parameters.

use rand::{Rng, RngExt};

use super::layer_norm::LayerNorm;
use super::linear::Linear;
use super::params::{ParamId, Params, Role};
use crate::tensor::{DType, Shape, Tensor};

named! {
    /// How the weights of linear layers start.
    #[cfg_attr(feature = "checkpoint", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "kebab-case"))]
    pub enum LinearInit: "initialization of linear layers" {
        /// N(0, 0.02²): I-JEPA and StoP.
        Normal => "normal",
        /// Uniform with variance 2 / (inputs + outputs) (Glorot and Bengio, 2010): MAE.
        Xavier => "xavier",
    }
}

/// Adds freshly initialized parameters to a [`Params`], as the official code initializes them: linear layers by
/// [`LinearInit`], biases 0, layer norms γ = 1 and β = 0, tokens N(0, 0.02²).
///
/// The official code truncates its normal draws at ±2, a hundred standard deviations away; nothing is lost by not
/// truncating. It rescales `attn.proj` and `mlp.fc2` with depth, and then initializes them a second time, which
/// undoes it; here they are not rescaled.
#[derive(Debug)]
pub struct Init<'a, R> {
    /// Where parameters are added.
    pub params: &'a mut Params,
    /// The source of random weights.
    pub rng: &'a mut R,
    /// Element type.
    pub dtype: DType,
    /// How the weights of linear layers start.
    pub linear: LinearInit,
}

/// What `make` builds, and its fresh parameters.
///
/// ```
/// use stop_mim::nn::{LinearInit, fresh};
/// use stop_mim::{DType, rng};
///
/// let mut rng = rng::stream(0, rng::Purpose::Init, [0, 0]);
/// let (head, params) = fresh(LinearInit::Normal, DType::F32, &mut rng, |init| init.linear("head", 128, 10));
/// assert_eq!(params.value(head.weight).shape()[..], [10, 128]);
/// ```
pub fn fresh<T, R: Rng>(
    linear: LinearInit,
    dtype: DType,
    rng: &mut R,
    make: impl FnOnce(&mut Init<'_, R>) -> T,
) -> (T, Params) {
    let mut params = Params::new();
    let made = make(&mut Init { params: &mut params, rng, dtype, linear });
    (made, params)
}

/// Standard deviation of normally initialized weights and tokens, as in the official code.
pub const NORMAL_STD: f64 = 0.02;

impl<R: Rng> Init<'_, R> {
    /// A weight or token drawn from N(0, `std`²).
    pub fn normal(&mut self, name: impl Into<String>, shape: impl Into<Shape>, std: f64, role: Role) -> ParamId {
        self.params.add(name, Tensor::normal(shape, std, self.dtype, self.rng), role)
    }

    /// A parameter with every element `value`.
    pub fn full(&mut self, name: impl Into<String>, shape: impl Into<Shape>, value: f64) -> ParamId {
        self.params.add(name, Tensor::full(shape, value, self.dtype), Role::Trained)
    }

    /// A linear layer with bias: `{name}.weight` of \[outputs, inputs\], `{name}.bias` of \[outputs\].
    pub fn linear(&mut self, name: &str, inputs: usize, outputs: usize) -> Linear {
        let value = match self.linear {
            LinearInit::Normal => Tensor::normal([outputs, inputs], NORMAL_STD, self.dtype, self.rng),
            LinearInit::Xavier => {
                let bound = (6.0 / (inputs + outputs) as f64).sqrt();
                Tensor::from_fn([outputs, inputs], self.dtype, |_| self.rng.random_range(-bound..bound))
            }
        };
        let weight = self.params.add(format!("{name}.weight"), value, Role::Trained);
        let bias = self.full(format!("{name}.bias"), [outputs], 0.0);
        Linear { weight, bias }
    }

    /// A layer norm over `dim` features: `{name}.weight` (γ) and `{name}.bias` (β).
    pub fn layer_norm(&mut self, name: &str, dim: usize) -> LayerNorm {
        let weight = self.full(format!("{name}.weight"), [dim], 1.0);
        let bias = self.full(format!("{name}.bias"), [dim], 0.0);
        LayerNorm { weight, bias }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::{Purpose, stream};

    #[test]
    fn weights_have_the_variance_they_should() {
        for (linear, variance) in [(LinearInit::Normal, 0.0004), (LinearInit::Xavier, 2.0 / (300.0 + 200.0))] {
            let (mut params, mut rng) = (Params::new(), stream(0, Purpose::Init, [0, 0]));
            let mut init = Init { params: &mut params, rng: &mut rng, dtype: DType::F64, linear };
            let layer = init.linear("layer", 300, 200);
            let weight = params.value(layer.weight);
            // 60,000 draws: their variance is known to one per cent (5 standard errors are 3 %).
            let found = weight.norm().powi(2) / weight.elements() as f64;
            assert!((found / variance - 1.0).abs() < 0.03, "{linear:?}: {found} for {variance}");
            assert_eq!(params.value(layer.bias).norm(), 0.0);
        }
    }
}
