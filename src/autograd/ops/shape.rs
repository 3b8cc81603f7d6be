//! What only moves elements: other shapes, axes exchanged, tensors put together, cut and repeated.
//!
//! The gradient of a copy is the sum over where it went. So reshaping and transposing are undone, concatenation cuts dy up,
//! a slice puts dy among zeros, repetition adds up the repeats.

use std::ops::Range;

use crate::autograd::Var;
use crate::autograd::tape::{record, record_many};
use crate::kernels::{reduce, tokens};
use crate::tensor::{Shape, Tensor};

/// x in another shape, without a copy.
#[track_caller]
pub fn reshape(x: &Var, shape: impl Into<Shape>) -> Var {
    let from = *x.shape();
    record("reshape", [x], x.value().reshape(shape), move |dy, _| [Some(dy.reshape(from))])
}

/// x with two axes exchanged.
#[track_caller]
pub fn transpose(x: &Var, a: usize, b: usize) -> Var {
    record("transpose", [x], x.value().transpose(a, b), move |dy, _| [Some(dy.transpose(a, b))])
}

/// Tokens into heads: \[B, N, h d\] → \[B, h, N, d\].
#[track_caller]
pub fn split_heads(x: &Var, heads: usize) -> Var {
    let [b, n, width] = x.dims("split_heads");
    assert!(heads > 0 && width % heads == 0, "split_heads: {heads} heads do not divide a width of {width}");
    transpose(&reshape(x, [b, n, heads, width / heads]), 1, 2)
}

/// Heads into tokens: \[B, h, N, d\] → \[B, N, h d\].
#[track_caller]
pub fn merge_heads(x: &Var) -> Var {
    let [b, heads, n, d] = x.dims("merge_heads");
    reshape(&transpose(x, 1, 2), [b, n, heads * d])
}

/// Tensors one after the other along an axis.
///
/// # Panics
/// When there are none, or they differ in another dimension.
#[track_caller]
pub fn concat(parts: &[&Var], axis: usize) -> Var {
    let values: Vec<&Tensor> = parts.iter().map(|x| x.value()).collect();
    let lengths: Vec<usize> = parts.iter().map(|x| x.shape().get(axis).copied().unwrap_or(0)).collect();
    record_many("concat", parts, Tensor::concat(&values, axis), move |dy, needed| {
        let mut end = 0;
        let part = |(len, needed): (&usize, &bool)| {
            end += len;
            needed.then(|| dy.slice(axis, end - len..end))
        };
        lengths.iter().zip(needed).map(part).collect()
    })
}

/// The part of an axis in `range`.
#[track_caller]
pub fn slice(x: &Var, axis: usize, range: Range<usize>) -> Var {
    let (n, start) = (x.shape().get(axis).copied().unwrap_or(0), range.start);
    record("slice", [x], x.value().slice(axis, range), move |dy, _| [Some(dy.unslice(axis, n, start))])
}

/// Token sequences one after the other: \[B, N₁, D\], \[B, N₂, D\], … → \[B, N₁ + N₂ + …, D\].
#[track_caller]
pub fn concat_tokens(parts: &[&Var]) -> Var {
    concat(parts, 1)
}

/// Tokens `start .. start + len` of each sequence: \[B, N, D\] → \[B, len, D\].
#[track_caller]
pub fn slice_tokens(x: &Var, start: usize, len: usize) -> Var {
    slice(x, 1, start..start + len)
}

/// The whole batch `times` times over: \[B, …\] → \[times · B, …\].
#[track_caller]
pub fn repeat_batch(x: &Var, times: usize) -> Var {
    let shape = *x.shape();
    let n = shape.elements();
    assert!(times > 0 && !shape.is_empty(), "repeat_batch: {times} times a tensor of {shape}");
    let copies = vec![(x.value().buffer(), n); times];
    let y = Tensor::from_buffer(shape.with(0, times * shape[0]), tokens::concat(1, &copies));
    record("repeat_batch", [x], y, move |dy, _| {
        [Some(Tensor::from_buffer(shape, reduce::accumulate_rows(None, n, dy.buffer())))]
    })
}
