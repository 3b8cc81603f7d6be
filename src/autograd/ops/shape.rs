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
///
/// # Panics
/// When the number of elements would change.
#[track_caller]
pub fn reshape(x: &Var, shape: impl Into<Shape>) -> Var {
    let from = *x.shape();
    record("reshape", [x], x.value().reshape(shape), move |dy, _| [Some(dy.reshape(from))])
}

/// x with two axes exchanged.
///
/// # Panics
/// When there are no such axes.
#[track_caller]
pub fn transpose(x: &Var, a: usize, b: usize) -> Var {
    record("transpose", [x], x.value().transpose(a, b), move |dy, _| [Some(dy.transpose(a, b))])
}

/// Tokens into heads: \[B, N, h d\] → \[B, h, N, d\].
///
/// # Panics
/// When `heads` does not divide the last dimension.
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
///
/// # Panics
/// When `range` is not inside it.
#[track_caller]
pub fn slice(x: &Var, axis: usize, range: Range<usize>) -> Var {
    let (n, start) = (x.shape().get(axis).copied().unwrap_or(0), range.start);
    record("slice", [x], x.value().slice(axis, range), move |dy, _| [Some(dy.unslice(axis, n, start))])
}

/// Token sequences one after the other: \[B, N₁, D\], \[B, N₂, D\], … → \[B, N₁ + N₂ + …, D\].
///
/// # Panics
/// As [`concat()`].
#[track_caller]
pub fn concat_tokens(parts: &[&Var]) -> Var {
    concat(parts, 1)
}

/// Tokens `start .. start + len` of each sequence: \[B, N, D\] → \[B, len, D\].
///
/// # Panics
/// When there are not that many tokens.
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

#[cfg(test)]
mod tests {
    use super::super::testing::*;
    use super::*;

    fn counted(shape: impl Into<Shape>) -> Var {
        Tensor::from_fn(shape, crate::DType::F64, |i| i as f64).into()
    }

    #[test]
    fn values() {
        let (x, y) = (counted([2, 3, 2]), counted([2, 1, 2]));
        let joined = concat(&[&x, &y], 1);
        same(joined.value(), [2, 4, 2], &[0., 1., 2., 3., 4., 5., 0., 1., 6., 7., 8., 9., 10., 11., 2., 3.]);
        same(slice(&joined, 1, 0..3).value(), [2, 3, 2], &x.value().to_f64_vec());
        same(slice_tokens(&joined, 3, 1).value(), [2, 1, 2], &y.value().to_f64_vec());
        same(slice(&joined, 1, 4..4).value(), [2, 0, 2], &[]);
        same(slice(&x, 2, 1..2).value(), [2, 3, 1], &[1., 3., 5., 7., 9., 11.]);
        same(concat(&[&y, &y], 2).value(), [2, 1, 4], &[0., 1., 0., 1., 2., 3., 2., 3.]);
        same(repeat_batch(&y, 2).value(), [4, 1, 2], &[0., 1., 2., 3., 0., 1., 2., 3.]);
        same(transpose(&x, 1, 0).value(), [3, 2, 2], &[0., 1., 6., 7., 2., 3., 8., 9., 4., 5., 10., 11.]);
        same(transpose(&x, 0, 2).value(), [2, 3, 2], &[0., 6., 2., 8., 4., 10., 1., 7., 3., 9., 5., 11.]);
        same(transpose(&x, 1, 1).value(), [2, 3, 2], &x.value().to_f64_vec());
        let heads = split_heads(&counted([1, 2, 4]), 2);
        same(heads.value(), [1, 2, 2, 2], &[0., 1., 4., 5., 2., 3., 6., 7.]);
        same(merge_heads(&heads).value(), [1, 2, 4], &[0., 1., 2., 3., 4., 5., 6., 7.]);
        same(reshape(&x, [3, 4]).value(), [3, 4], &x.value().to_f64_vec());
    }

    #[test]
    fn gradient() {
        let parts = [random([2, 3, 2], 1), random([2, 1, 2], 2), random([2, 2, 2], 3)];
        assert_op("concat", |x| concat_tokens(&[&x[0], &x[1], &x[2], &x[0]]), &parts);
        assert_op(
            "concat along the last",
            |x| concat(&[&x[0], &x[1]], 2),
            &[random([2, 3], 1), random([2, 3], 2)].map(|x| x.reshape([1, 2, 3])),
        );
        for axis in 0..3 {
            assert_op("slice", |x| slice(&x[0], axis, 1..2), &parts[..1]);
        }
        for (a, b) in [(0, 1), (1, 2), (2, 0), (1, 1), (0, 3)] {
            assert_op("transpose", |x| transpose(&x[0], a, b), &[random([2, 3, 4, 2], 1)]);
        }
        assert_op("repeat_batch", |x| repeat_batch(&x[0], 3), &parts[..1]);
        assert_op("reshape", |x| reshape(&x[0], [3, 4]), &parts[..1]);
        assert_op("split_heads", |x| split_heads(&x[0], 3), &[random([2, 5, 6], 1)]);
        assert_op("merge_heads", |x| merge_heads(&x[0]), &[random([2, 3, 5, 2], 1)]);
    }

    #[test]
    #[should_panic(expected = "concat: shapes [2, 3, 4] and [1, 3, 4] do not fit along axis 1")]
    fn batches_that_differ() {
        concat_tokens(&[&random([2, 3, 4], 1).into(), &random([1, 3, 4], 1).into()]);
    }

    #[test]
    #[should_panic(expected = "slice: 2..4 of axis 1 of a tensor of [2, 3, 4]")]
    fn tokens_that_are_not_there() {
        slice_tokens(&random([2, 3, 4], 1).into(), 2, 2);
    }

    #[test]
    #[should_panic(expected = "4 heads do not divide a width of 6")]
    fn heads_that_do_not_divide() {
        split_heads(&random([1, 1, 6], 1).into(), 4);
    }
}
