//! Layer normalization with γ and β, ε = 10⁻⁶.

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

    /// The same for a [`Linear`](super::Linear) to read.
    pub fn input<'a>(&self, w: &'a Weights, x: &'a Var) -> ops::Input<'a> {
        ops::Input::Norm { x, gamma: &w[self.weight], beta: &w[self.bias], eps: Self::EPS }
    }
}
