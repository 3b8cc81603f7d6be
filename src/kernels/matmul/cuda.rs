pub(in crate::kernels) mod hopper;
pub(in crate::kernels) mod tensor_cores;

use super::Products;
use crate::kernels::cuda::{
    Block, COUNTERS, Grid, Launch, Pointer, Source, StoredView, StoredViewMut, View, counters, or_null,
};
use crate::kernels::{Bf16, Buffer, DType, Device, Precision, Real, meter};
use tensor_cores::{Arguments, Extras, folded};

/// What a linear map and its gradients with respect to x and to W take in each of these, and what fits the rest.
macro_rules! variants {
    ($($tile:literal)*) => {
        &[$(
            concat!($tile, " A_TRANSPOSED=0 B_TRANSPOSED=1 ALIGNED=1"),
            concat!($tile, " A_TRANSPOSED=0 B_TRANSPOSED=0 ALIGNED=1"),
            concat!($tile, " A_TRANSPOSED=1 B_TRANSPOSED=0 ALIGNED=1"),
            concat!($tile, " A_TRANSPOSED=1 B_TRANSPOSED=1 ALIGNED=0"),
        )*]
    };
}

pub(in crate::kernels) const SOURCE: Source = Source {
    name: "matmul",
    text: include_str!("matmul.cu"),
    variants: variants![
        "REAL=float TILE=128 COLS=8 DEPTH=8"
        "REAL=float TILE=64 COLS=4 DEPTH=16"
        "REAL=double TILE=64 COLS=4 DEPTH=16"
    ],
};

/// A block's part of c, square, and how matmul.cu shares it out and walks along the reduction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Tile {
    size: usize,
    /// Columns of c of a thread, which has 8 rows.
    cols: usize,
    /// Of the reduction in a slice.
    depth: usize,
}

const LARGE: Tile = Tile { size: 128, cols: 8, depth: 8 };
const SMALL: Tile = Tile { size: 64, cols: 4, depth: 16 };

/// Multiprocessors of the card that products are cut for, an H100: bits do not depend on which one is there.
const MULTIPROCESSORS: usize = 132;

/// The longest row of a matrix: a tile's numbers are counted from its first one in 32 bits.
const MOST_IN_A_ROW: usize = u32::MAX as usize / LARGE.size;

/// Slices of the reduction that a split has at least on tensor cores.
const SPLIT: usize = 16;

/// Into how many parts a reduction of so many slices is cut on tensor cores, where there are so many tiles: by the shape alone,
/// so that the bits do not depend on the card.
fn splits(tiles: usize, slices: usize) -> usize {
    (256 / tiles.max(1)).clamp(1, slices.div_ceil(SPLIT).max(1))
}

impl Tile {
    /// How many cover c.
    fn over(self, [m, n]: [usize; 2]) -> usize {
        m.div_ceil(self.size) * n.div_ceil(self.size)
    }

    /// Into how many parts it is best to cut the reduction of so many matrices, added up or not, and about how long all of
    /// it takes then, in some hundred cycles of a multiprocessor.
    fn splits(self, [m, k, n]: [usize; 3], batches: usize, summed: usize) -> (usize, usize) {
        let (tiles, slices) = (self.over([m, n]) * batches, summed * k.div_ceil(self.depth));
        // Multiplications of a slice; small tiles read more for each, and wait more.
        let slice = if self == LARGE { 8 } else { 5 };
        let time = |splits: usize| {
            // To add up a part's sums takes one multiprocessor as long as to read them; that all know of all, as long as `16`.
            let end = if splits > 1 { 16 + splits * self.size * self.size / 2048 } else { 0 };
            (tiles * splits).div_ceil(MULTIPROCESSORS) * slices.div_ceil(splits) * slice + end
        };
        let most = if tiles <= COUNTERS { (slices / 4).max(1) } else { 1 };
        // As many as keep every multiprocessor busy once, twice…
        let full = (1..=4).map(|rounds| rounds * MULTIPROCESSORS / tiles).map(|splits| splits.clamp(1, most));
        std::iter::once(1).chain(full).map(|splits| (splits, time(splits))).min_by_key(|&(_, time)| time).expect("one")
    }

