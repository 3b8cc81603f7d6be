use super::Gather;
use crate::kernels::Real;
use crate::kernels::cuda::{Block, Grid, Launch, Source, View, ViewMut, argument};
pub(super) use crate::kernels::elementwise::cuda::copy;

const SOURCE: Source = Source { name: "tokens", text: include_str!("tokens.cu") };

argument!(Gather);

pub(super) fn gather<T: Real>(g: Gather, x: View<'_, T>, indices: View<'_, u32>, y: ViewMut<'_, T>) {
    let n = y.len();
    let launch = Launch::over_elements(y.gpu, SOURCE, "gather", n);
    launch.run::<T>(&[&g, &(n as u64), &x.pointer(), &indices.pointer(), &y.pointer()]);
}

pub(super) fn scatter_add<T: Real>(g: Gather, dy: View<'_, T>, indices: View<'_, u32>, dx: ViewMut<'_, T>) {
    if dx.is_empty() {
        return;
    }
    let rows = indices.len() / g.per_row.max(1);
    let threads = g.dim.next_multiple_of(32).min(256) as u32;
    let (grid, block) = (Grid::over(g.sources * g.tokens, 1), Block(threads, 1, 1));
    Launch { grid, block, ..Launch::over_elements(dx.gpu, SOURCE, "scatter_add", 1) }.run::<T>(&[
        &g,
        &(rows as u64),
        &dy.pointer(),
        &indices.pointer(),
        &dx.pointer(),
    ]);
}
