//! Layer normalisation with γ and β, ε = 10⁻⁶.

use super::params::{ParamId, Weights};
use crate::autograd::{Var, ops};

/// A layer norm over the last dimension.
#[derive(Clone, Copy, Debug)]
pub struct LayerNorm {
    /// γ, \[dim\]
    pub weight: ParamId,
    /// β, \[dim\]
    pub bias: ParamId,
}

impl LayerNorm {
    /// ε as in the official code.
    pub const EPS: f64 = 1e-6;

    /// \[…, dim\] → \[…, dim\].
    pub fn forward(&self, w: &Weights, x: &Var) -> Var {
        ops::layer_norm(x, Some((&w[self.weight], &w[self.bias])), Self::EPS)
    }
}
