use crate::kernels::cuda::{
    Block, COUNTERS, Grid, Launch, REALS_AND_STORED, Source, StoredViewMut, View, ViewMut, counters, or_null,
};
use crate::kernels::{Buffer, Device, Real};

pub(in crate::kernels) const SOURCE: Source =
    Source { name: "layer_norm", text: include_str!("layer_norm.cu"), variants: REALS_AND_STORED };

pub(super) fn forward<T: Real>(
    cols: usize,
    x: View<'_, T>,
    gamma: Option<View<'_, T>>,
    beta: Option<View<'_, T>>,
    eps: f64,
    y: StoredViewMut<'_>,
    stats: ViewMut<'_, T>,
) {
    let rows = stats.len() / 2;
    let launch = Launch::over_rows(y.gpu, SOURCE, "forward", rows);
    Launch { definitions: y.stored(), ..launch }.run::<T>(&[
        &(rows as u64),
        &(cols as u32),
        &T::from_f64(eps),
        &x.pointer(),
        &or_null(gamma),
        &or_null(beta),
        &y.pointer(),
        &stats.pointer(),
    ]);
}

pub(super) fn recompute<T: Real>(
    cols: usize,
    x: View<'_, T>,
    gamma: View<'_, T>,
    beta: View<'_, T>,
    stats: View<'_, T>,
    y: StoredViewMut<'_>,
) {
    let rows = stats.len() / 2;
    let launch = Launch::over_rows(y.gpu, SOURCE, "recompute", rows);
    Launch { definitions: y.stored(), ..launch }.run::<T>(&[
        &(rows as u64),
        &(cols as u32),
        &x.pointer(),
        &gamma.pointer(),
        &beta.pointer(),
        &stats.pointer(),
        &y.pointer(),
    ]);
}

pub(super) fn backward_input<T: Real>(
    cols: usize,
    x: View<'_, T>,
    gamma: Option<View<'_, T>>,
    stats: View<'_, T>,
    dy: ViewMut<'_, T>,
    dx: ViewMut<'_, T>,
) {
    let rows = stats.len() / 2;
    Launch::over_rows(dx.gpu, SOURCE, "backward_input", rows).run::<T>(&[
        &(rows as u64),
        &(cols as u32),
        &x.pointer(),
        &or_null(gamma),
        &stats.pointer(),
        &dy.pointer(),
        &dx.pointer(),
    ]);
}

/// Rows of a part, and the most parts.
const PART: usize = 64;
const PARTS: usize = 128;

pub(super) fn backward_affine<T: Real>(
    cols: usize,
    x: View<'_, T>,
    stats: View<'_, T>,
    dy: View<'_, T>,
    dgamma: ViewMut<'_, T>,
    dbeta: ViewMut<'_, T>,
) {
    if cols == 0 {
        return;
    }
    let rows = stats.len() / 2;
    let blocks = Grid::over(cols, 32).0;
    let parts = if blocks as usize <= COUNTERS { rows.div_ceil(PART).clamp(1, PARTS) } else { 1 };
    let mut partial = Buffer::unspecified(parts * 2 * cols, T::DTYPE, Device::Cuda(x.gpu.ordinal()));
    let grid = Grid(blocks, parts as u32, 1);
    let (block, shared) = (Block(32, 8, 1), (2 * 8 * 32 + 1) * size_of::<T>());
    Launch { grid, block, shared, ..Launch::over_elements(x.gpu, SOURCE, "backward_affine", 1) }.run::<T>(&[
        &(rows as u64),
        &(cols as u32),
        &x.pointer(),
        &stats.pointer(),
        &dy.pointer(),
        &partial.view_mut::<T>("layer_norm").pointer(),
        &counters(x.gpu),
        &dgamma.pointer(),
        &dbeta.pointer(),
    ]);
}
