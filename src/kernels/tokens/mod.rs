//! What only moves elements: tokens gathered by index and scattered back, parts put together and taken out, axes swapped.

mod cpu;
mod reference;

use super::{Buffer, IndexBuffer, check_len, launch};

/// The sizes of a gathering: x is (sources, tokens, dim), the indices rows of `per_row`. Row r reads the tokens of source
/// r mod sources: one position table serves every image.
#[derive(Clone, Copy, Debug)]
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

/// Where a run begins in rows of some length.
#[derive(Clone, Copy, Debug)]
struct Run {
    row: usize,
    start: usize,
}

impl Run {
    /// For `width` elements, which must lie within a row.
    #[track_caller]
    fn new(row: usize, start: usize, width: usize) -> Self {
        let fits = start.checked_add(width).is_some_and(|end| end <= row);
        assert!(fits, "slice: {width} elements from {start} on of a row of {row}");
        Run { row, start }
    }
}

/// For each of `rows`, the runs of all parts one after the other: parts are (buffer, run length).
///
/// # Panics
/// Without any part, or when one has not `rows` runs of its length.
#[track_caller]
pub fn concat(rows: usize, parts: &[(&Buffer, usize)]) -> Buffer {
    parts.iter().for_each(|(x, width)| check_len("concat", "a part", x, rows * width));
    let (parts, widths): (Vec<&Buffer>, Vec<usize>) = parts.iter().copied().unzip();
    let Some(first) = parts.first() else { panic!("concat: nothing to concatenate") };
    let mut y = first.like(rows * widths.iter().sum::<usize>());
    launch!("concat", [parts], [y] => concat(rows, &widths, &parts, y));
    y
}

/// From each of `rows` rows of `row` elements, the `width` elements from `start` on.
#[track_caller]
pub fn slice(rows: usize, row: usize, start: usize, width: usize, x: &Buffer) -> Buffer {
    check_len("slice", "x", x, rows * row);
    let run = Run::new(row, start, width);
    let mut y = x.like(rows * width);
    launch!("slice", [x], [y] => slice(rows, run, width, x, y));
    y
}

/// The transpose of [`slice()`]: rows of zeros but for `width` elements from `start` on.
#[track_caller]
pub fn unslice(rows: usize, row: usize, start: usize, width: usize, dy: &Buffer) -> Buffer {
    check_len("slice", "dy", dy, rows * width);
    let run = Run::new(row, start, width);
    let mut dx = dy.like(rows * row);
    launch!("slice", [dy], [dx] => unslice(rows, run, width, dy, dx));
    dx
}

/// (outer, a, mid, b, inner) → (outer, b, mid, a, inner): any two axes exchanged.
#[track_caller]
pub fn swap_axes(dims: [usize; 5], x: &Buffer) -> Buffer {
    check_len("transpose", "x", x, dims.iter().product());
    let mut y = x.like(x.len());
    launch!("transpose", [x], [y] => swap_axes(dims, x, y));
    y
}
