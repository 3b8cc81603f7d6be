//! Element by element: sums and products with broadcasting, scaling, accumulation, conversion.

use super::simd::vectorized;
use crate::kernels::{MAX_RANK, Real};

vectorized! {
    /// y ← a + b, equally long.
    pub fn add<T>(a: &[T], b: &[T], y: &mut [T]) {
        for ((y, &a), &b) in y.iter_mut().zip(a).zip(b) {
            *y = a + b;
        }
    }

    /// y ← a b, equally long.
    pub fn mul<T>(a: &[T], b: &[T], y: &mut [T]) {
        for ((y, &a), &b) in y.iter_mut().zip(a).zip(b) {
            *y = a * b;
        }
    }

    /// y ← y + x.
    pub fn accumulate<T>(x: &[T], y: &mut [T]) {
        for (y, &x) in y.iter_mut().zip(x) {
            *y += x;
        }
    }

    /// y ← factor x.
    pub fn scale<T>(x: &[T], factor: T, y: &mut [T]) {
        for (y, &x) in y.iter_mut().zip(x) {
            *y = factor * x;
        }
    }

    /// y ← y + Σ over the rows of x, each as long as y: the gradient of a bias.
    pub fn add_rows<T>(x: &[T], y: &mut [T]) {
        if !y.is_empty() {
            for row in x.chunks_exact(y.len()) {
                for (y, &x) in y.iter_mut().zip(row) {
                    *y += x;
                }
            }
        }
    }

    /// y ← d|x|/dx · dy = sign(x) dy, with 0 at x = 0.
    pub fn sign_times<T>(x: &[T], dy: T, y: &mut [T]) {
        for (y, &x) in y.iter_mut().zip(x) {
            *y = if x > T::ZERO { dy } else if x < T::ZERO { -dy } else { T::ZERO };
        }
    }
}

/// A tensor's dimensions and, per dimension, how far the next element is (0: broadcast), aligned right in
/// [`MAX_RANK`] places.
#[derive(Clone, Copy, Debug)]
pub struct Broadcast {
    dims: [usize; MAX_RANK],
    a: [usize; MAX_RANK],
    b: [usize; MAX_RANK],
}

impl Broadcast {
    /// How operands of shapes `a` and `b` meet in the shape `out`. As in NumPy: aligned at the last dimension,
    /// and a dimension that is 1 or missing is repeated.
    pub fn new(a: &[usize], b: &[usize], out: &[usize]) -> Self {
        let strides = |shape: &[usize]| {
            let mut strides = [0; MAX_RANK];
            let mut step = 1;
            for (i, &d) in shape.iter().enumerate().rev() {
                strides[MAX_RANK - shape.len() + i] = if d == 1 { 0 } else { step };
                step *= d;
            }
            strides
        };
        let mut dims = [1; MAX_RANK];
        dims[MAX_RANK - out.len()..].copy_from_slice(out);
        Broadcast { dims, a: strides(a), b: strides(b) }
    }

    /// How many elements a, b and the result have.
    pub fn elements(&self) -> [usize; 3] {
        let of = |strides: &[usize; MAX_RANK]| {
            let along = || self.dims.iter().zip(strides).filter(|(_, stride)| **stride > 0);
            match along().any(|(dim, _)| *dim == 0) {
                true => 0,
                false => along().map(|(dim, stride)| (dim - 1) * stride).sum::<usize>() + 1,
            }
        };
        [of(&self.a), of(&self.b), self.dims.iter().product()]
    }

    /// Calls `row(at_out, at_a, at_b)` with the offsets of each run along the last dimension.
    #[inline(always)]
    fn for_each_row(&self, mut row: impl FnMut(usize, usize, usize)) {
        if self.dims.contains(&0) {
            return;
        }
        const OUTER: usize = MAX_RANK - 1;
        let mut index = [0; OUTER];
        let (mut out, mut a, mut b) = (0, 0, 0);
        loop {
            row(out, a, b);
            out += self.dims[OUTER];
            // Count up like an odometer; a wheel that comes round takes its strides back.
            let mut wheel = OUTER;
            loop {
                if wheel == 0 {
                    return;
                }
                wheel -= 1;
                index[wheel] += 1;
                a += self.a[wheel];
                b += self.b[wheel];
                if index[wheel] < self.dims[wheel] {
                    break;
                }
                a -= self.a[wheel] * index[wheel];
                b -= self.b[wheel] * index[wheel];
                index[wheel] = 0;
            }
        }
    }
}

/// y ← op(a, b) with broadcasting.
pub fn broadcast<T: Real>(how: &Broadcast, a: &[T], b: &[T], y: &mut [T], op: impl Fn(T, T) -> T) {
    let n = how.dims[MAX_RANK - 1];
    let (sa, sb) = (how.a[MAX_RANK - 1], how.b[MAX_RANK - 1]);
    how.for_each_row(|at, i, j| {
        let y = &mut y[at..at + n];
        // The two cases that vectorize are written out: both run along, or one stands still.
        match (sa, sb) {
            (1, 1) => y.iter_mut().zip(&a[i..i + n]).zip(&b[j..j + n]).for_each(|((y, &a), &b)| *y = op(a, b)),
            (1, 0) => y.iter_mut().zip(&a[i..i + n]).for_each(|(y, &a)| *y = op(a, b[j])),
            _ => y.iter_mut().enumerate().for_each(|(k, y)| *y = op(a[i + k * sa], b[j + k * sb])),
        }
    });
}

/// dx ← dx + the parts of `dy` (shape `out`) that a broadcast operand of shape `to` was copied into.
pub fn reduce_to<T: Real>(dy: &[T], out: &[usize], dx: &mut [T], to: &[usize]) {
    let how = Broadcast::new(to, to, out);
    let n = how.dims[MAX_RANK - 1];
    let stride = how.a[MAX_RANK - 1];
    how.for_each_row(|at, i, _| {
        let dy = &dy[at..at + n];
        if stride == 0 {
            dx[i] += dy.iter().copied().sum::<T>();
        } else {
            dx[i..i + n].iter_mut().zip(dy).for_each(|(dx, &dy)| *dx += dy);
        }
    });
}

/// Σ x, in f64 whatever the type: a mean over a million f32 keeps its digits.
pub fn sum<T: Real>(x: &[T]) -> f64 {
    x.iter().map(|x| x.to_f64()).sum()
}

/// Σ |x|.
pub fn sum_abs<T: Real>(x: &[T]) -> f64 {
    x.iter().map(|x| x.to_f64().abs()).sum()
}

/// Σ x².
pub fn sum_squares<T: Real>(x: &[T]) -> f64 {
    x.iter().map(|x| x.to_f64().powi(2)).sum()
}

vectorized! {
    /// Whether every x² is neither NaN nor infinite. No early end: that would keep it out of vector registers.
    pub fn squares_are_finite<T>(x: &[T]) -> bool {
        x.iter().fold(true, |finite, &x| finite & (x * x).is_finite())
    }
}

/// y ← x in another element type.
pub fn convert<T: Real, U: Real>(x: &[T], y: &mut [U]) {
    for (y, x) in y.iter_mut().zip(x) {
        *y = U::from_f64(x.to_f64());
    }
}