    fn threads(self) -> usize {
        self.size / 8 * (self.size / self.cols)
    }

    /// Bytes of shared memory: four slices of both operands, each step of them with what lies between rows.
    fn shared(self, element: usize) -> usize {
        4 * 2 * self.depth * (self.size + 4) * element
    }
}

pub(super) fn products<T: Real>(
    of: &Products,
    a: StoredView<'_>,
    b: StoredView<'_>,
    bias: Option<View<'_, T>>,
    residual: Option<View<'_, T>>,
    c: StoredViewMut<'_>,
) {
    let Products { batch, dims: [m, k, n], steps, .. } = *of;
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
    let of = folded(of);
    let (summed, batches) = if of.steps[2] == 0 { (of.batch, 1) } else { (1, of.batch) };
    let time = |tile: &Tile| tile.splits(of.dims, batches, summed).1;
    let tiles = if T::DTYPE == DType::F32 { &[LARGE, SMALL][..] } else { &[SMALL] };
    let tile = *tiles.iter().min_by_key(|tile| time(tile)).expect("one");
    products_in::<T>(tile, &of, [a, b], [or_null(bias), or_null(residual)], &c);
}

/// In tiles of this size. There is at least one number to write.
fn products_in<T: Real>(
    tile: Tile,
    of: &Products,
    [a, b]: [StoredView<'_>; 2],
    plus: [Pointer; 2],
    c: &StoredView<'_>,
) {
    let Products { batch, dims, steps, transposed: [ta, tb], own } = *of;
    let [m, k, n] = dims;
    let rows = [if ta { m } else { k }, if tb { k } else { n }, n]; // of a, b and c, their lengths
    for size in rows {
        assert!(size <= MOST_IN_A_ROW, "matmul: a row of {size} numbers is too long for a GPU");
    }
    for size in dims.into_iter().chain([batch]) {
        assert!(u32::try_from(size + LARGE.size).is_ok(), "matmul: {size} is too large for a GPU");
    }
    let summed = steps[2] == 0 && batch != 1;
    let (batches, reductions) = if summed { (1, batch) } else { (batch, 1) };
    let tiles = tile.over([m, n]) * batches;
    let (splits, _) = tile.splits(dims, batches, reductions);
    let arguments = Arguments {
        steps: steps.map(|step| step as u64),
        dims: dims.map(|dim| dim as u32),
        batch: batch as u32,
        summed: summed.into(),
        own: own.into(),
        splits: splits as u32,
        unused: 0,
    };
    let mut partial = (splits > 1).then(|| {
        let sums = splits * tiles * tile.size * tile.size;
        Buffer::unspecified(sums, T::DTYPE, Device::Cuda(a.gpu.ordinal()))
    });
    let (partial, counters) = match &mut partial {
        Some(partial) => (partial.view_mut::<T>("matmul").pointer(), counters(a.gpu)),
        None => (Pointer(0), Pointer(0)),
    };
    let fours = |row: usize, pointer: Pointer| row.is_multiple_of(4) && pointer.0.is_multiple_of(16);
    let aligned = (!ta || fours(m, a.pointer()))
        && (tb || fours(n, b.pointer()))
        && [c.pointer(), plus[0], plus[1]].iter().all(|&pointer| fours(n, pointer));
    let Tile { size, cols, depth } = tile;
    let [ta, tb, aligned] = [ta, tb, aligned].map(u32::from);
    let definitions =
        format!("TILE={size} COLS={cols} DEPTH={depth} A_TRANSPOSED={ta} B_TRANSPOSED={tb} ALIGNED={aligned}");
    let launch = Launch {
        gpu: a.gpu,
        source: SOURCE,
        definitions: &definitions,
        kernel: "products",
        grid: Grid(Grid::over(tiles, 1).0, splits as u32, 1),
        block: Block(tile.threads() as u32, 1, 1),
        shared: tile.shared(size_of::<T>()),
    };
    let [bias, residual] = plus;
    launch.run::<T>(&[&arguments, &a.pointer(), &b.pointer(), &bias, &residual, &c.pointer(), &partial, &counters]);
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
