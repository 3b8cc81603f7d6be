//! Sequences put together, cut and repeated: the predictor sees [context; masked tokens] and answers with the last
//! of them.
//!
//! All three copy elements. The gradient of a copy is the sum over where it went: concatenation splits dy, a slice
//! puts dy among zeros, repetition adds up the repeats.

use crate::autograd::Var;
use crate::autograd::tape::{record, record_many};
use crate::kernels;
use crate::tensor::{Shape, Tensor};

#[track_caller]
fn concat(parts: &[&Tensor]) -> Tensor {
    assert!(!parts.is_empty(), "concat_tokens: nothing to concatenate");
    let [batch, _, dim] = parts[0].dims("concat_tokens");
    let tokens = |x: &Tensor| {
        let [b, n, d] = x.dims("concat_tokens");
        assert!(b == batch && d == dim, "concat_tokens: shapes {} and {} do not fit", parts[0].shape(), x.shape());
        n
    };
    let runs: Vec<_> = parts.iter().map(|x| (x.buffer(), tokens(x) * dim)).collect();
    let total = runs.iter().map(|r| r.1).sum::<usize>() / dim.max(1);
    Tensor::from_buffer([batch, total, dim], kernels::concat_runs(batch, &runs))
}

#[track_caller]
fn slice(x: &Tensor, start: usize, len: usize) -> Tensor {
    let [batch, tokens, dim] = x.dims("slice_tokens");
    assert!(start + len <= tokens, "slice_tokens: tokens {start}..{} of {}", start + len, x.shape());
    let y = kernels::slice_runs(batch, tokens * dim, start * dim, len * dim, x.buffer());
    Tensor::from_buffer([batch, len, dim], y)
}

fn unslice(shape: Shape, start: usize, dy: &Tensor) -> Tensor {
    let (tokens, dim) = (shape[1], shape[2]);
    let len = dy.shape()[1];
    Tensor::from_buffer(shape, kernels::unslice_runs(shape[0], tokens * dim, start * dim, len * dim, dy.buffer()))
}

/// Token sequences one after the other: \[B, N₁, D\], \[B, N₂, D\], … → \[B, N₁ + N₂ + …, D\].
///
/// # Panics
/// When B or D differ, or there are no parts.
#[track_caller]
pub fn concat_tokens(parts: &[&Var]) -> Var {
    let values: Vec<&Tensor> = parts.iter().map(|x| x.value()).collect();
    let lengths: Vec<usize> = parts.iter().map(|x| x.shape().get(1).copied().unwrap_or(0)).collect();
    record_many("concat_tokens", parts, concat(&values), move |dy, needed| {
        let mut start = 0;
        let mut next = |len| {
            start += len;
            start - len
        };
        let starts: Vec<usize> = lengths.iter().map(|&len| next(len)).collect();
        (0..needed.len()).map(|i| needed[i].then(|| slice(&dy, starts[i], lengths[i]))).collect()
    })
}

/// Tokens `start .. start + len` of each sequence: \[B, N, D\] → \[B, len, D\].
///
/// # Panics
/// When there are not that many tokens.
#[track_caller]
pub fn slice_tokens(x: &Var, start: usize, len: usize) -> Var {
    let shape = *x.shape();
    record("slice_tokens", [x], slice(x.value(), start, len), move |dy, _| [Some(unslice(shape, start, &dy))])
}

/// The whole batch `times` times over: \[B, …\] → \[times · B, …\].
#[track_caller]
pub fn repeat_batch(x: &Var, times: usize) -> Var {
    let shape = *x.shape();
    let n = shape.elements();
    let copies = vec![(x.value().buffer(), n); times];
    assert!(times > 0 && !shape.is_empty(), "repeat_batch: {times} times a tensor of {shape}");
    let y = Tensor::from_buffer(shape.with(0, times * shape[0]), kernels::concat_runs(1, &copies));
    record("repeat_batch", [x], y, move |dy, _| {
        [Some(Tensor::from_buffer(shape, kernels::accumulate_rows(None, n, dy.buffer())))]
    })
}

#[cfg(test)]
mod tests {
    use super::super::testing::*;
    use super::*;

    #[test]
    fn values() {
        let (a, b) = (random([2, 3, 4], 1), random([2, 1, 4], 2));
        let (x, y) = (a.to_f64_vec(), b.to_f64_vec());
        let exact = [&x[..12], &y[..4], &x[12..], &y[4..]].concat();
        let joined = concat(&[&a, &b]);
        same(&joined, [2, 4, 4], &exact);
        same(&slice(&joined, 0, 3), [2, 3, 4], &x);
        same(&slice(&joined, 3, 1), [2, 1, 4], &y);
        same(&slice(&joined, 4, 0), [2, 0, 4], &[]);
        same(repeat_batch(&b.into(), 2).value(), [4, 1, 4], &[&y[..], &y].concat());
    }

    #[test]
    fn gradient() {
        let parts = [random([2, 3, 2], 1), random([2, 1, 2], 2), random([2, 2, 2], 3)];
        assert_op("concat_tokens", |x| concat_tokens(&[&x[0], &x[1], &x[2], &x[0]]), &parts);
        assert_op("slice_tokens", |x| slice_tokens(&x[0], 1, 2), &parts[..1]);
        assert_op("repeat_batch", |x| repeat_batch(&x[0], 3), &parts[..1]);
    }

    #[test]
    #[should_panic(expected = "concat_tokens: shapes [2, 3, 4] and [1, 3, 4] do not fit")]
    fn batches_that_differ() {
        concat_tokens(&[&random([2, 3, 4], 1).into(), &random([1, 3, 4], 1).into()]);
    }
}
