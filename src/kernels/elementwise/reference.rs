//! The definition, in its simplest loops: computed in f64, each number rounded once when it is written.
#![allow(clippy::needless_range_loop, reason = "index expressions are written out")]

use super::{Binary, Unary, Walk};
use crate::kernels::launch::{Read, Written, with_elements};
use crate::kernels::{Bf16, Buffer, DType, Element, MAX_RANK, Real};

/// Where element i of a result comes from in a and in b.
fn sources(how: &Walk, i: usize) -> [usize; 2] {
    let (mut rest, mut at) = (i, [0, 0]);
    for axis in (0..MAX_RANK).rev() {
        let k = rest % how.dims[axis];
        rest /= how.dims[axis];
        at[0] += k * how.a[axis];
        at[1] += k * how.b[axis];
    }
    at
}

/// y ← a ∘ b.
pub(super) fn binary<T: Real>(op: Binary, how: Option<&Walk>, a: &[T], b: &[T], y: &mut [T]) {
    for i in 0..y.len() {
        let at = how.map_or([i, i], |how| sources(how, i));
        let (a, b) = (a[at[0]].to_f64(), b[at[1]].to_f64());
        y[i] = T::from_f64(op.value(a, b));
    }
}

/// y ← x, walked through from these elements on.
pub(in crate::kernels) fn copy<T: Real>(how: &Walk, [from, to]: [usize; 2], x: &[T], y: &mut [T]) {
    for i in 0..how.dims.iter().product() {
        let at = sources(how, i);
        y[to + at[1]] = x[from + at[0]];
    }
}

/// y ← f(x).
pub(super) fn unary<T: Real>(f: Unary, x: Read<'_, T>, y: Written<'_, T>) {
    let (x, y) = (x.wide(), y.wide());
    for i in 0..x.len() {
        y[i] = T::from_f64(f.value(x[i].to_f64()));
    }
}

/// dx ← f′(x) dy.
pub(super) fn unary_backward<T: Real>(f: Unary, saved: &[T], dy: &[T], dx: &mut [T]) {
    for i in 0..dy.len() {
        dx[i] = T::from_f64(f.slope(saved[i].to_f64()) * dy[i].to_f64());
    }
}

/// Both, the gradient in the place of dy.
pub(super) fn unary_and_backward<T: Real>(f: Unary, x: &[T], y: Written<'_, T>, dy: &mut [T]) {
    unary(f, Read::Wide(x), y);
    for i in 0..x.len() {
        dy[i] = T::from_f64(f.slope(x[i].to_f64()) * dy[i].to_f64());
    }
}

/// dx ← the sum of the parts of `dy` (shape `from`) that a broadcast operand of shape `to` was copied into.
pub(super) fn reduce_to<T: Real>(dy: &[T], from: &[usize], to: &[usize], dx: &mut [T]) {
    let (how, mut sums) = (Walk::broadcast(to, to, from), vec![0.0; dx.len()]);
    for i in 0..dy.len() {
        sums[sources(&how, i)[0]] += dy[i].to_f64();
    }
    for i in 0..dx.len() {
        dx[i] = T::from_f64(sums[i]);
    }
}

/// y ← y + x.
pub(super) fn accumulate<T: Real>(x: &[T], y: &mut [T]) {
    for i in 0..x.len() {
        y[i] += x[i];
    }
}

/// y ← factor x.
pub(super) fn scale<T: Real>(x: &[T], factor: f64, y: &mut [T]) {
    for i in 0..x.len() {
        y[i] = T::from_f64(factor * x[i].to_f64());
    }
}

/// y ← x in another element type.
pub(super) fn convert<T: Real>(x: Read<'_, T>, y: &mut Buffer) {
    with_elements!(x, x => for i in 0..x.len() {
        match y.dtype() {
            DType::F32 => y.make_mut::<f32>("to_dtype")[i] = x[i].to(),
            DType::F64 => y.make_mut::<f64>("to_dtype")[i] = x[i].to(),
            DType::Bf16 => y.make_mut::<Bf16>("to_dtype")[i] = Bf16::from_f32(x[i].to()),
        }
    });
}

/// y ← f(x).
pub(super) fn map<T: Real>(f: impl Fn(f64) -> f64, x: &[T], y: &mut [T]) {
    for i in 0..x.len() {
        y[i] = T::from_f64(f(x[i].to_f64()));
    }
}

/// y ← f(a, b).
pub(super) fn zip_map<T: Real>(f: impl Fn(f64, f64) -> f64, a: &[T], b: &[T], y: &mut [T]) {
    for i in 0..a.len() {
        y[i] = T::from_f64(f(a[i].to_f64(), b[i].to_f64()));
    }
}
