//! Launches of tensor_cores.cu.

use super::{Products, hopper};
use crate::kernels::cuda::{Block, Grid, Launch, Pointer, Source, StoredView, argument, counters};
use crate::kernels::{Buffer, DType, Device, Precision, Real};

/// What a linear map and its gradients with respect to x and to W take, for each of these tiles and the depth of their
/// pipeline where f32 is rounded to tf32: operands of f32, rounded; then of bf16, as they are.
macro_rules! variants {
    ($($tile:literal, $tf32:literal;)*) => {
        &[$(
            concat!($tile, " STAGES=2 A_TRANSPOSED=0 B_TRANSPOSED=1 BF16=1 ALIGNED=1 GELU=0 C=float"),
            concat!($tile, " STAGES=2 A_TRANSPOSED=0 B_TRANSPOSED=0 BF16=1 ALIGNED=1 GELU=0 C=float"),
            concat!($tile, " STAGES=2 A_TRANSPOSED=1 B_TRANSPOSED=0 BF16=1 ALIGNED=1 GELU=0 C=float"),
            concat!($tile, $tf32, " A_TRANSPOSED=0 B_TRANSPOSED=1 BF16=0 ALIGNED=1 GELU=0 C=float"),
            concat!($tile, $tf32, " A_TRANSPOSED=0 B_TRANSPOSED=0 BF16=0 ALIGNED=1 GELU=0 C=float"),
            concat!($tile, $tf32, " A_TRANSPOSED=1 B_TRANSPOSED=0 BF16=0 ALIGNED=1 GELU=0 C=float"),
            concat!($tile, " STAGES=4 A_TRANSPOSED=0 B_TRANSPOSED=1 BF16=1 ALIGNED=1 GELU=0 C=float STORED=u16"),
            concat!($tile, " STAGES=4 A_TRANSPOSED=0 B_TRANSPOSED=1 BF16=1 ALIGNED=1 GELU=0 C=u16 STORED=u16"),
            concat!($tile, " STAGES=4 A_TRANSPOSED=0 B_TRANSPOSED=0 BF16=1 ALIGNED=1 GELU=0 C=float STORED=u16"),
            concat!($tile, " STAGES=4 A_TRANSPOSED=0 B_TRANSPOSED=0 BF16=1 ALIGNED=1 GELU=0 C=u16 STORED=u16"),
            concat!($tile, " STAGES=4 A_TRANSPOSED=0 B_TRANSPOSED=0 BF16=1 ALIGNED=1 GELU=1 C=u16 STORED=u16"),
            concat!($tile, " STAGES=4 A_TRANSPOSED=1 B_TRANSPOSED=0 BF16=1 ALIGNED=1 GELU=0 C=float STORED=u16"),
        )*]
    };
}

pub(in crate::kernels) const SOURCE: Source = Source {
    name: "matmul on tensor cores",
    text: include_str!("../tensor_cores.cu"),
    variants: variants![
        "REAL=float TILE_M=64 TILE_N=64 WARPS_M=2 WARPS_N=2", " STAGES=4";
        "REAL=float TILE_M=128 TILE_N=128 WARPS_M=2 WARPS_N=4", " STAGES=2";
    ],
};

/// Of the reduction in a slice; as tensor_cores.cu has it.
const DEPTH: usize = 32;

/// Slices that a split has at least.
const SPLIT: usize = 16;

/// Into how many parts a reduction of so many slices is cut, where there are so many tiles: by the shape alone, so that the
/// bits do not depend on the card.
fn splits(tiles: usize, slices: usize) -> usize {
    (256 / tiles.max(1)).clamp(1, slices.div_ceil(SPLIT).max(1))
}

/// `Products` of tensor_cores.cu and matmul.cu.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(super) struct Arguments {
    pub(super) steps: [u64; 3],
    pub(super) dims: [u32; 3],
    pub(super) batch: u32,
    pub(super) summed: u32,
    pub(super) own: u32,
    pub(super) splits: u32,
    pub(super) unused: u32,
}
argument!(Arguments);

/// A block's part of c, and the warps that share it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Tile {
    size: [usize; 2],
    warps: [usize; 2],
}

const SMALL: Tile = Tile { size: [64, 64], warps: [2, 2] };
const LARGE: Tile = Tile { size: [128, 128], warps: [2, 4] };

/// Large tiles, that large products fill a GPU with and that read less of a and b for each of c.
const FILLS: usize = 128;

impl Tile {
    /// That of a product of this size, so many at once: by the shape alone.
    fn of([m, k, n]: [usize; 3], batches: usize) -> Tile {
        let tiles = LARGE.over([m, n]) * batches;
        let [rows, cols] = LARGE.size;
        let little_is_empty = tiles * rows * cols <= batches * m * n * 5 / 4;
        let many = tiles >= FILLS && k >= 192 || tiles >= FILLS / 4 && k >= 4096; // a long reduction is cut
        if little_is_empty && many { LARGE } else { SMALL }
    }

    /// How many cover c.
    fn over(self, c: [usize; 2]) -> usize {
        c[0].div_ceil(self.size[0]) * c[1].div_ceil(self.size[1])
    }

