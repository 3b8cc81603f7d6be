use rayon::prelude::*;

use super::{Binary, Unary, Walk};
use crate::kernels::launch::{Read, Written, with_elements};
use crate::kernels::simd::vectorized;
use crate::kernels::team::{OF_AN_ELEMENT, share_rows};
use crate::kernels::{Bf16, Buffer, DType, Element, MAX_RANK, Real};

/// Evaluates `$body` with `$f` a constant, for each that it may be: then `for` loops over it become vector code. (A closure
/// that a loop calls is compiled for the baseline processor, and is some sixty times as slow.)
macro_rules! with_constant {
    ($Type:ident::{$($name:ident)*}, $f:ident => $body:expr) => {
        match $f {
            $($Type::$name => {
                let $f = $Type::$name;
                $body
            })*
        }
    };
}

vectorized! {
    /// y ← a ∘ b, equally long.
    fn binary_same<T>(op: Binary, a: &[T], b: &[T], y: &mut [T]) {
        with_constant!(Binary::{Add Sub Mul Div}, op => {
            for ((y, &a), &b) in y.iter_mut().zip(a).zip(b) {
                *y = op.value(a, b);
            }
        });
    }

    fn unary_part<T, X, Y>(f: Unary, x: &[X], y: &mut [Y]) {
        with_constant!(Unary::{Exp Ln Tanh Relu Abs Sqrt Gelu}, f => {
            for (y, &x) in y.iter_mut().zip(x) {
                *y = Y::nearest::<T>(f.value(x.to()));
            }
        });
    }

    fn unary_backward_part<T>(f: Unary, saved: &[T], dy: &[T], dx: &mut [T]) {
        with_constant!(Unary::{Exp Ln Tanh Relu Abs Sqrt Gelu}, f => {
            for ((dx, &saved), &dy) in dx.iter_mut().zip(saved).zip(dy) {
                *dx = f.slope(saved) * dy;
            }
        });
    }

    /// Of GELU the two share an exponential.
    fn unary_and_backward_part<T, U>(f: Unary, x: &[T], y: &mut [U], d: &mut [T]) {
        with_constant!(Unary::{Exp Ln Tanh Relu Abs Sqrt Gelu}, f => {
            for ((y, &x), d) in y.iter_mut().zip(x).zip(d) {
                *y = U::nearest(f.value(x));
                *d = f.slope(x) * *d;
            }
        });
    }

    /// z ← GELU(h) and dh ← GELU′(h) ⊙ dz, with one exponential for both.
    pub(in crate::kernels) fn gelu_and_backward<T, U>(h: &[U], dz: &[T], z: &mut [U], dh: &mut [U]) {
        for (((z, dh), &h), &dz) in z.iter_mut().zip(dh).zip(h).zip(dz) {
            let h: T = h.to();
            *z = U::nearest(Unary::Gelu.value(h));
            *dh = U::nearest(Unary::Gelu.slope(h) * dz);
        }
    }

    /// y ← x, the nearest of its type.
    pub(in crate::kernels) fn round<T, X, Y>(x: &[X], y: &mut [Y]) {
        for (y, &x) in y.iter_mut().zip(x) {
            *y = Y::nearest(x.to::<T>());
        }
    }

    pub(in crate::kernels) fn accumulate_part<T>(x: &[T], y: &mut [T]) {
        for (y, &x) in y.iter_mut().zip(x) {
            *y += x;
        }
    }

    pub(super) fn scale<T>(x: &[T], factor: f64, y: &mut [T]) {
        let factor = T::from_f64(factor);
        for (y, &x) in y.iter_mut().zip(x) {
            *y = factor * x;
        }
    }
}

pub(super) fn unary<T: Real>(f: Unary, x: Read<'_, T>, y: Written<'_, T>) {
    with_elements!(x, x => with_elements!(y, y => {
        share_rows(x.len(), x.len() * OF_AN_ELEMENT, (y, &mut [(); 0]), |some, y, _| unary_part::<T, _, _>(f, &x[some], y));
    }));
}

pub(super) fn unary_backward<T: Real>(f: Unary, saved: &[T], dy: &[T], dx: &mut [T]) {
    share_rows(saved.len(), saved.len() * OF_AN_ELEMENT, (dx, &mut [(); 0]), |some, dx, _| {
        unary_backward_part(f, &saved[some.clone()], &dy[some], dx);
    });
}

pub(super) fn accumulate<T: Real>(x: &[T], y: &mut [T]) {
    share_rows(x.len(), x.len() * OF_AN_ELEMENT, (y, &mut [(); 0]), |some, y, _| accumulate_part(&x[some], y));
}

/// y ← f(x) and d ← f′(x) d at once.
pub(super) fn unary_and_backward<T: Real>(f: Unary, x: &[T], y: Written<'_, T>, d: &mut [T]) {
    with_elements!(y, y => share_rows(x.len(), x.len() * OF_AN_ELEMENT, (y, d), |some, y, d| {
        unary_and_backward_part(f, &x[some], y, d);
    }));
}

