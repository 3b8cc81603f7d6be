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
        self.read(w, ops::Input::Plain(x), None)
    }

    /// The same of a norm or GELU of \[…, inputs\], which is not kept, onto a residual \[…, outputs\].
    pub fn read(&self, w: &Weights, input: ops::Input<'_>, residual: Option<&Var>) -> Var {
        ops::linear_of(input, &w[self.weight], Some(&w[self.bias]), residual)
    }

    /// The same for attention, or a GELU before a linear map, to read and nobody else: see [`ops::linear_operand`].
    pub fn operand(&self, w: &Weights, input: ops::Input<'_>) -> Var {
        ops::linear_operand(input, &w[self.weight], Some(&w[self.bias]))
    }
}
