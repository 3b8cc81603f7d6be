//! Launches of hopper.cu: whether, with which tiles, cut into how many splits.

use cudarc::driver::sys::{
    self, CUtensorMap, CUtensorMapDataType, CUtensorMapFloatOOBfill, CUtensorMapInterleave, CUtensorMapL2promotion,
    CUtensorMapSwizzle,
};

use super::tensor_cores::Extras;
use super::{MULTIPROCESSORS, Products};
use crate::kernels::cuda::{Block, COUNTERS, Grid, Launch, Pointer, Source, StoredView, argument, counters, must};
use crate::kernels::{Buffer, DType, Device};

/// What a linear map and its gradients take, with each of the tiles.
macro_rules! variants {
    ($($tile:literal)*) => {
        &[$(
            concat!("REAL=float ", $tile, " A_TRANSPOSED=0 B_TRANSPOSED=1 GELU=0 C=float"),
            concat!("REAL=float ", $tile, " A_TRANSPOSED=0 B_TRANSPOSED=1 GELU=0 C=u16"),
            concat!("REAL=float ", $tile, " A_TRANSPOSED=0 B_TRANSPOSED=0 GELU=0 C=float"),
            concat!("REAL=float ", $tile, " A_TRANSPOSED=0 B_TRANSPOSED=0 GELU=0 C=u16"),
            concat!("REAL=float ", $tile, " A_TRANSPOSED=0 B_TRANSPOSED=0 GELU=1 C=u16"),
            concat!("REAL=float ", $tile, " A_TRANSPOSED=1 B_TRANSPOSED=0 GELU=0 C=float"),
        )*]
    };
}

pub(in crate::kernels) const SOURCE: Source = Source {
    name: "matmul on Hopper",
    text: include_str!("../hopper.cu"),
    variants: variants!["TILE_N=128 STAGES=6" "TILE_N=192 STAGES=5" "TILE_N=256 STAGES=4"],
};

/// Rows of a tile, and of the reduction in a slice; as hopper.cu has them.
const ROWS: usize = 128;
const DEPTH: usize = 64;
/// Warps that multiply.
const WARPS: usize = 8;

/// A block's part of c: so many columns of `ROWS` rows.
#[derive(Clone, Copy, Debug)]
struct Tile {
    columns: usize,
    /// Slices that are in shared memory at once.
    stages: usize,
    /// How fast it multiplies, beside the fastest: wider tiles read less of a for each product.
    speed: f64,
}

const TILES: [Tile; 3] = [
    Tile { columns: 128, stages: 6, speed: 0.8 },
    Tile { columns: 192, stages: 5, speed: 0.95 },
    Tile { columns: 256, stages: 4, speed: 1.0 },
];

/// How a product is computed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plan {
    tile: Tile,
    splits: usize,
}

impl Tile {
    /// How many cover c.
    fn over(self, [m, n]: [usize; 2]) -> usize {
        m.div_ceil(ROWS) * n.div_ceil(self.columns)
    }

    /// Bytes of shared memory: stages, what the sums are written by way of, barriers.
    fn shared(self) -> usize {
        self.stages * (ROWS + self.columns) * DEPTH * 2 + WARPS * 16 * 32 * 4 + 8 + 16 * self.stages
    }
}

impl Plan {
    /// The best for a product of this size: by the shape alone.
    fn of([m, k, n]: [usize; 3]) -> Plan {
        let slices = k.div_ceil(DEPTH);
        let mut plans = Vec::new();
        for tile in TILES {
            let tiles = tile.over([m, n]);
            let cuts = if tiles <= COUNTERS { (slices / 8).clamp(1, 8) } else { 1 };
            plans.extend((1..=cuts).map(|splits| Plan { tile, splits }));
        }
        let cost = |plan: &Plan| {
            let Plan { tile, splits } = *plan;
            // In the time of a slice of a column: all that a multiprocessor does, one unit after the other. To write a tile
            // takes as long as some slices; a split writes its sums, and the last one reads all.
            let units = (tile.over([m, n]) * splits).div_ceil(MULTIPROCESSORS) as f64;
            let end = if splits > 1 { 7.0 + 3.0 * splits as f64 } else { 3.0 };
            units * tile.columns as f64 * (slices.div_ceil(splits) as f64 / tile.speed + end)
        };
        plans.into_iter().min_by(|a, b| cost(a).total_cmp(&cost(b))).expect("there are tiles")
    }
}

