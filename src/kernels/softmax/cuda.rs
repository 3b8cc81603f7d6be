use crate::kernels::Real;
use crate::kernels::cuda::{BOTH_REALS, Launch, Source, View, ViewMut};

pub(in crate::kernels) const SOURCE: Source =
    Source { name: "softmax", text: include_str!("softmax.cu"), variants: BOTH_REALS };

pub(super) fn forward<T: Real>(cols: usize, x: View<'_, T>, y: ViewMut<'_, T>) {
    let rows = x.len() / cols.max(1);
    let launch = Launch::over_rows(y.gpu, SOURCE, "forward", rows);
    launch.run::<T>(&[&(rows as u64), &(cols as u32), &x.pointer(), &y.pointer()]);
}

pub(super) fn backward<T: Real>(cols: usize, y: View<'_, T>, dy: View<'_, T>, dx: ViewMut<'_, T>) {
    let rows = y.len() / cols.max(1);
    let launch = Launch::over_rows(dx.gpu, SOURCE, "backward", rows);
    launch.run::<T>(&[&(rows as u64), &(cols as u32), &y.pointer(), &dy.pointer(), &dx.pointer()]);
}