    fn threads(self) -> u32 {
        (32 * self.warps[0] * self.warps[1]) as u32
    }

    /// Bytes of shared memory of a slice: each operand in rows along the reduction or across it, with what lies between
    /// rows.
    fn slice(self, bf16: bool, along_depth: [bool; 2]) -> usize {
        let (element, chunk) = if bf16 { (2, 8) } else { (4, 4) };
        let bytes = |lines: usize, along_depth: bool| {
            element * if along_depth { lines * (DEPTH + chunk) } else { DEPTH * (lines + 8) }
        };
        bytes(self.size[0], along_depth[0]) + bytes(self.size[1], along_depth[1])
    }
}

/// The most slices that are in shared memory at once: what is rounded to bf16 on the way is held in registers before, all
/// else is copied behind the threads' backs. At least two blocks shall fit a multiprocessor, which has little more than a
/// block may have.
fn stages(held: bool, slice: usize, shared: usize) -> usize {
    if held { 2 } else { (shared / 2 / slice).clamp(2, 4) }
}

/// The same products as fewer and larger ones, where matrices of the batch lie below each other so that they are one.
pub(super) fn folded(of: &Products) -> Products {
    let Products { batch, dims: [m, k, n], steps, transposed, .. } = *of;
    let alone = |dims| Products { batch: 1, dims, ..*of };
    match (steps, transposed) {
        // Rows of a, one b.
        ([_, 0, c], [false, _]) if steps[0] != 0 && c != 0 => alone([batch * m, k, n]),
        // A sum over the rows of both.
        ([_, _, 0], [true, false]) if steps[0] != 0 && steps[1] != 0 => alone([m, batch * k, n]),
        _ => *of,
    }
}

/// `Extras` of tensor_cores.cu.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(super) struct Extras {
    pub(super) bias: Pointer,
    pub(super) residual: Pointer,
    pub(super) h: Pointer,
    pub(super) z: Pointer,
}
argument!(Extras);

impl Extras {
    pub(super) const NONE: Extras = Extras { bias: Pointer(0), residual: Pointer(0), h: Pointer(0), z: Pointer(0) };
}

