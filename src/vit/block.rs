//! One transformer block, pre-norm: x ← x + attention(norm₁(x)); x ← x + mlp(norm₂(x)).

use rand::Rng;

use crate::autograd::{Var, ops};
use crate::nn::{Init, LayerNorm, Linear, Weights};

/// Multi-head attention and a two-layer MLP with GELU, each on normalized tokens and added to them.
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
        let qkv = self.qkv.operand(w, self.norm1.input(w, x)); // [B, N, 3D]
        self.rest(w, &ops::attention(&qkv, self.heads), x)
    }

    /// [`forward`](Self::forward) with what attention and the MLP add multiplied by these, \[B, 1, 1\] each: stochastic
    /// depth.
    pub fn forward_scaled(&self, w: &Weights, x: &Var, [attention, mlp]: &[Var; 2]) -> Var {
        let qkv = self.qkv.operand(w, self.norm1.input(w, x));
        let added = self.proj.forward(w, &ops::attention(&qkv, self.heads));
        let x = ops::add(x, &ops::mul(&added, attention));
        let hidden = self.fc1.operand(w, self.norm2.input(w, &x));
        let added = self.fc2.read(w, ops::Input::Gelu(&hidden), None);
        ops::add(&x, &ops::mul(&added, mlp))
    }

    /// What [`forward`](Self::forward) says about the `len` tokens from `start` on, \[B, len, D\]. The others are looked
    /// at, and nothing else is computed for them.
    pub fn forward_some(&self, w: &Weights, x: &Var, start: usize, len: usize) -> Var {
        let qkv = self.qkv.operand(w, self.norm1.input(w, x));
        let attention = ops::attention_of(&qkv, self.heads, start..start + len);
        self.rest(w, &attention, &ops::slice_tokens(x, start, len))
    }

    /// What comes after attention, token by token.
    fn rest(&self, w: &Weights, attention: &Var, x: &Var) -> Var {
        let x = self.proj.read(w, ops::Input::Plain(attention), Some(x));
        let hidden = self.fc1.operand(w, self.norm2.input(w, &x)); // [B, N, hidden]
        self.fc2.read(w, ops::Input::Gelu(&hidden), Some(&x))
    }
}
