//! Launches of tensor_cores.cu.

use crate::kernels::attention::Sizes;
use crate::kernels::cuda::{Argument, Block, Grid, Launch, Pointer, Source, StoredView, StoredViewMut};
use crate::kernels::{Buffer, DType, Device, Precision, Real};

pub(in crate::kernels) const SOURCE: Source = Source {
    name: "attention on tensor cores",
    text: include_str!("../tensor_cores.cu"),
    variants: &[
        "REAL=float DIM=64 BF16=1 STORED=u16",
        "REAL=float DIM=64 BF16=1 ",
        "REAL=float DIM=64 BF16=0 ",
        "REAL=float DIM=32 BF16=1 STORED=u16",
        "REAL=float DIM=32 BF16=1 ",
        "REAL=float DIM=32 BF16=0 ",
    ],
};

/// Keys in shared memory at once, forward, and queries, backward; as tensor_cores.cu has them.
const KEYS: usize = 64;
const QUERIES: usize = 32;
/// Queries, or keys, of a warp.
const WARP: usize = 16;
/// Bytes of shared memory that a block of any card may have, or a little less: the same for all, so that bits do not
/// depend on the card.
const SHARED: usize = 96 * 1024;

/// Whether this attention is computed on tensor cores.
pub(super) fn compute(s: &Sizes, dtype: DType) -> bool {
    dtype == DType::Bf16 || dtype == DType::F32 && Precision::here() != Precision::F32 && takes(s.head_dim)
}

/// Whether there are heads so wide there.
pub(in crate::kernels::attention) fn takes(head_dim: usize) -> bool {
    head_dim.is_multiple_of(8) && (8..=128).contains(&head_dim)
}

/// Whether operands are bf16: as they are stored, or rounded to it.
fn in_bf16(x: StoredView<'_>) -> bool {
    x.dtype == DType::Bf16 || Precision::here() == Precision::Bf16
}

/// Bytes of `rows` rows of a head, and of scores of QUERIES queries for each, in shared memory.
fn rows(rows: usize, head_dim: usize, bf16: bool) -> [usize; 2] {
    let (element, chunk) = if bf16 { (2, 8) } else { (4, 4) };
    [head_dim.next_multiple_of(16), QUERIES].map(|width| element * rows * (width + chunk))
}

/// Bytes that a block with so many warps takes, backward: keys, values, queries, gradients and scores.
fn shared_backward(warps: usize, head_dim: usize, bf16: bool) -> usize {
    let [keys, scores] = rows(WARP * warps, head_dim, bf16);
    2 * keys + 2 * rows(QUERIES, head_dim, bf16)[0] + scores
}

/// Warps for a tile of so many rows: as few tiles as `most` warps allow, evenly filled.
fn warps(of: usize, most: usize) -> usize {
    let tiles = of.div_ceil(WARP * most).max(1);
    of.div_ceil(WARP * tiles).max(1)
}

fn launch<T: Real>(
    s: &Sizes,
    x: StoredView<'_>,
    kernel: &'static str,
    [blocks, warps, shared]: [usize; 3],
    arguments: &[&dyn Argument],
) {
    let definitions = format!("DIM={} BF16={} {}", s.head_dim, u32::from(in_bf16(x)), x.stored());
    let (grid, block) = (Grid::over(blocks, 1), Block(32 * warps as u32, 1, 1));
    let launch = Launch { gpu: x.gpu, source: SOURCE, definitions: &definitions, kernel, grid, block, shared };
    launch.run::<T>(arguments);
}

pub(super) fn forward<T: Real>(s: &Sizes, qkv: StoredView<'_>, out: &StoredView<'_>) {
    if s.out() == 0 {
        return;
    }
    let warps = warps(s.queries.len(), 8);
    let tiles = s.queries.len().div_ceil(WARP * warps);
    let shared = 2 * rows(KEYS, s.head_dim, in_bf16(qkv))[0];
    let arguments: [&dyn Argument; 3] = [&super::Arguments::<T>::new(s), &qkv.pointer(), &out.pointer()];
    launch::<T>(s, qkv, "forward", [s.batch * s.heads * tiles, warps, shared], &arguments);
}

pub(super) fn backward<T: Real>(s: &Sizes, qkv: StoredView<'_>, dout: StoredView<'_>, mut dqkv: StoredViewMut<'_>) {
    if s.out() == 0 {
        return dqkv.clear();
    }
    let bf16 = in_bf16(qkv);
    let most = (1..=8).rev().find(|&warps| shared_backward(warps, s.head_dim, bf16) <= SHARED).unwrap_or(1);
    let warps = warps(s.tokens, most);
    let of_queries = 2 * s.batch * s.heads * s.queries.len();
    let scratch = |len| Buffer::unspecified(len, DType::F32, Device::Cuda(qkv.gpu.ordinal()));
    let mut stats = scratch(of_queries);
    let several = qkv.dtype == DType::Bf16 && s.tokens > WARP * warps;
    let mut sums = several.then(|| scratch(s.out()));
    let sums = sums.as_mut().map_or(Pointer(0), |sums| sums.view_mut::<f32>("attention").pointer());
    let arguments: [&dyn Argument; 6] = [
        &super::Arguments::<T>::new(s),
        &qkv.pointer(),
        &dout.pointer(),
        &stats.view_mut::<f32>("attention").pointer(),
        &sums,
        &dqkv.pointer(),
    ];
    let shared = shared_backward(warps, s.head_dim, bf16);
    launch::<T>(s, qkv, "backward", [s.batch * s.heads, warps, shared], &arguments);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiles_are_few_and_evenly_filled() {
        assert_eq!([1, 36, 64, 72, 129, 196, 300].map(|n| warps(n, 8)), [1, 3, 4, 5, 5, 7, 7]);
        for (n, most) in (1..1000).flat_map(|n| (1..=8).map(move |most| (n, most))) {
            let (warps, few) = (warps(n, most), n.div_ceil(WARP * most));
            assert!((1..=most).contains(&warps) && n.div_ceil(WARP * warps) <= few, "{n} rows, {most} warps");
        }
    }

    #[test]
    fn a_block_has_room_for_some_warps_at_every_width() {
        for (head_dim, bf16) in (8..=128).step_by(8).flat_map(|dim| [(dim, true), (dim, false)]) {
            assert!(shared_backward(2, head_dim, bf16) <= SHARED, "{head_dim} {bf16}");
            assert!(2 * rows(KEYS, head_dim, bf16)[0] <= SHARED, "{head_dim} {bf16}");
        }
        assert_eq!(shared_backward(4, 64, true), 2 * (2 * 64 * 72 + 2 * 32 * 72 + 64 * 40));
        assert_eq!(shared_backward(4, 64, false), 4 * (2 * 64 * 68 + 2 * 32 * 68 + 64 * 36));
    }
}
