//! Sums: of all elements, along an axis, over rows. In f64 whatever the elements are, and rounded once (but for
//! [`accumulate_rows`], which adds to what is there): the mean of a million f32 keeps its digits.

mod cpu;
#[cfg(feature = "cuda")]
pub(super) mod cuda;
mod reference;

use super::{Buffer, DType, Device, Stored, check_len, launch, rows};

/// factor · Σ over the middle axis of x, (outer, n, inner): (outer, inner). With 1, len, 1 the sum of all elements.
#[track_caller]
pub fn sum(dims: [usize; 3], factor: f64, x: &Buffer) -> Buffer {
    let [outer, n, inner] = dims;
    check_len("sum", "x", x, outer * n * inner);
    let mut y = x.like(outer * inner);
    launch!("sum", [x], [y] => sum(dims, factor, x, y));
    y
}

/// The transpose of [`sum`]: factor · dy, (outer, inner), at each place along the middle axis.
#[track_caller]
pub fn sum_backward(dims: [usize; 3], factor: f64, dy: &Buffer) -> Buffer {
    let [outer, n, inner] = dims;
    check_len("sum", "dy", dy, outer * inner);
    let mut dx = dy.like(outer * n * inner);
    launch!("sum", [dy], [dx] => sum_backward(dims, factor, dy, dx));
    dx
}

/// √ Σ x², one element.
pub fn norm(x: &Buffer) -> Buffer {
    let mut y = x.like(1);
    launch!("l2_norm", [x], [y] => norm(x, y));
    y
}

/// x dy / √ Σ x², for one dy; 0 where the norm is 0.
#[track_caller]
pub fn norm_backward(x: &Buffer, dy: &Buffer) -> Buffer {
    check_len("l2_norm", "dy", dy, 1);
    let mut dx = x.like(x.len());
    launch!("l2_norm", [x, dy], [dx] => norm_backward(x, dy, dx));
    dx
}

/// Σ over the rows, each of `cols` elements, added to `sum` if there is one: of bf16 in f32.
#[track_caller]
pub fn accumulate_rows(sum: Option<Buffer>, cols: usize, x: &Buffer) -> Buffer {
    let mut y = sum.unwrap_or_else(|| Buffer::full(cols, 0.0, x.dtype().computed(), x.device()));
    check_len("sum_rows", "the sum", &y, cols);
    rows("sum_rows", x, cols);
    let x = Stored(x);
    launch!("sum_rows", [x], [y] => accumulate_rows(cols, x, y));
    y
}

/// What has to be a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finite {
    /// x
    Elements,
    /// x², which overflows first.
    Squares,
}

/// How many elements of all these buffers (of one type, on one device) are, or have squares that are, NaN or infinite:
/// one element, exact up to 2²⁴ in f32. 0 on the CPU for no buffers.
pub fn count_non_finite(buffers: &[(Finite, &Buffer)]) -> Buffer {
    let Some((_, first)) = buffers.first() else { return Buffer::full(1, 0.0, DType::F32, Device::Cpu) };
    let mut count = first.like(1);
    let (of, buffers): (Vec<Finite>, Vec<&Buffer>) = buffers.iter().copied().unzip();
    launch!("count_non_finite", [buffers], [count] => count_non_finite(&of, &buffers, count));
    count
}
