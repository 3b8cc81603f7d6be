//! Queries, keys and values are read where the fused projection left them, in (B, N, 3, h, d), by strides; the
//! heads' outputs are written side by side, into (B, M, h, d). Nothing is transposed or copied beforehand; a product
//! turns the columns that it has at hand.
//!
//! **The probabilities are never kept.** Some (`QUERIES`) rows of them at a time exist in one scratch buffer, which stays
//! in the cache; the backward pass computes them again, which costs one product more and saves B h N² numbers that
//! would have to travel to memory and back.

use std::ops::Range;

use super::Sizes;
use crate::kernels::buffer::Storage;
use crate::kernels::matmul::gemm::{Epilogue, Mat, MatMut, gemm};
use crate::kernels::real::Strides;
use crate::kernels::simd::LANES;
use crate::kernels::softmax::cpu as softmax;
use crate::kernels::{Device, Real};

/// Queries that are answered at a time: with the 64 tokens of a small image all of them, with the 784 of a large one
/// 400 KiB of probabilities.
const QUERIES: usize = 128;

/// Numbers from one row of probabilities to the next: whole groups of what softmax works on at a time.
fn padded(s: &Sizes) -> usize {
    s.tokens.next_multiple_of(LANES)
}

/// Room for the probabilities of some queries.
fn scratch<T: Real>(s: &Sizes) -> Storage<T> {
    Storage::unspecified(s.queries.len().min(QUERIES) * padded(s), Device::Cpu)
}

/// Queries (part 0), keys (1) or values (2) of one image and head inside the fused projection, from one token on, and
/// their strides.
fn part(s: &Sizes, part: usize, (b, head): (usize, usize), token: usize) -> (usize, Strides) {
    let row = 3 * s.dim();
    ((b * s.tokens + token) * row + part * s.dim() + head * s.head_dim, (row, 1))
}

/// One image and head inside the output, from one query on.
fn answer(s: &Sizes, (b, head): (usize, usize), query: usize) -> (usize, Strides) {
    let row = b * s.queries.len() + query - s.queries.start;
    (row * s.dim() + head * s.head_dim, (s.dim(), 1))
}

/// Every image and head.
fn heads(s: &Sizes) -> impl Iterator<Item = (usize, usize)> + use<> {
    let (batch, heads) = (s.batch, s.heads);
    (0..batch).flat_map(move |b| (0..heads).map(move |head| (b, head)))
}

/// The queries, some at a time: the first and how many.
fn blocks(s: &Sizes) -> impl Iterator<Item = (usize, usize)> + use<> {
    let Range { start, end } = s.queries;
    (start..end).step_by(QUERIES).map(move |query| (query, QUERIES.min(end - query)))
}

fn mat<T>(data: &[T], (offset, strides): (usize, Strides)) -> Mat<'_, T> {
    Mat { data, offset, strides }
}

fn mat_mut<T>(data: &mut [T], (offset, strides): (usize, Strides)) -> MatMut<'_, T> {
    MatMut { data, offset, strides }
}

fn transposed<T>(m: Mat<'_, T>) -> Mat<'_, T> {
    Mat { strides: (m.strides.1, m.strides.0), ..m }
}

/// P ← softmax(Q Kᵀ / √d) for `m` queries of one head from `query` on: (m, N) in padded rows.
fn probabilities<T: Real>(s: &Sizes, qkv: &[T], head: (usize, usize), (query, m): (usize, usize), p: &mut [T]) {
    let (q, k) = (mat(qkv, part(s, 0, head, query)), mat(qkv, part(s, 1, head, 0)));
    gemm([m, s.head_dim, s.tokens], T::ONE, q, transposed(k), Epilogue::NOTHING, MatMut::new(p, padded(s)));
    softmax::forward_padded(p.as_chunks_mut().0, s.tokens, T::from_f64(s.scale()));
}

/// out ← softmax(Q Kᵀ / √d) V.
pub(super) fn forward<T: Real>(s: &Sizes, qkv: &[T], out: &mut [T]) {
    let (n, d, row) = (s.tokens, s.head_dim, padded(s));
    let mut scratch = scratch(s);
    let scratch = scratch.as_mut_slice();
    for head in heads(s) {
        for (query, m) in blocks(s) {
            let p = &mut scratch[..m * row];
            probabilities(s, qkv, head, (query, m), p);
            let (p, v) = (Mat::new(p, row, false), mat(qkv, part(s, 2, head, 0)));
            gemm([m, n, d], T::ONE, p, v, Epilogue::NOTHING, mat_mut(out, answer(s, head, query)));
        }
    }
}

/// dqkv ← the gradient of ⟨dout, forward(qkv)⟩.
///
/// dV = Pᵀ dO, dP = dO Vᵀ, dS = P ⊙ (dP − ⟨P, dP⟩ per row), dQ = dS K / √d, dK = dSᵀ Q / √d. The queries that were not
/// asked for have no gradient.
pub(super) fn backward<T: Real>(s: &Sizes, qkv: &[T], dout: &[T], dqkv: &mut [T]) {
    let (n, d, row) = (s.tokens, s.head_dim, padded(s));
    if s.queries != (0..n) {
        dqkv.fill(T::ZERO);
    }
    let (mut p, mut ds) = (scratch::<T>(s), scratch::<T>(s));
    for head in heads(s) {
        let [k, v] = [1, 2].map(|which| part(s, which, head, 0));
        for (query, m) in blocks(s) {
            let (p, ds) = (&mut p.as_mut_slice()[..m * row], &mut ds.as_mut_slice()[..m * row]);
            let (q, dout) = (part(s, 0, head, query), mat(dout, answer(s, head, query)));
            let plus = if query == s.queries.start { Epilogue::NOTHING } else { Epilogue::OWN }; // dK, dV: a sum over blocks
            probabilities(s, qkv, head, (query, m), p);
            gemm([n, m, d], T::ONE, Mat::new(p, row, true), dout, plus, mat_mut(dqkv, v));
            gemm([m, d, n], T::ONE, dout, transposed(mat(qkv, v)), Epilogue::NOTHING, MatMut::new(ds, row));
            softmax::backward_padded(p, ds, n);
            gemm(
                [m, n, d],
                T::from_f64(s.scale()),
                Mat::new(ds, row, false),
                mat(qkv, k),
                Epilogue::NOTHING,
                mat_mut(dqkv, q),
            );
            gemm([n, m, d], T::from_f64(s.scale()), Mat::new(ds, row, true), mat(qkv, q), plus, mat_mut(dqkv, k));
        }
    }
}
