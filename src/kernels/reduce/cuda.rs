use super::Finite;
use crate::kernels::cuda::{
    Block, COUNTERS, Grid, Launch, Pointer, REALS_AND_STORED, Source, StoredView, View, ViewMut, argument, counters,
};
use crate::kernels::{Buffer, DType, Device, Real};

pub(in crate::kernels) const SOURCE: Source =
    Source { name: "reduce", text: include_str!("reduce.cu"), variants: REALS_AND_STORED };

/// `Sizes` of reduce.cu.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
struct Sizes {
    dims: [u64; 3],
    parts: u32,
    what: u32,
    becomes: u32,
    adds: u32,
    factor: f64,
}
argument!(Sizes);

/// What is added up, and what becomes of the sum, as reduce.cu numbers them.
#[derive(Clone, Copy, Debug)]
pub(in crate::kernels) struct What {
    /// x² in the place of x.
    pub squares: bool,
    /// The root of the sum.
    pub root: bool,
    /// Whether it is added to what is there.
    pub adds: bool,
    /// What it is multiplied with.
    pub factor: f64,
}

/// Blocks above which more parts help nobody.
const ENOUGH_BLOCKS: usize = 1024;
const _: () = assert!(ENOUGH_BLOCKS <= COUNTERS, "blocks that share a part have a counter");

/// Into how many parts, of at least so many elements, an axis of n is cut for so many blocks: by the shape alone.
fn parts(blocks: usize, n: usize, least: usize) -> usize {
    (ENOUGH_BLOCKS / blocks.max(1)).clamp(1, n.div_ceil(least).max(1))
}

fn sum_of<T: Real>(of: What, [outer, n, inner]: [usize; 3], x: StoredView<'_>, y: ViewMut<'_, T>) {
    if outer * inner == 0 {
        return;
    }
    let rows = inner == 1;
    let blocks = if rows { outer } else { outer * inner.div_ceil(32) };
    let parts = parts(blocks, n, if rows { 1024 } else { 64 });
    let sizes = Sizes {
        dims: [outer as u64, n as u64, inner as u64],
        parts: parts as u32,
        what: of.squares.into(),
        becomes: of.root.into(),
        adds: of.adds.into(),
        factor: of.factor,
    };
    let mut partial =
        (parts > 1).then(|| Buffer::unspecified(parts * outer * inner, DType::F64, Device::Cuda(x.gpu.ordinal())));
    let partial_at = partial.as_mut().map_or(Pointer(0), |partial| partial.view_mut::<f64>("sum").pointer());
    let (kernel, block, shared) = if rows {
        ("sum_rows", Block(256, 1, 1), (32 + 1) * size_of::<f64>())
    } else {
        ("sum_columns", Block(32, 8, 1), (8 * 32 + 1) * size_of::<f64>())
    };
    let grid = Grid(Grid::over(blocks, 1).0, parts as u32, 1);
    let definitions = x.stored();
    let launch = Launch { definitions, grid, block, shared, ..Launch::over_elements(x.gpu, SOURCE, kernel, 1) };
    launch.run::<T>(&[&sizes, &x.pointer(), &y.pointer(), &partial_at, &counters(x.gpu)]);
}

const SUM: What = What { squares: false, root: false, adds: false, factor: 1.0 };

pub(in crate::kernels) fn sum<T: Real>(dims: [usize; 3], factor: f64, x: View<'_, T>, y: ViewMut<'_, T>) {
    sum_of(What { factor, ..SUM }, dims, x.into(), y);
}

pub(super) fn sum_backward<T: Real>([outer, n, inner]: [usize; 3], factor: f64, dy: View<'_, T>, dx: ViewMut<'_, T>) {
    let launch = Launch::over_elements(dx.gpu, SOURCE, "sum_backward", dx.len());
    let [outer, n, inner] = [outer, n, inner].map(|dim| dim as u64);
    launch.run::<T>(&[&outer, &n, &inner, &T::from_f64(factor), &dy.pointer(), &dx.pointer()]);
}

pub(super) fn norm<T: Real>(x: View<'_, T>, y: ViewMut<'_, T>) {
    sum_of(What { squares: true, root: true, ..SUM }, [1, x.len(), 1], x.into(), y);
}

pub(super) fn norm_backward<T: Real>(x: View<'_, T>, dy: View<'_, T>, dx: ViewMut<'_, T>) {
    let mut of = Buffer::unspecified(1, T::DTYPE, Device::Cuda(x.gpu.ordinal()));
    norm(x, of.view_mut::<T>("l2_norm"));
    let (n, of) = (x.len(), of.view::<T>("l2_norm"));
    let launch = Launch::over_elements(x.gpu, SOURCE, "norm_backward", n);
    launch.run::<T>(&[&(n as u64), &x.pointer(), &of.pointer(), &dy.pointer(), &dx.pointer()]);
}

pub(super) fn accumulate_rows<T: Real>(cols: usize, x: StoredView<'_>, y: ViewMut<'_, T>) {
    sum_of(What { adds: true, ..SUM }, [1, x.len() / cols.max(1), cols], x, y);
}

/// Elements that a block looks at.
const RUN: usize = 1 << 14;

/// `Run` of reduce.cu.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
struct Run {
    x: Pointer,
    len: u64,
    squares: u64,
}
argument!(Run);

pub(super) fn count_non_finite<T: Real>(of: &[Finite], buffers: &[View<'_, T>], count: ViewMut<'_, T>) {
    let mut runs = Vec::new();
    for (of, x) in of.iter().zip(buffers) {
        runs.extend((0..x.len()).step_by(RUN).map(|start| {
            let x = x.from(start);
            Run { x: x.pointer(), len: x.len().min(RUN) as u64, squares: (*of == Finite::Squares).into() }
        }));
    }
    let table = count.gpu.table(&runs);
    let mut counts = Buffer::unspecified(runs.len().max(1), T::DTYPE, Device::Cuda(count.gpu.ordinal()));
    if !runs.is_empty() {
        let (grid, block, shared) = (Grid::over(runs.len(), 1), Block(1024, 1, 1), 32 * size_of::<u32>());
        let launch = Launch { grid, block, shared, ..Launch::over_elements(count.gpu, SOURCE, "count_non_finite", 1) };
        launch.run::<T>(&[&Pointer(table.pointer()), &counts.view_mut::<T>("count_non_finite").pointer()]);
    }
    sum_of(SUM, [1, runs.len(), 1], counts.view::<T>("count_non_finite").into(), count);
}
