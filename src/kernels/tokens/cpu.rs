use super::Gather;
use crate::kernels::Real;
use crate::kernels::elementwise::cpu::accumulate_part;
pub(super) use crate::kernels::elementwise::cpu::copy;

pub(super) fn gather<T: Real>(g: Gather, x: &[T], indices: &[u32], y: &mut [T]) {
    for_each_token(g, indices, |at, token| {
        y[at * g.dim..(at + 1) * g.dim].copy_from_slice(&x[token * g.dim..(token + 1) * g.dim]);
    });
}

pub(super) fn scatter_add<T: Real>(g: Gather, dy: &[T], indices: &[u32], dx: &mut [T]) {
    dx.fill(T::ZERO);
    for_each_token(g, indices, |at, token| {
        accumulate_part(&dy[at * g.dim..(at + 1) * g.dim], &mut dx[token * g.dim..(token + 1) * g.dim]);
    });
}

/// Calls `f` with the place of each index and that of its token in x.
fn for_each_token(g: Gather, indices: &[u32], mut f: impl FnMut(usize, usize)) {
    for (at, &token) in indices.iter().enumerate() {
        f(at, at / g.per_row % g.sources * g.tokens + token as usize);
    }
}
