//! Multi-head self-attention: O = softmax(Q Kᵀ / √d) V for every image and head.
//!
//! Queries, keys and values are read where the fused projection left them, in (B, N, 3, h, d), by strides; the
//! heads' outputs are written side by side, into (B, N, h, d). Nothing is transposed or copied. The
//! probabilities P, of (B, h, N, N), are kept for the backward pass.

use super::matmul::{Mat, MatMut, Plus, gemm};
use super::softmax;
use crate::kernels::Real;

/// The sizes of one attention: B images, N tokens, h heads of width d.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// B
    pub batch: usize,
    /// N
    pub tokens: usize,
    /// h
    pub heads: usize,
    /// d
    pub head_dim: usize,
}

impl Sizes {
    /// h d: the width of a token.
    pub fn dim(&self) -> usize {
        self.heads * self.head_dim
    }

    /// Elements in P.
    pub fn probs(&self) -> usize {
        self.batch * self.heads * self.tokens * self.tokens
    }

    fn scale<T: Real>(&self) -> T {
        T::from_f64(1.0 / (self.head_dim as f64).sqrt())
    }

    /// Queries (part 0), keys (1) or values (2) of one image and head inside the fused projection, and their strides.
    fn part(&self, part: usize, b: usize, head: usize) -> (usize, (usize, usize)) {
        let row = 3 * self.dim();
        (b * self.tokens * row + part * self.dim() + head * self.head_dim, (row, 1))
    }

    /// One image and head inside the output.
    fn out(&self, b: usize, head: usize) -> (usize, (usize, usize)) {
        (b * self.tokens * self.dim() + head * self.head_dim, (self.dim(), 1))
    }
}

fn mat<T>(data: &[T], (offset, strides): (usize, (usize, usize))) -> Mat<'_, T> {
    Mat { data, offset, strides }
}

fn mat_mut<T>(data: &mut [T], (offset, strides): (usize, (usize, usize))) -> MatMut<'_, T> {
    MatMut { data, offset, strides }
}

fn transposed<T>(m: Mat<'_, T>) -> Mat<'_, T> {
    Mat { strides: (m.strides.1, m.strides.0), ..m }
}

/// out ← softmax(Q Kᵀ / √d) V, and the probabilities into `probs`.
pub fn forward<T: Real>(s: &Sizes, qkv: &[T], probs: &mut [T], out: &mut [T]) {
    let (n, d) = (s.tokens, s.head_dim);
    if n == 0 {
        return;
    }
    for (i, p) in probs.chunks_exact_mut(n * n).enumerate() {
        let (b, head) = (i / s.heads, i % s.heads);
        let [q, k, v] = [0, 1, 2].map(|part| mat(qkv, s.part(part, b, head)));
        gemm([n, d, n], T::ONE, q, transposed(k), Plus::NOTHING, MatMut::new(p, n));
        softmax::forward_in_place(p, n, s.scale());
        gemm([n, n, d], T::ONE, Mat::new(p, n, false), v, Plus::NOTHING, mat_mut(out, s.out(b, head)));
    }
}

/// dqkv ← the gradient of ⟨dout, forward(qkv)⟩. `scratch` holds N² elements.
///
/// dV = Pᵀ dO, dP = dO Vᵀ, dS = P ⊙ (dP − ⟨P, dP⟩ per row), dQ = dS K / √d, dK = dSᵀ Q / √d.
pub fn backward<T: Real>(s: &Sizes, qkv: &[T], probs: &[T], dout: &[T], scratch: &mut [T], dqkv: &mut [T]) {
    let (n, d) = (s.tokens, s.head_dim);
    if n == 0 {
        return;
    }
    for (i, p) in probs.chunks_exact(n * n).enumerate() {
        let (b, head) = (i / s.heads, i % s.heads);
        let [q, k, v] = [0, 1, 2].map(|part| s.part(part, b, head));
        let dout = mat(dout, s.out(b, head));
        let probs = Mat::new(p, n, false);
        gemm([n, n, d], T::ONE, transposed(probs), dout, Plus::NOTHING, mat_mut(dqkv, v));
        gemm([n, d, n], T::ONE, dout, transposed(mat(qkv, v)), Plus::NOTHING, MatMut::new(scratch, n));
        softmax::backward_in_place(p, scratch, n);
        let ds = Mat::new(scratch, n, false);
        gemm([n, n, d], s.scale(), ds, mat(qkv, k), Plus::NOTHING, mat_mut(dqkv, q));
        gemm([n, n, d], s.scale(), transposed(ds), mat(qkv, q), Plus::NOTHING, mat_mut(dqkv, k));
    }
}
