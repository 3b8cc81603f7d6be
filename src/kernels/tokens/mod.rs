//! What only moves elements: tokens gathered by index and scattered back, parts put together and taken out, axes swapped.

mod cpu;
#[cfg(feature = "cuda")]
pub(super) mod cuda;
mod reference;

use super::elementwise::Walk;
use super::{Buffer, IndexBuffer, check_len, launch, meter};

/// The sizes of a gathering: x is (sources, tokens, dim), the indices rows of `per_row`. Row r reads the tokens of source
/// r mod sources: one position table serves every image.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
struct Gather {
    sources: usize,
    tokens: usize,
    dim: usize,
    per_row: usize,
}

impl Gather {
    /// For x of `len` elements.
    #[track_caller]
    fn new(len: usize, tokens: usize, dim: usize, indices: &IndexBuffer, per_row: usize) -> Self {
        let (one, n) = (tokens * dim, indices.len());
        assert!(len == 0 || (one > 0 && len.is_multiple_of(one)), "gather_tokens: {len} elements of {one} each");
        assert!(
            n == 0 || (per_row > 0 && n.is_multiple_of(per_row)),
            "gather_tokens: {n} indices are no rows of {per_row}"
        );
        if let Some(max) = indices.max().filter(|max| *max as usize >= tokens) {
            panic!("gather_tokens: index {max} into {tokens} tokens");
        }
        Gather { sources: (len / one.max(1)).max(1), tokens, dim, per_row }
    }
}

/// y\[r, k\] = x\[r mod sources, indices\[r, k\]\]: tokens of x, (sources, `tokens`, `dim`), by indices in rows of
/// `per_row`.
#[track_caller]
pub fn gather(x: &Buffer, tokens: usize, dim: usize, indices: &IndexBuffer, per_row: usize) -> Buffer {
    let sizes = Gather::new(x.len(), tokens, dim, indices, per_row);
    let mut y = x.like(indices.len() * dim);
    launch!("gather_tokens", [x, indices], [y] => gather(sizes, x, indices, y));
    y
}

/// The transpose of [`gather`], into a buffer of `len` elements.
#[track_caller]
pub fn scatter_add(
    dy: &Buffer,
    tokens: usize,
    dim: usize,
    indices: &IndexBuffer,
    per_row: usize,
    len: usize,
) -> Buffer {
    check_len("gather_tokens", "dy", dy, indices.len() * dim);
    let sizes = Gather::new(len, tokens, dim, indices, per_row);
    let mut dx = dy.like(len);
    launch!("gather_tokens", [dy, indices], [dx] => scatter_add(sizes, dy, indices, dx));
    dx
}

/// `width` elements from `start` on must lie within a row.
#[track_caller]
fn check_run(row: usize, start: usize, width: usize) {
    let fits = start.checked_add(width).is_some_and(|end| end <= row);
    assert!(fits, "slice: {width} elements from {start} on of a row of {row}");
}

/// For each of `rows`, the runs of all parts one after the other: parts are (buffer, run length).
///
/// # Panics
/// Without any part, or when one has not `rows` runs of its length.
#[track_caller]
pub fn concat(rows: usize, parts: &[(&Buffer, usize)]) -> Buffer {
    parts.iter().for_each(|(x, width)| check_len("concat", "a part", *x, rows * width));
    let Some((first, _)) = parts.first() else { panic!("concat: nothing to concatenate") };
    let row = parts.iter().map(|(_, width)| width).sum();
    let (mut y, mut start) = (first.like(rows * row), 0);
    let _one_operation = meter::op("concat");
    for &(x, width) in parts {
        launch!("concat", [x], [y] => copy(&Walk::runs(rows, width, width, row), [0, start], x, y));
        start += width;
    }
    y
}

/// From each of `rows` rows of `row` elements, the `width` elements from `start` on.
#[track_caller]
pub fn slice(rows: usize, row: usize, start: usize, width: usize, x: &Buffer) -> Buffer {
    check_len("slice", "x", x, rows * row);
    check_run(row, start, width);
    let mut y = x.like(rows * width);
    launch!("slice", [x], [y] => copy(&Walk::runs(rows, width, row, width), [start, 0], x, y));
    y
}

/// The transpose of [`slice()`]: rows of zeros but for `width` elements from `start` on.
#[track_caller]
pub fn unslice(rows: usize, row: usize, start: usize, width: usize, dy: &Buffer) -> Buffer {
    check_len("slice", "dy", dy, rows * width);
    check_run(row, start, width);
    let mut dx = Buffer::full(rows * row, 0.0, dy.dtype(), dy.device());
    launch!("slice", [dy], [dx] => copy(&Walk::runs(rows, width, width, row), [0, start], dy, dx));
    dx
}

/// x, of this shape, with its axes in another order: axis i of the result is axis `order[i]` of x. `op` is what it is for.
#[track_caller]
pub fn permute(op: &'static str, shape: &[usize], order: &[usize], x: &Buffer) -> Buffer {
    check_len(op, "x", x, shape.iter().product());
    let all = (0..shape.len()).all(|axis| order.contains(&axis)) && order.len() == shape.len();
    assert!(all, "{op}: {order:?} are not the axes of {shape:?}");
    let mut y = x.like(x.len());
    launch!(op, [x], [y] => copy(&Walk::permuted(shape, order), [0, 0], x, y));
    y
}
