pub(in crate::kernels) mod hopper;
pub(in crate::kernels) mod tensor_cores;

use super::Products;
use crate::kernels::cuda::{
    BOTH_REALS, Block, Grid, Launch, Pointer, Source, StoredView, StoredViewMut, View, argument, or_null,
};
use crate::kernels::{Bf16, Buffer, DType, Device, Precision, Real, meter};
use tensor_cores::Extras;

pub(in crate::kernels) const SOURCE: Source =
    Source { name: "matmul", text: include_str!("matmul.cu"), variants: BOTH_REALS };

/// As matmul.cu has them.
const TILE: usize = 64;
const DEPTH: usize = 16;
const PITCH: usize = TILE + 4;

/// `Products` of matmul.cu.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
struct Arguments {
    dims: [u64; 3],
    batch: u64,
    steps: [u64; 3],
    a: [u64; 2],
    b: [u64; 2],
    summed: u32,
    own: u32,
    splits: u32,
    end: u32,
}
argument!(Arguments);

/// Slices of the reduction that a split has at least.
const SPLIT: usize = 16;

/// Into how many parts a reduction of so many slices is cut, where there are so many tiles: by the shape alone, so that the
/// bits do not depend on the card.
fn splits(tiles: usize, slices: usize) -> usize {
    (256 / tiles.max(1)).clamp(1, slices.div_ceil(SPLIT).max(1))
}

pub(super) fn products<T: Real>(
    of: &Products,
    a: StoredView<'_>,
    b: StoredView<'_>,
    bias: Option<View<'_, T>>,
    residual: Option<View<'_, T>>,
    c: StoredViewMut<'_>,
) {
    let Products { batch, dims: [m, k, n], steps, transposed: [ta, tb], own } = *of;
    (0..batch).for_each(|_| meter::product([m, k, n]));
    let summed = steps[2] == 0 && batch != 1;
    let batches = if summed { 1 } else { batch };
    if m * n * batches == 0 {
        return;
    }
    if T::DTYPE == DType::F32 && (a.dtype == DType::Bf16 || Precision::here() != Precision::F32) {
        let with = Extras { bias: or_null(bias), residual: or_null(residual), ..Extras::NONE };
        return tensor_cores::products::<T>(of, [a, b], with, &c);
    }
    assert!(c.dtype == T::DTYPE, "matmul: {} × {} to {}", a.dtype, b.dtype, c.dtype);
    let tiles = m.div_ceil(TILE) * n.div_ceil(TILE);
    let splits = splits(tiles * batches, k.div_ceil(DEPTH) * if summed { batch } else { 1 });
    let row_col = |transposed: bool, rows: usize, cols: usize| {
        if transposed { [1, rows as u64] } else { [cols as u64, 1] }
    };
    let arguments = Arguments {
        dims: [m, k, n].map(|dim| dim as u64),
        batch: batch as u64,
        steps: steps.map(|step| step as u64),
        a: row_col(ta, m, k),
        b: row_col(tb, k, n),
        summed: summed.into(),
        own: own.into(),
        splits: splits as u32,
        end: 0,
    };
    let mut partial =
        (splits > 1).then(|| Buffer::unspecified(splits * batches * m * n, T::DTYPE, Device::Cuda(a.gpu.ordinal())));
    let partial = partial.as_mut().map_or(Pointer(0), |partial| partial.view_mut::<T>("matmul").pointer());
    let grid = Grid(Grid::over(tiles, 1).0, splits as u32, batches.min(Grid::MOST_ALONG_Z) as u32);
    let (block, shared) = (Block(256, 1, 1), 2 * DEPTH * PITCH * size_of::<T>());
    Launch { grid, block, shared, ..Launch::over_elements(a.gpu, SOURCE, "products", 1) }.run::<T>(&[
        &arguments,
        &a.pointer(),
        &b.pointer(),
        &or_null(bias),
        &or_null(residual),
        &c.pointer(),
        &partial,
    ]);
    if splits > 1 {
        let launch = Launch::over_elements(a.gpu, SOURCE, "finish", batches * m * n);
        launch.run::<T>(&[&arguments, &or_null(bias), &or_null(residual), &partial, &c.pointer()]);
    }
}

/// In bf16: the gradient dh, and z, from the sums of dy w while they are in registers.
pub(super) fn gelu_backward(of: &Products, [dy, w, h]: [&Buffer; 3], [z, dh]: [&mut Buffer; 2]) {
    meter::product(of.dims);
    if h.is_empty() {
        return;
    }
    let [dy, w, h] = [dy, w, h].map(|x| StoredView::from(x.view::<Bf16>("linear")));
    let [z, dh] = [z, dh].map(|x| StoredViewMut::from(x.view_mut::<Bf16>("linear")));
    tensor_cores::products::<f32>(of, [dy, w], Extras { h: h.pointer(), z: z.pointer(), ..Extras::NONE }, &dh);
}
