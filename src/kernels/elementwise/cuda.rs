use super::{Binary, Unary, Walk};
use crate::kernels::cuda::{
    Argument, Block, Grid, Launch, Pointer, Source, StoredView, StoredViewMut, View, ViewMut, argument,
};
use crate::kernels::reduce::cuda::sum;
use crate::kernels::{Bf16, Buffer, DType, Device, MAX_RANK, Real};

pub(in crate::kernels) const SOURCE: Source = Source {
    name: "elementwise",
    text: include_str!("elementwise.cu"),
    variants: &[
        "REAL=float INDEX=u32",
        "REAL=double INDEX=u32",
        "REAL=float INDEX=u64",
        "REAL=double INDEX=u64",
        "REAL=float INDEX=u32 STORED=u16",
    ],
};

// `Walk` is `repr(C)`, and three arrays of as many numbers of 64 bits.
argument!(Walk);

/// Offsets of 32 bits, or of 64 where there are more elements.
fn index(elements: usize) -> &'static str {
    if u32::try_from(elements).is_ok() { "INDEX=u32" } else { "INDEX=u64" }
}

/// A kernel over so many elements.
fn launch<'a, T>(y: &ViewMut<'a, T>, kernel: &'static str, n: usize) -> Launch<'a> {
    Launch { definitions: "INDEX=u32", ..Launch::over_elements(y.gpu, SOURCE, kernel, n) }
}

/// A kernel over so many elements of what may be stored in bf16.
fn over_stored<'a>(x: StoredView<'a>, kernel: &'static str, n: usize) -> Launch<'a> {
    let definitions = if x.dtype == DType::Bf16 { "INDEX=u32 STORED=u16" } else { "INDEX=u32" };
    Launch { definitions, ..Launch::over_elements(x.gpu, SOURCE, kernel, n) }
}

pub(super) fn binary<T: Real>(op: Binary, how: Option<&Walk>, a: View<'_, T>, b: View<'_, T>, y: ViewMut<'_, T>) {
    let (n, op) = (y.len(), op as u32);
    match how {
        None => launch(&y, "binary", n).run::<T>(&[&op, &(n as u64), &a.pointer(), &b.pointer(), &y.pointer()]),
        Some(how) => {
            let (how, axes) = how.merged();
            let definitions = index(n.max(a.len()).max(b.len()));
            Launch { definitions, ..launch(&y, "broadcast", n) }.run::<T>(&[
                &op,
                &how,
                &axes,
                &(n as u64),
                &a.pointer(),
                &b.pointer(),
                &y.pointer(),
            ]);
        }
    }
}

pub(in crate::kernels) fn copy<T: Real>(how: &Walk, [from, to]: [usize; 2], x: View<'_, T>, y: ViewMut<'_, T>) {
    let (walk, axes) = how.merged();
    let n: usize = how.dims.iter().product();
    let definitions = index(x.len().max(y.len()));
    let (x, y_from) = (x.from(from.min(x.len())), y.as_view().from(to.min(y.len())));
    Launch { definitions, ..launch(&y, "copy", n) }.run::<T>(&[
        &walk,
        &axes,
        &(n as u64),
        &x.pointer(),
        &y_from.pointer(),
    ]);
}

pub(super) fn unary<T: Real>(f: Unary, x: StoredView<'_>, y: StoredViewMut<'_>) {
    let n = x.len();
    let arguments: [&dyn Argument; 4] = [&(f as u32), &(n as u64), &x.pointer(), &y.pointer()];
    over_stored(x, "unary", n).run::<T>(&arguments);
}

pub(super) fn unary_backward<T: Real>(f: Unary, saved: View<'_, T>, dy: View<'_, T>, dx: ViewMut<'_, T>) {
    let (n, f) = (dx.len(), f as u32);
    launch(&dx, "unary_backward", n).run::<T>(&[&f, &(n as u64), &saved.pointer(), &dy.pointer(), &dx.pointer()]);
}

