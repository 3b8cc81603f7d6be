//! Initialisation, and the hand that makes parameters.

use rand::Rng;

use super::layer_norm::LayerNorm;
use super::linear::Linear;
use super::params::{ParamId, Params, Role};
use crate::tensor::{DType, Shape, Tensor};

/// Adds freshly initialised parameters to a [`Params`], as the official code initialises them: weights N(0, 0.02²),
/// biases 0, layer norms γ = 1 and β = 0.
///
/// The official code truncates its normal draws at ±2, a hundred standard deviations away; nothing is lost by not
/// truncating. It rescales `attn.proj` and `mlp.fc2` with depth, and then initialises them a second time, which
/// undoes it; here they are not rescaled.
#[derive(Debug)]
pub struct Init<'a, R> {
    /// Where parameters are added.
    pub params: &'a mut Params,
    /// The source of random weights.
    pub rng: &'a mut R,
    /// Element type.
    pub dtype: DType,
    /// Standard deviation of weights and tokens. Official: 0.02.
    pub std: f64,
}

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
        let weight = self.normal(format!("{name}.weight"), [outputs, inputs], self.std, Role::Trained);
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
