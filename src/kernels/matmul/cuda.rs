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
        "REAL=float TILE=128 COLS=8 STAGES=2"
        "REAL=float TILE=64 COLS=4 STAGES=4"
        "REAL=double TILE=64 COLS=4 STAGES=4"
    ],
};

/// A block's part of c, square, and how matmul.cu shares it out and walks along the reduction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Tile {
    size: usize,
    /// Columns of c of a thread, which has 8 rows.
    cols: usize,
    /// Slices in shared memory: a large tile's take longer to multiply than the next to come.
    stages: usize,
}

const LARGE: Tile = Tile { size: 128, cols: 8, stages: 2 };
const SMALL: Tile = Tile { size: 64, cols: 4, stages: 4 };

/// Of the reduction in a slice; as matmul.cu has it.
const DEPTH: usize = 16;

/// Multiprocessors of the card that products are cut for, an H100: the bits of a sum that is cut depend on the shape alone, not
/// on which card is there.
const MULTIPROCESSORS: usize = 132;

impl Tile {
    /// How many cover c.
    fn over(self, [m, n]: [usize; 2]) -> usize {
        m.div_ceil(self.size) * n.div_ceil(self.size)
    }

    /// About how long so many tiles take, with so many slices each, cut into so many parts: in units of 128 cycles of a
    /// multiprocessor, which multiplies 128 numbers in a cycle, and writes or reads 16, less if all do.
    fn time(self, tiles: usize, slices: usize, splits: usize) -> usize {
        let rounds = (tiles * splits).div_ceil(MULTIPROCESSORS);
        let slice = if self == LARGE { 16 } else { 5 }; // small tiles wait more
        let sums = self.size * self.size / (16 * 128);
        // Every block writes its sums, and the last to come learns of it and reads those of all.
        let end = 16 + sums * (2 * rounds + splits * tiles.div_ceil(MULTIPROCESSORS));
        rounds * slices.div_ceil(splits) * slice + if splits > 1 { end } else { 0 }
    }

    /// The best of these tiles for a product of this size, so many at once, and into how many parts the reduction is best
    /// cut: by the shape alone, so that the bits do not depend on the card.
    fn best(of: &[Tile], [m, k, n]: [usize; 3], batches: usize) -> (Tile, usize) {
        let (mut least, mut best) = (usize::MAX, (SMALL, 1));
        for &tile in of {
            let (tiles, slices) = (tile.over([m, n]) * batches, k.div_ceil(DEPTH));
            let most = if tiles <= COUNTERS { (slices / 4).max(1) } else { 1 };
            // As many as keep all multiprocessors busy once, twice…
            for splits in [0, 1, 2, 3, 4].map(|times| (times * MULTIPROCESSORS / tiles).clamp(1, most)) {
                let time = tile.time(tiles, slices, splits);
                if time < least {
                    (least, best) = (time, (tile, splits));
                }
            }
        }
        best
    }

    fn threads(self) -> usize {
        self.size / 8 * (self.size / self.cols)
    }

