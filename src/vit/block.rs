//! One transformer block, pre-norm: x ← x + attention(norm₁(x)); x ← x + mlp(norm₂(x)).

use rand::Rng;

use crate::autograd::{Var, ops};
use crate::nn::{Init, LayerNorm, Linear, Weights};

/// Multi-head attention and a two-layer MLP with GELU, each on normalised tokens and added to them.
#[derive(Clone, Debug)]
pub struct Block {
    heads: usize,
    norm1: LayerNorm,
    qkv: Linear,
    proj: Linear,
    norm2: LayerNorm,
    fc1: Linear,
    fc2: Linear,
}

impl Block {
    /// A block of width `dim` with `heads` heads and an MLP of width `hidden`; its parameters are called
    /// `{name}.norm1.weight`, `{name}.attn.qkv.weight`, …
    pub fn new(init: &mut Init<'_, impl Rng>, name: &str, dim: usize, heads: usize, hidden: usize) -> Self {
        Block {
            heads,
            norm1: init.layer_norm(&format!("{name}.norm1"), dim),
            qkv: init.linear(&format!("{name}.attn.qkv"), dim, 3 * dim),
            proj: init.linear(&format!("{name}.attn.proj"), dim, dim),
            norm2: init.layer_norm(&format!("{name}.norm2"), dim),
            fc1: init.linear(&format!("{name}.mlp.fc1"), dim, hidden),
            fc2: init.linear(&format!("{name}.mlp.fc2"), hidden, dim),
        }
    }

    /// \[B, N, D\] → \[B, N, D\].
    pub fn forward(&self, w: &Weights, x: &Var) -> Var {
        let qkv = self.qkv.forward(w, &self.norm1.forward(w, x)); // [B, N, 3D]
        let x = ops::add(x, &self.proj.forward(w, &ops::attention(&qkv, self.heads)));
        let hidden = ops::gelu(&self.fc1.forward(w, &self.norm2.forward(w, &x))); // [B, N, hidden]
        ops::add(&x, &self.fc2.forward(w, &hidden))
    }
}