/// Products that are worth it: smaller ones do not fill the card with these tiles.
const WORTH: usize = 1 << 28;

/// How this kernel computes such a product, if it is one for it; tensor_cores.cu takes all others.
pub(super) fn plan(of: &Products, [a, b]: [StoredView<'_>; 2], with: Extras, c: &StoredView<'_>) -> Option<Plan> {
    let worth = of.batch * of.dims.iter().product::<usize>() >= WORTH;
    (a.gpu.capability == 90 && worth && fits(of, [a, b], with, c)).then(|| Plan::of(of.dims))
}

/// Whether the kernel can compute it.
fn fits(of: &Products, [a, b]: [StoredView<'_>; 2], with: Extras, c: &StoredView<'_>) -> bool {
    let Products { batch, dims: [m, k, n], transposed, .. } = *of;
    let rows = [if transposed[0] { m } else { k }, if transposed[1] { k } else { n }, n];
    let pointers = a.pointer().0 | b.pointer().0 | c.pointer().0;
    let extras = with.bias.0 | with.residual.0 | with.h.0 | with.z.0;
    (batch == 1 && a.dtype == DType::Bf16 && b.dtype == DType::Bf16)
        && (pointers | extras).is_multiple_of(16)
        && rows.iter().all(|row| row.is_multiple_of(8))
        && [m, k, n].iter().all(|&size| (1..1 << 30).contains(&size))
}

/// `Products` of hopper.cu.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
struct Arguments {
    dims: [u32; 3],
    own: u32,
    splits: u32,
    unused: u32,
}
argument!(Arguments);

/// `TensorMap` of primitives.cuh.
#[repr(transparent)]
#[derive(Clone, Copy, Debug)]
struct TensorMap(CUtensorMap);
argument!(TensorMap);

impl TensorMap {
    /// Of a bf16 matrix with so many rows and columns, in boxes of 64 columns and so many rows.
    fn new(at: Pointer, [rows, columns]: [usize; 2], box_rows: usize) -> Self {
        let mut map = CUtensorMap { opaque: [0; 16] };
        // SAFETY: the driver reads two numbers (of the steps one) through each pointer and writes the map; the matrix is only
        // described.
        must("describe a matrix", unsafe {
            sys::cuTensorMapEncodeTiled(
                &mut map,
                CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_BFLOAT16,
                2,
                at.0 as *mut _,
                [columns as u64, rows as u64].as_ptr(),
                [2 * columns as u64].as_ptr(),
                [64, box_rows as u32].as_ptr(),
                [1, 1].as_ptr(),
                CUtensorMapInterleave::CU_TENSOR_MAP_INTERLEAVE_NONE,
                CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_128B,
                CUtensorMapL2promotion::CU_TENSOR_MAP_L2_PROMOTION_L2_128B,
                CUtensorMapFloatOOBfill::CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE,
            )
        });
        TensorMap(map)
    }
}

/// One product of bf16 matrices that [`fits`].
pub(super) fn products(plan: Plan, of: &Products, [a, b]: [StoredView<'_>; 2], with: Extras, c: &StoredView<'_>) {
    let (Products { dims: [m, k, n], transposed: [ta, tb], own, .. }, Plan { tile, splits }) = (*of, plan);
    let narrow_c = c.dtype == DType::Bf16;
    assert!(!(own && narrow_c), "matmul: {} × {} to {}", a.dtype, b.dtype, c.dtype);
    let tiles = tile.over([m, n]);
    let mut partial = (splits > 1).then(|| {
        let sums = splits * tiles * ROWS * tile.columns;
        Buffer::unspecified(sums, DType::F32, Device::Cuda(a.gpu.ordinal()))
    });
    let (partial, counters) = match &mut partial {
        Some(partial) => (partial.view_mut::<f32>("matmul").pointer(), counters(a.gpu)),
        None => (Pointer(0), Pointer(0)),
    };
    // A box has 64 columns: of the reduction, then it has a tile's lines for rows; or lines, then its rows are of the
    // reduction.
    let of_a = if ta { TensorMap::new(a.pointer(), [k, m], DEPTH) } else { TensorMap::new(a.pointer(), [m, k], ROWS) };
    let of_b =
        if tb { TensorMap::new(b.pointer(), [n, k], tile.columns) } else { TensorMap::new(b.pointer(), [k, n], DEPTH) };
    let arguments =
        Arguments { dims: [m, k, n].map(|dim| dim as u32), own: own.into(), splits: splits as u32, unused: 0 };
    let Tile { columns, stages, .. } = tile;
    let [ta, tb, gelu] = [ta, tb, with.h != Pointer(0)].map(u32::from);
    let definitions = format!(
        "TILE_N={columns} STAGES={stages} A_TRANSPOSED={ta} B_TRANSPOSED={tb} GELU={gelu} C={}",
        if narrow_c { "u16" } else { "float" },
    );
    let launch = Launch {
        gpu: a.gpu,
        source: SOURCE,
        definitions: &definitions,
        kernel: "products",
        grid: Grid::over((tiles * splits).min(a.gpu.multiprocessors as usize), 1),
        block: Block(32 * (WARPS as u32 + 4), 1, 1),
        shared: tile.shared(),
    };
    launch.run::<f32>(&[&of_a, &of_b, &arguments, &with, &c.pointer(), &partial, &counters]);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::oracle_rounded::agree_in;
    use crate::kernels::{Bf16, Precision, StoredMut};

    const LAYOUTS: [[bool; 2]; 4] = [[false, true], [false, false], [true, false], [true, true]];

    /// On a card that has it, the product by this kernel with each tile and so many splits is that of the definition.
    #[track_caller]
    fn agrees([m, k, n]: [usize; 3], t: [bool; 2], splits: usize) {
        for tile in TILES {
            let name = format!("[{m}, {k}] × [{k}, {n}], transposed {t:?}, {} columns, {splits} splits", tile.columns);
            // What is added: nothing; a bias; a residual; both; what was there.
            for (bias, residual, own) in [
                (false, false, false),
                (true, false, false),
                (false, true, false),
                (true, true, false),
                (false, false, true),
            ] {
                let of = Products { own, ..Products::new(1, [m, k, n], t) };
                for narrow_c in [false, true].into_iter().take(if own { 1 } else { 2 }) {
                    let lengths = [m * k, k * n, n, m * n, m * n];
                    agree_in((Precision::Bf16, true), 2e-6, &name, &lengths, 2, &|x| {
                        let [bias, residual] = [(bias, 2), (residual, 3)].map(|(with, i)| with.then_some(&x[i]));
                        let c = if own { x[4].clone() } else { x[0].wide(m * n) };
                        let Some(gpu) = hopper(&x[0]) else {
                            return vec![crate::kernels::matmul::products(
                                "test",
                                &of,
                                [&x[0], &x[1]],
                                [bias, residual],
                                c,
                            )];
                        };
                        let mut c = if narrow_c { Buffer::unspecified(m * n, DType::Bf16, gpu) } else { c };
                        let [bias, residual] =
                            [bias, residual].map(|x| x.map_or(Pointer(0), |x| x.view::<f32>("test").pointer()));
                        run(
                            Plan { tile, splits },
                            &of,
                            [&x[0], &x[1]],
                            Extras { bias, residual, ..Extras::NONE },
                            &mut c,
                        );
                        vec![c]
                    });
                }
            }
        }
    }

    /// The GPU of a buffer, if it is one that this kernel is for.
    fn hopper(x: &Buffer) -> Option<Device> {
        let Device::Cuda(ordinal) = x.device() else { return None };
        (crate::kernels::cuda::Gpu::get(ordinal).capability == 90).then(|| x.device())
    }

    fn run(plan: Plan, of: &Products, ab: [&Buffer; 2], with: Extras, c: &mut Buffer) {
        let [a, b] = ab.map(|x| StoredView::from(x.view::<Bf16>("test")));
        let mut c = StoredMut(c);
        let c = c.view_mut::<f32>("test");
        assert!(fits(of, [a, b], with, &c));
        products(plan, of, [a, b], with, &c);
    }

    #[test]
    fn awkward_sizes() {
        // One, primes where rows need not be aligned, one past a tile, a last slice of few.
        for t in LAYOUTS {
            agrees([8, 8, 8], t, 1);
            agrees([136, 72, 264], t, 1);
        }
        agrees([1, 8, 8], [false, true], 1);
        agrees([131, 64, 200], [false, true], 1);
        agrees([257, 200, 392], [false, false], 1);
        agrees([8, 67, 8], [true, false], 1);
    }

    #[test]
    fn sums_that_are_cut() {
        // As many splits as slices, more, and some that do not divide them; more units than there are multiprocessors.
        agrees([8, 520, 8], [false, true], 9);
        agrees([136, 331, 264], [true, false], 4);
        agrees([264, 72, 200], [false, false], 5);
    }

    #[test]
    fn gelu_backward() {
        for [m, k, n] in [[1, 8, 8], [131, 72, 264]] {
            for (tile, splits) in TILES.into_iter().flat_map(|tile| [(tile, 1), (tile, 2)]) {
                let name = format!("[{m}, {k}] × [{k}, {n}], {} columns, {splits} splits", tile.columns);
                agree_in((Precision::Bf16, true), 2e-6, &name, &[m * k, k * n, m * n], 3, &|x| {
                    let Some(gpu) = hopper(&x[0]) else {
                        let (z, dh) = crate::kernels::matmul::gelu_backward([m, n, k], &x[0], &x[1], &x[2]);
                        return vec![z, dh];
                    };
                    let [mut z, mut dh] = [0, 1].map(|_| Buffer::unspecified(m * n, DType::Bf16, gpu));
                    let h = x[2].view::<Bf16>("test").pointer();
                    let with = Extras { h, z: z.view_mut::<Bf16>("test").pointer(), ..Extras::NONE };
                    run(Plan { tile, splits }, &Products::new(1, [m, k, n], [false; 2]), [&x[0], &x[1]], with, &mut dh);
                    vec![z, dh]
                });
            }
        }
    }

    #[test]
    fn plans_are_by_the_shape() {
        let of = |dims| (Plan::of(dims).tile.columns, Plan::of(dims).splits);
        // Linear maps and their gradients in a ViT-B.
        assert_eq!(of([12_544, 768, 3072]), (256, 1));
        assert_eq!(of([4608, 768, 3072]), (192, 1));
        assert_eq!(of([4608, 768, 2304]), (128, 1));
        assert_eq!(of([768, 4608, 768]), (128, 3));
        for tile in TILES {
            assert!(tile.shared() <= 227 << 10);
        }
        for dims in [[128, 1 << 20, 128], [1 << 20, 128, 128], [3072, 1 << 16, 3072]] {
            let Plan { tile, splits } = Plan::of(dims);
            assert!(splits == 1 || tile.over([dims[0], dims[2]]) <= COUNTERS);
        }
    }

    #[test]
    fn large_products_lead_here() {
        for (dims @ [m, k, n], here) in [([528, 1000, 536], true), ([512, 1000, 512], false)] {
            agree_in((Precision::Bf16, true), 4e-6, "large", &[m * k, n * k], 2, &|x| {
                if hopper(&x[0]).is_some() {
                    let [a, b] = [0, 1].map(|i| StoredView::from(x[i].view::<Bf16>("test")));
                    let of = Products::new(1, dims, [false, true]);
                    assert_eq!(plan(&of, [a, b], Extras::NONE, &a).is_some(), here);
                }
                vec![crate::kernels::matmul::linear(dims, &x[0], &x[1], None, None)]
            });
        }
    }
}