    /// Bytes of shared memory: slices of both operands, with what lies between rows.
    fn shared(self, element: usize) -> usize {
        self.stages * 2 * DEPTH * (self.size + 4) * element
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
    let tiles = if T::DTYPE == DType::F32 { &[SMALL, LARGE][..] } else { &[SMALL] };
    products_in::<T>(tiles, &folded(of), [a, b], [or_null(bias), or_null(residual)], &c);
}

/// In the best of these tiles. There is at least one number to write.
fn products_in<T: Real>(
    tiles: &[Tile],
    of: &Products,
    [a, b]: [StoredView<'_>; 2],
    plus: [Pointer; 2],
    c: &StoredView<'_>,
) {
    let Products { batch, dims, steps, transposed: [ta, tb], own } = *of;
    let [m, k, n] = dims;
    for size in dims.into_iter().chain([batch]) {
        assert!(u32::try_from(size + LARGE.size).is_ok(), "matmul: {size} is too large for a GPU");
    }
    let summed = steps[2] == 0 && batch != 1;
    let (tile, splits) = if summed { Tile::best(tiles, [m, batch * k, n], 1) } else { Tile::best(tiles, dims, batch) };
    let tiles = tile.over([m, n]) * if summed { 1 } else { batch };
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
    let Tile { size, cols, stages } = tile;
    let [ta, tb, aligned] = [ta, tb, aligned].map(u32::from);
    let definitions =
        format!("TILE={size} COLS={cols} STAGES={stages} A_TRANSPOSED={ta} B_TRANSPOSED={tb} ALIGNED={aligned}");
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::launch::Input;
    use crate::kernels::testing::{devices, numbers};

    #[test]
    fn products_are_cut_so_that_all_multiprocessors_are_busy() {
        let of = |dims: [usize; 3]| {
            let (tile, splits) = Tile::best(&[SMALL, LARGE], dims, 1);
            (tile.size, splits)
        };
        // Linear maps and their gradients in a small transformer (width 192) and in a ViT-B.
        assert_eq!(of([4096, 192, 192]), (64, 1));
        assert_eq!(of([192, 4096, 192]), (64, 14));
        assert_eq!(of([192, 4096, 768]), (64, 7));
        assert_eq!(of([4608, 768, 2304]), (128, 1));
        assert_eq!(of([768, 4608, 768]), (128, 7));
        // One sum; nothing to add up; more tiles than there are counters.
        assert_eq!(of([1, 1 << 20, 1]), (64, 132));
        assert_eq!(of([5, 0, 5]), (64, 1));
        assert_eq!(of([128 * 17, 1 << 20, 128 * 17]).1, 1);
        for tile in [LARGE, SMALL] {
            assert!(tile.shared(size_of::<f64>()) <= 99 << 10, "{tile:?} fits every card");
        }
    }

    /// Large tiles, that products too large for a test take, cut and whole, and the same bits again.
    #[test]
    fn large_tiles() {
        let Some(gpu) = devices().into_iter().find(|device| device.is_gpu()) else { return };
        for [m, k, n] in [[5, 70, 6], [132, 36, 260], [131, 600, 3], [1, 1, 129], [128, 16, 128]] {
            for (transposed, batch) in [[false, false], [true, false], [false, true], [true, true]]
                .into_iter()
                .flat_map(|transposed| [(transposed, 1), (transposed, 2)])
            {
                let input = |(seed, len): (u64, usize)| -> Buffer {
                    Buffer::from_vec(numbers(len, seed).into_iter().map(|x| x as f32).collect::<Vec<_>>())
                };
                let host = [(1, batch * m * k), (2, batch * k * n), (3, batch * m * n), (4, n), (5, m * n)].map(input);
                let there = host.each_ref().map(|x| x.to_device(gpu));
                for (summed, own, extras) in [(false, true, false), (true, true, false), (false, false, batch == 1)] {
                    let mut of = Products { own, ..Products::new(batch, [m, k, n], transposed) };
                    if summed {
                        of.steps[2] = 0;
                    }
                    let plus = extras.then_some([&host[3], &host[4]]);
                    let plus_there = extras.then_some([&there[3], &there[4]]);
                    let exact = crate::kernels::matmul::products(
                        "test",
                        &of,
                        [&host[0], &host[1]],
                        [plus.map(|x| x[0]), plus.map(|x| x[1])],
                        host[2].clone(),
                    );
                    let found = [(); 2].map(|()| {
                        let mut c = there[2].clone();
                        let ab = [&there[0], &there[1]].map(|x| StoredView::from(x.view::<f32>("test")));
                        let plus = [0, 1].map(|i| or_null(plus_there.map(|x| Input::view::<f32>(x[i], "test", gpu))));
                        let to = StoredViewMut::from(c.view_mut::<f32>("test"));
                        products_in::<f32>(&[LARGE], &of, ab, plus, &to);
                        c.to_device(Device::Cpu).as_slice::<f32>("test").to_vec()
                    });
                    let exact = exact.as_slice::<f32>("test");
                    let most = exact.iter().fold(0.0f32, |most, x| most.max(x.abs()));
                    for (i, (x, y)) in found[0].iter().zip(exact).enumerate() {
                        assert!((x - y).abs() <= 2e-6 * most, "{of:?}: number {i} is {x}, not {y}");
                    }
                    assert!(found[0] == found[1], "{of:?}: other bits the second time");
                }
            }
        }
    }
}