/// y ← a ∘ b, with broadcasting where there is any.
pub(super) fn binary<T: Real>(op: Binary, how: Option<&Walk>, a: &[T], b: &[T], y: &mut [T]) {
    let Some(how) = how else { return binary_same(op, a, b, y) };
    with_constant!(Binary::{Add Sub Mul Div}, op => broadcast(how, a, b, y, |a, b| op.value(a, b)));
}

/// Calls `row(at_out, at_a, at_b)` with the offsets of each run along the last dimension.
pub(in crate::kernels) fn for_each_row(how: &Walk, mut row: impl FnMut(usize, usize, usize)) {
    if how.dims.contains(&0) {
        return;
    }
    const OUTER: usize = MAX_RANK - 1;
    let mut index = [0; OUTER];
    let (mut out, mut a, mut b) = (0, 0, 0);
    loop {
        row(out, a, b);
        out += how.dims[OUTER];
        // Count up like an odometer; a wheel that comes round takes its strides back.
        let mut wheel = OUTER;
        loop {
            if wheel == 0 {
                return;
            }
            wheel -= 1;
            index[wheel] += 1;
            a += how.a[wheel];
            b += how.b[wheel];
            if index[wheel] < how.dims[wheel] {
                break;
            }
            a -= how.a[wheel] * index[wheel];
            b -= how.b[wheel] * index[wheel];
            index[wheel] = 0;
        }
    }
}

/// y ← op(a, b) with broadcasting.
fn broadcast<T: Real>(how: &Walk, a: &[T], b: &[T], y: &mut [T], op: impl Fn(T, T) -> T) {
    let n = how.dims[MAX_RANK - 1];
    let (sa, sb) = (how.a[MAX_RANK - 1], how.b[MAX_RANK - 1]);
    for_each_row(how, |at, i, j| {
        let y = &mut y[at..at + n];
        // The two cases that vectorize are written out: both run along, or one stands still.
        match (sa, sb) {
            (1, 1) => y.iter_mut().zip(&a[i..i + n]).zip(&b[j..j + n]).for_each(|((y, &a), &b)| *y = op(a, b)),
            (1, 0) => y.iter_mut().zip(&a[i..i + n]).for_each(|(y, &a)| *y = op(a, b[j])),
            _ => y.iter_mut().enumerate().for_each(|(k, y)| *y = op(a[i + k * sa], b[j + k * sb])),
        }
    });
}

pub(in crate::kernels) fn copy<T: Real>(how: &Walk, [from, to]: [usize; 2], x: &[T], y: &mut [T]) {
    let [n, a, b] = [how.dims, how.a, how.b].map(|of| of[MAX_RANK - 1]);
    for_each_row(how, |_, i, j| {
        let (i, j) = (from + i, to + j);
        if (a, b) == (1, 1) {
            y[j..j + n].copy_from_slice(&x[i..i + n]);
        } else {
            (0..n).for_each(|k| y[j + k * b] = x[i + k * a]);
        }
    });
}

pub(super) fn reduce_to<T: Real>(dy: &[T], from: &[usize], to: &[usize], dx: &mut [T]) {
    dx.fill(T::ZERO);
    let how = Walk::broadcast(to, to, from);
    let n = how.dims[MAX_RANK - 1];
    let stride = how.a[MAX_RANK - 1];
    for_each_row(&how, |at, i, _| {
        let dy = &dy[at..at + n];
        if stride == 0 {
            dx[i] += dy.iter().copied().sum::<T>();
        } else {
            dx[i..i + n].iter_mut().zip(dy).for_each(|(dx, &dy)| *dx += dy);
        }
    });
}

pub(super) fn convert<T: Real>(x: Read<'_, T>, y: &mut Buffer) {
    fn to<T: Real, X: Element, Y: Element>(x: &[X], y: &mut Buffer) {
        let y = y.make_mut::<Y>("to_dtype");
        share_rows(x.len(), x.len() * OF_AN_ELEMENT, (y, &mut [(); 0]), |some, y, _| round::<T, X, Y>(&x[some], y));
    }
    with_elements!(x, x => match y.dtype() {
        DType::F32 => to::<T, _, f32>(x, y),
        DType::F64 => to::<T, _, f64>(x, y),
        DType::Bf16 => to::<T, _, Bf16>(x, y),
    });
}

/// Elements that are worth a task of their own to a closure of unknown cost.
const MAPPED: usize = 16 << 10;

pub(super) fn map<T: Real>(f: impl Fn(f64) -> f64 + Sync, x: &[T], y: &mut [T]) {
    y.par_chunks_mut(MAPPED).zip(x.par_chunks(MAPPED)).for_each(|(y, x)| {
        y.iter_mut().zip(x).for_each(|(y, x)| *y = T::from_f64(f(x.to_f64())));
    });
}

pub(super) fn zip_map<T: Real>(f: impl Fn(f64, f64) -> f64 + Sync, a: &[T], b: &[T], y: &mut [T]) {
    y.par_chunks_mut(MAPPED).zip(a.par_chunks(MAPPED)).zip(b.par_chunks(MAPPED)).for_each(|((y, a), b)| {
        y.iter_mut().zip(a).zip(b).for_each(|((y, a), b)| *y = T::from_f64(f(a.to_f64(), b.to_f64())));
    });
}
