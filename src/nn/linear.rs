//! y = x Wᵀ + b.

use super::params::{ParamId, Weights};
use crate::autograd::{Var, ops};

/// A linear layer with bias.
#[derive(Clone, Copy, Debug)]
pub struct Linear {
    /// W, \[outputs, inputs\]
    pub weight: ParamId,
    /// b, \[outputs\]
    pub bias: ParamId,
}

impl Linear {
    /// \[…, inputs\] → \[…, outputs\].
    pub fn forward(&self, w: &Weights, x: &Var) -> Var {
        ops::linear(x, &w[self.weight], Some(&w[self.bias]))
    }
}
