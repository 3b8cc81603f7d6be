//! Element by element: sums and products with broadcasting, functions of one number, scaling, accumulation, conversion.

pub(super) mod cpu;
mod reference;

use super::{Buffer, DType, MAX_RANK, Real, check_len, launch};

/// An operation on two numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Binary {
    /// a + b
    Add,
    /// a − b
    Sub,
    /// a b
    Mul,
    /// a / b
    Div,
}

impl Binary {
    /// `"add"`, `"sub"`, …
    pub fn name(self) -> &'static str {
        match self {
            Binary::Add => "add",
            Binary::Sub => "sub",
            Binary::Mul => "mul",
            Binary::Div => "div",
        }
    }
}

/// A function of one number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unary {
    /// eˣ
    Exp,
    /// ln x
    Ln,
    /// tanh x
    Tanh,
    /// max(x, 0)
    Relu,
    /// |x|
    Abs,
    /// √x
    Sqrt,
}

impl Unary {
    /// All of them.
    pub const ALL: [Unary; 6] = [Unary::Exp, Unary::Ln, Unary::Tanh, Unary::Relu, Unary::Abs, Unary::Sqrt];

    /// `"exp"`, `"ln"`, …
    pub fn name(self) -> &'static str {
        match self {
            Unary::Exp => "exp",
            Unary::Ln => "ln",
            Unary::Tanh => "tanh",
            Unary::Relu => "relu",
            Unary::Abs => "abs",
            Unary::Sqrt => "sqrt",
        }
    }

    /// y = f(x).
    #[inline(always)]
    fn value<T: Real>(self, x: T) -> T {
        match self {
            Unary::Exp => x.exp(),
            Unary::Ln => x.ln(),
            Unary::Tanh => x.tanh(),
            // Not `if x > 0`: NaN stays NaN.
            Unary::Relu => {
                if x < T::ZERO {
                    T::ZERO
                } else {
                    x
                }
            }
            Unary::Abs => x.abs(),
            Unary::Sqrt => x.sqrt(),
        }
    }

    /// Whether the derivative is computed from f(x); if not, from x.
    pub fn slope_reads_result(self) -> bool {
        matches!(self, Unary::Exp | Unary::Tanh | Unary::Sqrt)
    }

    /// f′(x), given f(x) or x. Where there is no derivative, at x = 0 of relu and abs, it is 0.
    #[inline(always)]
    fn slope<T: Real>(self, saved: T) -> T {
        let (x, y) = (saved, saved);
        match self {
            Unary::Exp => y,
            Unary::Ln => T::ONE / x,
            Unary::Tanh => T::ONE - y * y,
            Unary::Relu => {
                if x > T::ZERO {
                    T::ONE
                } else {
                    T::ZERO
                }
            }
            Unary::Abs => {
                if x > T::ZERO {
                    T::ONE
                } else if x < T::ZERO {
                    -T::ONE
                } else {
                    T::ZERO
                }
            }
            Unary::Sqrt => T::ONE / (y + y),
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
            let empty = along().any(|(dim, _)| *dim == 0);
            if empty { 0 } else { along().map(|(dim, stride)| (dim - 1) * stride).sum::<usize>() + 1 }
        };
        [of(&self.a), of(&self.b), self.dims.iter().product()]
    }
}

/// `x` with elements of another type; the same buffer when they already are of it.
pub fn to_dtype(x: &Buffer, dtype: DType) -> Buffer {
    if x.dtype() == dtype {
        return x.clone();
    }
    let mut y = Buffer::unspecified(x.len(), dtype, x.device());
    launch!("to_dtype", at x.device(), x.dtype(), [x], [] => convert(x, &mut y));
    y
}

/// a ∘ b with broadcasting; the result has `len` elements.
#[track_caller]
pub fn binary(op: Binary, how: Option<&Broadcast>, len: usize, a: &Buffer, b: &Buffer) -> Buffer {
    let [of_a, of_b, of_y] = how.map_or([len; 3], Broadcast::elements);
    assert_eq!(of_y, len, "{}: a result of {len} elements, its shape says {of_y}", op.name());
    check_len(op.name(), "a", a, of_a);
    check_len(op.name(), "b", b, of_b);
    let mut y = a.like(len);
    launch!(op.name(), [a, b], [y] => binary(op, how, a, b, y));
    y
}

/// f(x).
pub fn unary(f: Unary, x: &Buffer) -> Buffer {
    let mut y = x.like(x.len());
    launch!(f.name(), [x], [y] => unary(f, x, y));
    y
}

/// f′(x) dy, given f(x) or x, whichever [`Unary::slope_reads_result`] says.
#[track_caller]
pub fn unary_backward(f: Unary, saved: &Buffer, dy: &Buffer) -> Buffer {
    check_len(f.name(), "dy", dy, saved.len());
    let mut dx = dy.like(dy.len());
    launch!(f.name(), [saved, dy], [dx] => unary_backward(f, saved, dy, dx));
    dx
}

/// Sums `dy` of shape `from` down to shape `to`, which had been broadcast.
#[track_caller]
pub fn reduce_to(dy: &Buffer, from: &[usize], to: &[usize]) -> Buffer {
    check_len("reduce_to", "dy", dy, from.iter().product());
    let mut dx = dy.like(to.iter().product());
    launch!("reduce_to", [dy], [dx] => reduce_to(dy, from, to, dx));
    dx
}

/// y ← y + x.
#[track_caller]
pub fn accumulate(y: &mut Buffer, x: &Buffer) {
    check_len("accumulate", "x", x, y.len());
    launch!("accumulate", [x], [y] => accumulate(x, y));
}

/// factor · x.
pub fn scale(x: &Buffer, factor: f64) -> Buffer {
    let mut y = x.like(x.len());
    launch!("scale", [x], [y] => scale(x, factor, y));
    y
}

/// f(x) for a function of the caller's: it runs on the host.
pub fn map(x: &Buffer, f: impl Fn(f64) -> f64 + Sync) -> Buffer {
    let mut y = x.like(x.len());
    launch!("map", [x], [y] => map(&f, x, y));
    y
}

/// f(a, b) for a function of the caller's, as [`map`].
#[track_caller]
pub fn zip_map(a: &Buffer, b: &Buffer, f: impl Fn(f64, f64) -> f64 + Sync) -> Buffer {
    check_len("zip_map", "b", b, a.len());
    let mut y = a.like(a.len());
    launch!("zip_map", [a, b], [y] => zip_map(&f, a, b, y));
    y
}