pub(super) fn unary_and_backward<T: Real>(f: Unary, x: View<'_, T>, y: StoredViewMut<'_>, dy: ViewMut<'_, T>) {
    let n = x.len();
    launch(&dy, "unary_and_backward", n).run::<T>(&[
        &(f as u32),
        &(n as u64),
        &x.pointer(),
        &y.pointer(),
        &dy.pointer(),
    ]);
}

pub(super) fn accumulate<T: Real>(x: View<'_, T>, y: ViewMut<'_, T>) {
    let n = x.len();
    launch(&y, "accumulate", n).run::<T>(&[&(n as u64), &x.pointer(), &y.pointer()]);
}

pub(super) fn scale<T: Real>(x: View<'_, T>, factor: f64, y: ViewMut<'_, T>) {
    let n = x.len();
    launch(&y, "scale", n).run::<T>(&[&(n as u64), &T::from_f64(factor), &x.pointer(), &y.pointer()]);
}

pub(super) fn convert<T: Real>(x: StoredView<'_>, y: &mut Buffer) {
    let n = x.len();
    let (kernel, to, threads) = match y.dtype() {
        DType::F32 => ("to_f32", y.view_mut::<f32>("to_dtype").pointer(), n),
        DType::F64 => ("to_f64", y.view_mut::<f64>("to_dtype").pointer(), n),
        DType::Bf16 => ("to_bf16", y.view_mut::<Bf16>("to_dtype").pointer(), n / 2),
    };
    over_stored(x, kernel, threads).run::<T>(&[&(n as u64), &x.pointer(), &to]);
}

/// Pairs that a block rounds.
const RUN: usize = 1 << 13;

/// `Run` of elementwise.cu.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
struct Run {
    x: Pointer,
    y: Pointer,
    n: u64,
}
argument!(Run);

/// All of these, which are in f32, rounded in one launch.
pub(super) fn copies_in_bf16(of: &[&Buffer]) -> Vec<Buffer> {
    let (mut runs, mut gpu) = (Vec::new(), None);
    let mut copy = |x: &&Buffer| {
        let (x, mut y) = (x.view::<f32>("bf16"), Buffer::unspecified(x.len(), DType::Bf16, x.device()));
        let to = y.view_mut::<Bf16>("bf16").pointer();
        runs.extend((0..x.len()).step_by(2 * RUN).map(|start| {
            let x = x.from(start);
            Run { x: x.pointer(), y: to.after(2 * start as u64), n: x.len().min(2 * RUN) as u64 }
        }));
        gpu = Some(x.gpu.clone());
        y
    };
    let copies = of.iter().map(&mut copy).collect();
    if let (Some(gpu), false) = (gpu, runs.is_empty()) {
        let (grid, block, table) = (Grid::over(runs.len(), 1), Block(1024, 1, 1), gpu.table(&runs));
        let launch = Launch::over_elements(&gpu, SOURCE, "each_to_bf16", 1);
        let launch = Launch { definitions: "INDEX=u32", grid, block, ..launch };
        launch.run::<f32>(&[&Pointer(table.pointer())]);
    }
    copies
}

