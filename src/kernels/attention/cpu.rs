//! Queries, keys and values are read where the fused projection left them, in (B, N, 3, h, d), by strides; the
//! heads' outputs are written side by side, into (B, M, h, d). Nothing is transposed or copied beforehand; a product
//! turns the columns that it has at hand.
//!
//! **The probabilities are never kept.** Some (`QUERIES`) rows of them at a time exist in one scratch buffer, which stays
//! in the cache; the backward pass computes them again, which costs one product more and saves B h N² numbers that
//! would have to travel to memory and back.
//!
//! **In bf16:** `S` is the type of what products read, `C` that of the results. Q, K, V and dO are stored so; P and dS, which softmax
//! computes in f32, are rounded to a second scratch buffer.

use std::ops::Range;

use super::Sizes;
use crate::kernels::buffer::{Storage, room};
use crate::kernels::launch::Typed::{Narrow, Wide};
use crate::kernels::launch::{Read, Written};
use crate::kernels::matmul::gemm::{Epilogue, Mat, MatMut, gemm};
use crate::kernels::matmul::rounded::Rounded;
use crate::kernels::real::Strides;
use crate::kernels::simd::LANES;
use crate::kernels::softmax::cpu as softmax;
use crate::kernels::team::{OF_AN_ELEMENT, share_rows};
use crate::kernels::{Element, Real};

/// Queries that are answered at a time: with the 64 tokens of a small image all of them, with the 784 of a large one
/// 400 KiB of probabilities.
const QUERIES: usize = 128;

/// Numbers from one row of probabilities to the next: whole groups of what softmax works on at a time.
fn padded(s: &Sizes) -> usize {
    s.tokens.next_multiple_of(LANES)
}

