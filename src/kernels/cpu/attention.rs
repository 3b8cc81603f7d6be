//! Multi-head self-attention: O = softmax(Q Kᵀ / √d) V for every image and head.
//!
//! Queries, keys and values are read where the fused projection left them, in (B, N, 3, h, d), by strides; the
//! heads' outputs are written side by side, into (B, M, h, d). Nothing is transposed or copied beforehand; a product
//! turns the columns that it has at hand.
//!
//! **The probabilities are never kept.** Some (`QUERIES`) rows of them at a time exist in one scratch buffer, which stays
//! in the cache; the backward pass computes them again, which costs one product more and saves B h N² numbers that
//! would have to travel to memory and back.

use std::ops::Range;

use super::matmul::{Epilogue, Mat, MatMut, gemm};
use super::simd::LANES;
use super::softmax;
use crate::kernels::Real;

/// Queries that are answered at a time: with the 64 tokens of a small image all of them, with the 784 of a large one
/// 400 KiB of probabilities.
const QUERIES: usize = 128;

/// The sizes of one attention: B images, N tokens, h heads of width d, and the M queries among the tokens whose
/// answers are wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// B
    pub batch: usize,
    /// N
    pub tokens: usize,
    /// Which of them ask.
    pub queries: Range<usize>,
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

    /// Numbers in the fused projection.
    pub fn qkv(&self) -> usize {
        3 * self.batch * self.tokens * self.dim()
    }

    /// Numbers in the output.
    pub fn out(&self) -> usize {
        self.batch * self.queries.len() * self.dim()
    }

    /// Numbers in a scratch buffer.
    pub fn scratch(&self) -> usize {
        self.queries.len().min(QUERIES) * self.padded()
    }

    /// Numbers from one row of probabilities to the next: whole groups of what softmax works on at a time.
    fn padded(&self) -> usize {
        self.tokens.next_multiple_of(LANES)
    }

    fn scale<T: Real>(&self) -> T {
        T::from_f64(1.0 / (self.head_dim as f64).sqrt())
    }

    /// Queries (part 0), keys (1) or values (2) of one image and head inside the fused projection, from one token on,
    /// and their strides.
    fn part(&self, part: usize, (b, head): (usize, usize), token: usize) -> (usize, (usize, usize)) {
        let row = 3 * self.dim();
        ((b * self.tokens + token) * row + part * self.dim() + head * self.head_dim, (row, 1))
    }

    /// One image and head inside the output, from one query on.
    fn answer(&self, (b, head): (usize, usize), query: usize) -> (usize, (usize, usize)) {
        let row = b * self.queries.len() + query - self.queries.start;
        (row * self.dim() + head * self.head_dim, (self.dim(), 1))
    }

    /// Every image and head.
    fn heads(&self) -> impl Iterator<Item = (usize, usize)> + use<> {
        let (batch, heads) = (self.batch, self.heads);
        (0..batch).flat_map(move |b| (0..heads).map(move |head| (b, head)))
    }

    /// The queries, some at a time: the first and how many.
    fn blocks(&self) -> impl Iterator<Item = (usize, usize)> + use<> {
        let Range { start, end } = self.queries;
        (start..end).step_by(QUERIES).map(move |query| (query, QUERIES.min(end - query)))
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

/// P ← softmax(Q Kᵀ / √d) for `m` queries of one head from `query` on: (m, N) in padded rows.
fn probabilities<T: Real>(s: &Sizes, qkv: &[T], head: (usize, usize), (query, m): (usize, usize), p: &mut [T]) {
    let (q, k) = (mat(qkv, s.part(0, head, query)), mat(qkv, s.part(1, head, 0)));
    gemm([m, s.head_dim, s.tokens], T::ONE, q, transposed(k), Epilogue::NOTHING, MatMut::new(p, s.padded()));
    softmax::forward_padded(p.as_chunks_mut().0, s.tokens, s.scale());
}

/// out ← softmax(Q Kᵀ / √d) V. `scratch` holds [`Sizes::scratch`] numbers.
pub fn forward<T: Real>(s: &Sizes, qkv: &[T], scratch: &mut [T], out: &mut [T]) {
    let (n, d, row) = (s.tokens, s.head_dim, s.padded());
    for head in s.heads() {
        for (query, m) in s.blocks() {
            let p = &mut scratch[..m * row];
            probabilities(s, qkv, head, (query, m), p);
            let (p, v) = (Mat::new(p, row, false), mat(qkv, s.part(2, head, 0)));
            gemm([m, n, d], T::ONE, p, v, Epilogue::NOTHING, mat_mut(out, s.answer(head, query)));
        }
    }
}

/// dqkv ← the gradient of ⟨dout, forward(qkv)⟩. Each `scratch` holds [`Sizes::scratch`] numbers.
///
/// dV = Pᵀ dO, dP = dO Vᵀ, dS = P ⊙ (dP − ⟨P, dP⟩ per row), dQ = dS K / √d, dK = dSᵀ Q / √d. The queries that were not
/// asked for have no gradient.
pub fn backward<T: Real>(s: &Sizes, qkv: &[T], dout: &[T], scratch: [&mut [T]; 2], dqkv: &mut [T]) {
    let (n, d, row) = (s.tokens, s.head_dim, s.padded());
    if s.queries != (0..n) {
        dqkv.fill(T::ZERO);
    }
    let [p, ds] = scratch;
    for head in s.heads() {
        let [k, v] = [1, 2].map(|part| s.part(part, head, 0));
        for (query, m) in s.blocks() {
            let (p, ds) = (&mut p[..m * row], &mut ds[..m * row]);
            let (q, dout) = (s.part(0, head, query), mat(dout, s.answer(head, query)));
            let plus = if query == s.queries.start { Epilogue::NOTHING } else { Epilogue::OWN }; // dK, dV: a sum over blocks
            probabilities(s, qkv, head, (query, m), p);
            gemm([n, m, d], T::ONE, Mat::new(p, row, true), dout, plus, mat_mut(dqkv, v));
            gemm([m, d, n], T::ONE, dout, transposed(mat(qkv, v)), Epilogue::NOTHING, MatMut::new(ds, row));
            softmax::backward_padded(p, ds, n);
            gemm([m, n, d], s.scale(), Mat::new(ds, row, false), mat(qkv, k), Epilogue::NOTHING, mat_mut(dqkv, q));
            gemm([n, m, d], s.scale(), Mat::new(ds, row, true), mat(qkv, q), plus, mat_mut(dqkv, k));
        }
    }
}