/// One sum over each run of neighboring axes that were broadcast; the last of them writes to `dx`.
pub(super) fn reduce_to<T: Real>(dy: View<'_, T>, from: &[usize], to: &[usize], dx: ViewMut<'_, T>) {
    let missing = from.len() - to.len();
    let repeated = |axis: usize| axis < missing || (to[axis - missing] == 1 && from[axis] != 1);
    let (mut runs, mut axis) = (Vec::new(), 0);
    while axis < from.len() {
        let end = (axis..from.len()).find(|&end| !repeated(end)).unwrap_or(from.len());
        if end > axis {
            runs.push(axis..end);
        }
        axis = end.max(axis + 1);
    }
    let mut shape = from.to_vec();
    let mut dims = |run: &std::ops::Range<usize>| {
        let product = |dims: &[usize]| dims.iter().product::<usize>();
        let dims = [product(&shape[..run.start]), product(&shape[run.clone()]), product(&shape[run.end..])];
        shape[run.clone()].fill(1);
        dims
    };
    let Some((last, before)) = runs.split_last() else {
        return sum([dy.len(), 1, 1], 1.0, dy, dx);
    };
    let mut partial: Option<Buffer> = None;
    for run in before {
        let [outer, n, inner] = dims(run);
        let mut next = Buffer::unspecified(outer * inner, T::DTYPE, Device::Cuda(dy.gpu.ordinal()));
        let x = partial.as_ref().map_or(dy, |partial| partial.view("reduce_to"));
        sum([outer, n, inner], 1.0, x, next.view_mut("reduce_to"));
        partial = Some(next);
    }
    sum(dims(last), 1.0, partial.as_ref().map_or(dy, |partial| partial.view("reduce_to")), dx);
}

/// A function of the caller's runs on the host: there and back.
fn on_host<T: Real>(inputs: &[View<'_, T>], mut y: ViewMut<'_, T>, f: impl FnOnce(&[Vec<T>], &mut [T])) {
    let inputs: Vec<Vec<T>> = inputs.iter().map(View::read).collect();
    let mut result = vec![T::ZERO; y.len()];
    f(&inputs, &mut result);
    y.write(&result);
}

pub(super) fn map<T: Real>(f: impl Fn(f64) -> f64 + Sync, x: View<'_, T>, y: ViewMut<'_, T>) {
    on_host(&[x], y, |x, y| super::cpu::map(f, &x[0], y));
}

pub(super) fn zip_map<T: Real>(f: impl Fn(f64, f64) -> f64 + Sync, a: View<'_, T>, b: View<'_, T>, y: ViewMut<'_, T>) {
    on_host(&[a, b], y, |x, y| super::cpu::zip_map(f, &x[0], &x[1], y));
}

impl Walk {
    /// The same walk with as few axes as can be (axes that are walked through like one become one), at the end, and how
    /// many they are.
    fn merged(&self) -> (Walk, u32) {
        let mut axes: Vec<[usize; 3]> = Vec::new();
        for axis in 0..MAX_RANK {
            let [dim, a, b] = [self.dims[axis], self.a[axis], self.b[axis]];
            match axes.last_mut() {
                _ if dim == 1 => {}
                Some(last) if last[1] == dim * a && last[2] == dim * b => *last = [last[0] * dim, a, b],
                _ => axes.push([dim, a, b]),
            }
        }
        let (mut merged, first) =
            (Walk { dims: [1; MAX_RANK], a: [0; MAX_RANK], b: [0; MAX_RANK] }, MAX_RANK - axes.len());
        for (i, [dim, a, b]) in axes.iter().copied().enumerate() {
            (merged.dims[first + i], merged.a[first + i], merged.b[first + i]) = (dim, a, b);
        }
        (merged, axes.len() as u32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_that_are_walked_through_like_one_become_one() {
        let same = Walk::broadcast(&[2, 3, 4], &[2, 3, 4], &[2, 3, 4]).merged();
        assert_eq!((same.1, same.0.dims), (1, [1, 1, 1, 1, 1, 24]));
        let row = Walk::broadcast(&[2, 3, 4], &[4], &[2, 3, 4]).merged();
        assert_eq!((row.1, row.0.dims, row.0.b), (2, [1, 1, 1, 1, 6, 4], [0, 0, 0, 0, 0, 1]));
        assert_eq!(Walk::broadcast(&[], &[], &[]).merged().1, 0);
        let turned = Walk::permuted(&[2, 3, 4], &[0, 2, 1]).merged();
        assert_eq!((turned.1, turned.0.a), (3, [0, 0, 0, 12, 1, 4]));
    }
}