/// Numbers in the probabilities of the queries that are answered at a time.
fn of_queries(s: &Sizes) -> usize {
    s.queries.len().min(QUERIES) * padded(s)
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

/// Multiply-adds of the products of Q and K, and of P and V, as long as softmax between them takes; of all images.
fn work(s: &Sizes) -> usize {
    s.batch * s.heads * s.queries.len() * s.tokens * (2 * s.head_dim + OF_AN_ELEMENT)
}

/// Some queries, a few at a time: the first and how many.
fn blocks(queries: Range<usize>) -> impl Iterator<Item = (usize, usize)> {
    let Range { start, end } = queries;
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
fn probabilities<S: Element>(
    s: &Sizes,
    qkv: &[S],
    head: (usize, usize),
    (query, m): (usize, usize),
    p: &mut [S::Computed],
) {
    let (q, k) = (mat(qkv, part(s, 0, head, query)), mat(qkv, part(s, 1, head, 0)));
    let dims = [m, s.head_dim, s.tokens];
    gemm(dims, S::Computed::ONE, q, transposed(k), Epilogue::NOTHING, MatMut::new(p, padded(s)));
    softmax::forward_padded(p.as_chunks_mut().0, s.tokens, S::Computed::from_f64(s.scale()));
}

/// out ← softmax(Q Kᵀ / √d) V, shared out by answers.
pub(super) fn forward<T: Real>(s: &Sizes, qkv: Read<'_, T>, out: Written<'_, T>) {
    match (qkv, out) {
        (Wide(qkv), Wide(out)) => forward_of(s, qkv, out),
        (Narrow(qkv), Wide(out)) => forward_of(s, qkv, out),
        (Narrow(qkv), Narrow(out)) => forward_of(s, qkv, out),
        (qkv, out) => unreachable!("attention: rounded for nothing: {qkv:?} {out:?}"),
    }
}

fn forward_of<S: Rounded, C: Rounded<Computed = S::Computed>>(s: &Sizes, qkv: &[S], out: &mut [C]) {
    let asked = s.queries.len();
    share_rows(s.batch * asked, work(s), (out, &mut [(); 0]), |rows, out, _| {
        let mut rooms =
            Answers { p: room(of_queries(s)), rounded_p: S::room(of_queries(s)), out: C::room(QUERIES * s.head_dim) };
        for b in rows.start / asked.max(1)..rows.end.div_ceil(asked.max(1)) {
            // Of the first and the last image maybe not all.
            let from = rows.start.saturating_sub(b * asked);
            let to = asked.min(rows.end - b * asked);
            let queries = s.queries.start + from..s.queries.start + to;
            answers(s, qkv, b, queries, &mut rooms, (rows.start, &mut *out));
        }
    });
}

/// What is between the queries and the answers to them.
struct Answers<S: Element> {
    p: Storage<S::Computed>,
    rounded_p: Storage<S>,
    out: Storage<S::Computed>,
}

/// The answers to some queries of one image, in all heads; `first` is the row at which `out` begins.
fn answers<S: Rounded, C: Rounded<Computed = S::Computed>>(
    s: &Sizes,
    qkv: &[S],
    b: usize,
    queries: Range<usize>,
    rooms: &mut Answers<S>,
    (first, out): (usize, &mut [C]),
) {
    let (n, d, row) = (s.tokens, s.head_dim, padded(s));
    let (p, rounded_p, sums) = (rooms.p.as_mut_slice(), rooms.rounded_p.as_mut_slice(), rooms.out.as_mut_slice());
    for head in (0..s.heads).map(|head| (b, head)) {
        for (query, m) in blocks(queries.clone()) {
            let p = &mut p[..m * row];
            probabilities(s, qkv, head, (query, m), p);
            let (p, v) = (Mat::new(S::operand(p, rounded_p), row, false), mat(qkv, part(s, 2, head, 0)));
            let (offset, strides) = answer(s, head, query);
            let at = (offset - first * s.dim(), strides);
            C::gemm_to(S::gemm, [m, n, d], S::Computed::ONE, p, v, Epilogue::NOTHING, (sums, mat_mut(out, at)));
        }
    }
}

/// dqkv ← the gradient of ⟨dout, forward(qkv)⟩, shared out by images.
///
/// dV = Pᵀ dO, dP = dO Vᵀ, dS = P ⊙ (dP − ⟨P, dP⟩ per row), dQ = dS K / √d, dK = dSᵀ Q / √d. The queries that were not
/// asked for have no gradient.
pub(super) fn backward<T: Real>(s: &Sizes, qkv: Read<'_, T>, dout: Read<'_, T>, dqkv: Written<'_, T>) {
    match (qkv, dout, dqkv) {
        (Wide(qkv), Wide(dout), Wide(dqkv)) => backward_of(s, qkv, dout, dqkv),
        (Narrow(qkv), Narrow(dout), Wide(dqkv)) => backward_of(s, qkv, dout, dqkv),
        (Narrow(qkv), Narrow(dout), Narrow(dqkv)) => backward_of(s, qkv, dout, dqkv),
        (qkv, dout, dqkv) => unreachable!("attention: of mixed types: {qkv:?} {dout:?} {dqkv:?}"),
    }
}

fn backward_of<S: Rounded, C: Rounded<Computed = S::Computed>>(s: &Sizes, qkv: &[S], dout: &[S], dqkv: &mut [C]) {
    share_rows(s.batch, 3 * work(s), (dqkv, &mut [(); 0]), |images, dqkv, _| {
        let of_images = |all: usize| images.start * (all / s.batch.max(1))..images.end * (all / s.batch.max(1));
        let some = Sizes { batch: images.len(), ..s.clone() };
        backward_of_images(&some, &qkv[of_images(qkv.len())], &dout[of_images(dout.len())], dqkv);
    });
}

fn backward_of_images<S: Rounded, C: Rounded<Computed = S::Computed>>(
    s: &Sizes,
    qkv: &[S],
    dout: &[S],
    dqkv: &mut [C],
) {
    let (n, d, row) = (s.tokens, s.head_dim, padded(s));
    let (one, scale) = (S::Computed::ONE, S::Computed::from_f64(s.scale()));
    if s.queries != (0..n) {
        dqkv.fill(C::default());
    }
    let [mut p, mut ds] = [(); 2].map(|()| room::<S::Computed>(of_queries(s)));
    let mut rounded = S::room(of_queries(s));
    let [mut dq, mut dk, mut dv] = [s.queries.len().min(QUERIES), n, n].map(|rows| C::room(rows * d));
    let [dq, dk, dv] = [&mut dq, &mut dk, &mut dv].map(Storage::as_mut_slice);
    for head in (0..s.batch).flat_map(|b| (0..s.heads).map(move |head| (b, head))) {
        let [k, v] = [1, 2].map(|which| part(s, which, head, 0));
        for (query, m) in blocks(s.queries.clone()) {
            let (p, ds) = (&mut p.as_mut_slice()[..m * row], &mut ds.as_mut_slice()[..m * row]);
            let (q, dout) = (part(s, 0, head, query), mat(dout, answer(s, head, query)));
            // dK and dV are sums over blocks.
            let plus = if query == s.queries.start { Epilogue::NOTHING } else { Epilogue::OWN };
            let add = |alpha, a: Mat<'_, S>, b: Mat<'_, S>, (room, c): (&mut [S::Computed], MatMut<'_, C>)| {
                if query + m < s.queries.end {
                    gemm([n, m, d], alpha, a, b, plus, C::sums(c, d, room));
                } else {
                    C::gemm_to(S::gemm, [n, m, d], alpha, a, b, plus, (room, c));
                }
            };
            probabilities(s, qkv, head, (query, m), p);
            let p_turned = Mat::new(S::operand(p, rounded.as_mut_slice()), row, true);
            add(one, p_turned, dout, (&mut *dv, mat_mut(dqkv, v)));
            gemm([m, d, n], one, dout, transposed(mat(qkv, v)), Epilogue::NOTHING, MatMut::new(ds, row));
            softmax::backward_padded(p, ds, n);
            let ds = Mat::new(S::operand(ds, rounded.as_mut_slice()), row, false);
            let of_q = (&mut *dq, mat_mut(dqkv, q));
            C::gemm_to(S::gemm, [m, n, d], scale, ds, mat(qkv, k), Epilogue::NOTHING, of_q);
            add(scale, transposed(ds), mat(qkv, q), (&mut *dk, mat_mut(dqkv, k)));
        }
    }
}
