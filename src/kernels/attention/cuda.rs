pub(in crate::kernels) mod tensor_cores;

use super::Sizes;
use crate::kernels::cuda::{BOTH_REALS, Block, Grid, Launch, Source, StoredView, StoredViewMut, argument};
use crate::kernels::{Buffer, Device, Real, meter};

pub(in crate::kernels) const SOURCE: Source =
    Source { name: "attention", text: include_str!("attention.cu"), variants: BOTH_REALS };

/// Queries, or keys, that a block has; as attention.cu has them.
const TILE: usize = 32;

/// `Sizes` of attention.cu.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
struct Arguments<T> {
    sizes: [u64; 6],
    scale: T,
}
argument!(Arguments<T>);

impl<T: Real> Arguments<T> {
    fn new(s: &Sizes) -> Self {
        let sizes = [s.batch, s.tokens, s.queries.start, s.queries.len(), s.heads, s.head_dim];
        Arguments { sizes: sizes.map(|size| size as u64), scale: T::from_f64(s.scale()) }
    }
}

/// A kernel over all heads and `rows` tokens of each, with so many tiles in shared memory.
fn launch<'a, T: Real>(s: &Sizes, x: StoredView<'a>, kernel: &'static str, rows: usize, tiles: usize) -> Launch<'a> {
    let heads = Grid::over(s.batch * s.heads, 1).0;
    let tiles_of_rows = rows.div_ceil(TILE).max(1);
    assert!(tiles_of_rows <= Grid::MOST_ALONG_Z, "attention: {rows} tokens are more than a grid holds");
    let grid = Grid(heads, tiles_of_rows as u32, 1);
    let shared = tiles * TILE * (s.head_dim + 1) * size_of::<T>();
    assert!(
        shared <= x.gpu.shared as usize,
        "attention: heads of width {} in {} need {shared} bytes of shared memory, {} has {}",
        s.head_dim,
        T::DTYPE,
        x.gpu,
        x.gpu.shared
    );
    Launch { grid, block: Block(8 * 32, 1, 1), shared, ..Launch::over_elements(x.gpu, SOURCE, kernel, 1) }
}

/// Counts as many products of scores' size as the CPU makes.
fn count(s: &Sizes, products: usize) {
    (0..products).for_each(|_| meter::product([s.batch * s.heads * s.queries.len(), s.head_dim, s.tokens]));
}

pub(super) fn forward<T: Real>(s: &Sizes, qkv: StoredView<'_>, out: StoredViewMut<'_>) {
    count(s, 2);
    if tensor_cores::compute(s, qkv.dtype) {
        tensor_cores::forward::<T>(s, qkv, &out);
    } else if s.out() > 0 {
        let launch = launch::<T>(s, qkv, "forward", s.queries.len(), 4);
        launch.run::<T>(&[&Arguments::<T>::new(s), &qkv.pointer(), &out.pointer()]);
    }
}

pub(super) fn backward<T: Real>(s: &Sizes, qkv: StoredView<'_>, dout: StoredView<'_>, mut dqkv: StoredViewMut<'_>) {
    count(s, 5);
    if tensor_cores::compute(s, qkv.dtype) {
        return tensor_cores::backward::<T>(s, qkv, dout, dqkv);
    }
    if s.queries != (0..s.tokens) {
        dqkv.clear();
    }
    if s.out() == 0 {
        return;
    }
    let sizes = Arguments::<T>::new(s);
    let mut stats =
        Buffer::unspecified(2 * s.batch * s.heads * s.queries.len(), T::DTYPE, Device::Cuda(qkv.gpu.ordinal()));
    let of_queries = stats.view_mut::<T>("attention").pointer();
    let (qkv_at, dout_at, dqkv_at) = (qkv.pointer(), dout.pointer(), dqkv.pointer());
    launch::<T>(s, qkv, "statistics", s.queries.len(), 4).run::<T>(&[&sizes, &qkv_at, &dout_at, &of_queries]);
    for (kernel, rows, tiles) in [("backward_queries", s.queries.len(), 5), ("backward_keys", s.tokens, 6)] {
        let launch = launch::<T>(s, qkv, kernel, rows, tiles);
        launch.run::<T>(&[&sizes, &qkv_at, &dout_at, &of_queries, &dqkv_at]);
    }
}