/// Of bf16 matrices, or of f32 in this thread's precision. There is at least one number to write.
pub(super) fn products<T: Real>(of: &Products, ab: [StoredView<'_>; 2], with: Extras, c: &StoredView<'_>) {
    let of = folded(of);
    if let Some(plan) = hopper::plan(&of, ab, with, c) {
        return hopper::products(plan, &of, ab, with, c);
    }
    let (batch, [m, k, n]) = (of.batch, of.dims);
    let tile = if of.steps[2] == 0 { Tile::of([m, batch * k, n], 1) } else { Tile::of([m, k, n], batch) };
    products_in::<T>(tile, &of, ab, with, c);
}

fn products_in<T: Real>(tile: Tile, of: &Products, [a, b]: [StoredView<'_>; 2], with: Extras, c: &StoredView<'_>) {
    let Products { batch, dims, steps, transposed, own } = *of;
    let [narrow, narrow_c] = [a.dtype, c.dtype].map(|dtype| dtype == DType::Bf16);
    assert!(a.dtype == b.dtype && !(own && narrow_c), "matmul: {} × {} to {}", a.dtype, b.dtype, c.dtype);
    let [m, k, n] = dims;
    for size in dims.into_iter().chain([batch]) {
        assert!(u32::try_from(size + LARGE.size[0]).is_ok(), "matmul: {size} is too large for tensor cores");
    }
    let summed = steps[2] == 0 && batch != 1;
    let (batches, reductions) = if summed { (1, batch) } else { (batch, 1) };
    let (bf16, along_depth) = (narrow || Precision::here() == Precision::Bf16, [!transposed[0], transposed[1]]);
    let tiles = tile.over([m, n]);
    let splits = splits(tiles * batches, reductions * k.div_ceil(DEPTH));
    let slice = tile.slice(bf16, along_depth);
    let stages = stages(bf16 && !narrow, slice, a.gpu.shared as usize);
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
        let sums = splits * batches * tiles * tile.size[0] * tile.size[1];
        Buffer::unspecified(sums, DType::F32, Device::Cuda(a.gpu.ordinal()))
    });
    let (partial, counters) = match &mut partial {
        Some(partial) => (partial.view_mut::<f32>("matmul").pointer(), counters(a.gpu)),
        None => (Pointer(0), Pointer(0)),
    };
    let [row_of_a, row_of_b] = [if transposed[0] { m } else { k }, if transposed[1] { k } else { n }];
    let (f32s, bf16s) = (with.bias.0 | with.residual.0, with.h.0 | with.z.0);
    let aligned = (a.pointer().0 | b.pointer().0).is_multiple_of(16)
        && (row_of_a | row_of_b).is_multiple_of(16 / a.dtype.size())
        && (f32s.is_multiple_of(8) && bf16s.is_multiple_of(4) && c.pointer().0.is_multiple_of(8))
        && n.is_multiple_of(2);
    let ([rows, cols], [down, across]) = (tile.size, tile.warps);
    let gelu = with.h != Pointer(0);
    let [ta, tb, bf16, aligned, gelu] = [transposed[0], transposed[1], bf16, aligned, gelu].map(u32::from);
    let definitions = format!(
        "TILE_M={rows} TILE_N={cols} WARPS_M={down} WARPS_N={across} STAGES={stages} A_TRANSPOSED={ta} \
         B_TRANSPOSED={tb} BF16={bf16} ALIGNED={aligned} GELU={gelu} C={} {}",
        if narrow_c { "u16" } else { "float" },
        a.stored()
    );
    let launch = Launch {
        gpu: a.gpu,
        source: SOURCE,
        definitions: &definitions,
        kernel: "products",
        grid: Grid(Grid::over(batches * tiles, 1).0, splits as u32, 1),
        block: Block(tile.threads(), 1, 1),
        shared: stages * slice,
    };
    let (a, b, c) = (a.pointer(), b.pointer(), c.pointer());
    launch.run::<T>(&[&arguments, &a, &b, &with, &c, &partial, &counters]);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::cuda::COUNTERS;
    use crate::kernels::launch::Input;
    use crate::kernels::oracle_rounded::agree;
    use crate::kernels::{Stored, StoredMut};

    const ALL: [[bool; 2]; 4] = [[false, false], [true, false], [false, true], [true, true]];

    #[test]
    fn large_products_take_large_tiles_and_long_ones_are_cut() {
        let of = |dims: [usize; 3]| {
            let tile = Tile::of(dims, 1);
            (tile.size, splits(tile.over([dims[0], dims[2]]), dims[1].div_ceil(DEPTH)))
        };
        // Linear maps and their gradients in a small transformer (width 192) and in a ViT-B.
        assert_eq!(of([4096, 192, 192]), ([64, 64], 1));
        assert_eq!(of([192, 4096, 192]), ([64, 64], 8));
        assert_eq!(of([4096, 192, 768]), ([128, 128], 1));
        assert_eq!(of([12_288, 96, 384]), ([64, 64], 1));
        assert_eq!(of([4608, 768, 2304]), ([128, 128], 1));
        assert_eq!(of([768, 4608, 768]), ([128, 128], 7));
        assert_eq!(of([1, 1 << 20, 1]), ([64, 64], 256));
    }

    #[test]
    fn two_slices_fit_every_card_and_counters_suffice() {
        for (tile, along) in [SMALL, LARGE].into_iter().flat_map(|tile| ALL.map(|along| (tile, along))) {
            for (bf16, shared) in [true, false].into_iter().flat_map(|bf16| [99, 163, 227].map(|kib| (bf16, kib << 10)))
            {
                let slice = tile.slice(bf16, along);
                for held in [bf16, false] {
                    assert!(stages(held, slice, shared) * slice <= shared, "{tile:?} {along:?}");
                }
            }
        }
        assert_eq!(SMALL.slice(true, [true, false]), 2 * (64 * 40 + 32 * 72));
        assert_eq!(LARGE.slice(false, [true, false]), 4 * (128 * 36 + 32 * 136));
        assert!((1..1000).all(|tiles| splits(tiles, 1 << 20) == 1 || tiles <= COUNTERS));
    }

    #[test]
    fn matrices_below_each_other_are_one() {
        let of = Products::new(5, [2, 3, 4], [false, true]);
        let one_b = Products { steps: [6, 0, 8], ..of };
        assert_eq!((folded(&one_b).batch, folded(&one_b).dims), (1, [10, 3, 4]));
        let sum = Products { steps: [6, 12, 0], transposed: [true, false], ..of };
        assert_eq!((folded(&sum).batch, folded(&sum).dims), (1, [2, 15, 4]));
        for other in [of, Products { transposed: [true, true], ..one_b }, Products { transposed: [true, true], ..sum }]
        {
            assert_eq!((folded(&other).batch, folded(&other).dims), (5, [2, 3, 4]));
        }
    }

    /// The tiles that products too large for a test take.
    #[test]
    fn large_tiles() {
        for ([m, k, n], t) in [[5, 70, 6], [132, 36, 260], [131, 600, 3]].into_iter().flat_map(|d| ALL.map(|t| (d, t)))
        {
            for batch in [1, 2] {
                let of = Products { own: true, ..Products::new(batch, [m, k, n], t) };
                let name = format!("{batch} × [{m}, {k}] × [{k}, {n}], transposed {t:?}");
                agree(&name, [2e-6; 2], &[batch * m * k, batch * k * n, batch * m * n], 2, |x| {
                    let mut c = x[2].clone();
                    if let Device::Cuda(_) = c.device() {
                        let stored = [0, 1].map(|i| Stored(&x[i]));
                        let ab = stored.each_ref().map(|x| x.view::<f32>("test", x.0.device()));
                        products_in::<f32>(LARGE, &of, ab, Extras::NONE, &StoredMut(&mut c).view_mut::<f32>("test"));
                        return vec![c];
                    }
                    vec![crate::kernels::matmul::products("test", &of, [&x[0], &x[1]], [None; 2], c)]
                });
            }
        }
    }
}
