//! Element by element: sums and products with broadcasting, functions of one number, scaling, accumulation, conversion.

pub(super) mod cpu;
#[cfg(feature = "cuda")]
pub(super) mod cuda;
pub(super) mod reference;

use super::{Bf16, Buffer, DType, Device, MAX_RANK, Precision, Real, Stored, StoredMut, check_len, launch, meter};

named! {
    /// An operation on two numbers.
    pub enum Binary: "operation" {
        /// a + b
        Add => "add",
        /// a − b
        Sub => "sub",
        /// a b
        Mul => "mul",
        /// a / b
        Div => "div",
    }
}

impl Binary {
    #[inline(always)]
    fn value<T: Real>(self, a: T, b: T) -> T {
        match self {
            Binary::Add => a + b,
            Binary::Sub => a - b,
            Binary::Mul => a * b,
            Binary::Div => a / b,
        }
    }
}

named! {
    /// A function of one number.
    pub enum Unary: "function" {
        /// eˣ
        Exp => "exp",
        /// ln x
        Ln => "ln",
        /// tanh x
        Tanh => "tanh",
        /// max(x, 0)
        Relu => "relu",
        /// |x|
        Abs => "abs",
        /// √x
        Sqrt => "sqrt",
        /// x Φ(x), Φ the normal distribution function: exact GELU (Hendrycks and Gimpel, 2016).
        Gelu => "gelu",
    }
}

impl Unary {
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
            Unary::Gelu => x * x.normal_pdf_cdf().1,
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
            Unary::Gelu => {
                let (pdf, cdf) = x.normal_pdf_cdf();
                cdf + x * pdf
            }
        }
    }
}

/// How a loop walks through two operands: its dimensions and, for each, how far the next element of a and of b is
/// (0: the same again), aligned right in [`MAX_RANK`] places.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Walk {
    dims: [usize; MAX_RANK],
    a: [usize; MAX_RANK],
    b: [usize; MAX_RANK],
}

fn strides(shape: &[usize]) -> [usize; MAX_RANK] {
    let (mut strides, mut step) = ([0; MAX_RANK], 1);
    for (i, &d) in shape.iter().enumerate().rev() {
        strides[MAX_RANK - shape.len() + i] = if d == 1 { 0 } else { step };
        step *= d;
    }
    strides
}

impl Walk {
    /// How operands of shapes `a` and `b` meet in the shape `out`. As in NumPy: aligned at the last dimension,
    /// and a dimension that is 1 or missing is repeated.
    pub fn broadcast(a: &[usize], b: &[usize], out: &[usize]) -> Self {
        let mut dims = [1; MAX_RANK];
        dims[MAX_RANK - out.len()..].copy_from_slice(out);
        Walk { dims, a: strides(a), b: strides(b) }
    }

    /// From a of this shape to b, which has its axes in this order.
    pub(super) fn permuted(shape: &[usize], order: &[usize]) -> Self {
        let (from, first) = (strides(shape), MAX_RANK - shape.len());
        let out: Vec<usize> = order.iter().map(|&axis| shape[axis]).collect();
        let mut walk = Self::broadcast(&[], &out, &out);
        order.iter().enumerate().for_each(|(i, &axis)| walk.a[first + i] = from[first + axis]);
        walk
    }

    /// `width` elements in each of some rows, which are `row_a` and `row_b` elements apart.
    pub(super) fn runs(rows: usize, width: usize, row_a: usize, row_b: usize) -> Self {
        let last = |row: usize, one: usize| [0, 0, 0, 0, row, one];
        Walk { dims: [1, 1, 1, 1, rows, width], a: last(row_a, 1), b: last(row_b, 1) }
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
    if let Some(copy) = x.narrow().and_then(|narrow| narrow.get()).filter(|copy| copy.dtype() == dtype) {
        return copy.clone();
    }
    if matches!((x.dtype(), dtype), (DType::F64, DType::Bf16) | (DType::Bf16, DType::F64)) {
        return to_dtype(&to_dtype(x, DType::F32), dtype);
    }
    let mut y = Buffer::unspecified(x.len(), dtype, x.device());
    let x = Stored(x);
    launch!("to_dtype", at x.0.device(), x.0.dtype(), [x], [] => convert(x, &mut y));
    y
}

/// f32 in bf16 where `other` is, and bf16 in f32 where that is: for kernels that take operands of one type. Else x itself.
pub(super) fn stored_as(x: &Buffer, other: &Buffer) -> Buffer {
    let same = x.dtype().computed() == other.dtype().computed();
    if same { to_dtype(x, other.dtype()) } else { x.clone() }
}

/// A weight as products of this thread's precision read it: in bf16 under [`Precision::Bf16`], else itself. In main memory it keeps
/// the copy until it changes: it is rounded once in a step, not in each of its chunks.
pub fn operand(x: &Buffer) -> Buffer {
    let dtype = Precision::of_operands(x);
    match x.narrow() {
        // By this thread alone: while it waited for others to help, it might be given work that waits for this copy.
        Some(copy) if x.device() == Device::Cpu && x.dtype() != dtype => copy.get_or_init(|| rounded_alone(x)).clone(),
        _ => to_dtype(x, dtype),
    }
}

fn rounded_alone(x: &Buffer) -> Buffer {
    let _metered = meter::op("to_dtype");
    let mut y = Buffer::unspecified(x.len(), DType::Bf16, x.device());
    cpu::round::<f32, _, _>(x.as_slice::<f32>("to_dtype"), y.make_mut::<Bf16>("to_dtype"));
    y
}

/// Makes what [`operand`] gives of each of these, as far as that is a copy, in one launch; they keep it until they change.
#[cfg_attr(not(feature = "cuda"), allow(unused_variables))]
pub fn prepare_operands<'a>(of: impl Iterator<Item = &'a Buffer>) {
    #[cfg(feature = "cuda")]
    {
        let missing = |x: &&Buffer| {
            x.device().is_gpu()
                && Precision::of_operands(x) != x.dtype()
                && x.narrow().is_some_and(|narrow| narrow.get().is_none())
        };
        let of: Vec<&Buffer> = of.filter(missing).collect();
        for (x, copy) in of.iter().zip(cuda::copies_in_bf16(&of)) {
            x.narrow().map(|narrow| narrow.set(copy));
        }
    }
}

/// a ∘ b with broadcasting; the result has `len` elements.
#[track_caller]
pub fn binary(op: Binary, how: Option<&Walk>, len: usize, a: &Buffer, b: &Buffer) -> Buffer {
    let [of_a, of_b, of_y] = how.map_or([len; 3], Walk::elements);
    assert_eq!(of_y, len, "{}: a result of {len} elements, its shape says {of_y}", op.name());
    check_len(op.name(), "a", a, of_a);
    check_len(op.name(), "b", b, of_b);
    let mut y = a.like(len);
    launch!(op.name(), [a, b], [y] => binary(op, how, a, b, y));
    y
}

/// f(x), of x's type.
pub fn unary(f: Unary, x: &Buffer) -> Buffer {
    unary_to(x.dtype(), f, x)
}

/// f(x), of this type.
pub fn unary_to(dtype: DType, f: Unary, x: &Buffer) -> Buffer {
    let mut result = Buffer::unspecified(x.len(), written_as(dtype, x), x.device());
    let mut y = StoredMut(&mut result);
    let of = Stored(x);
    launch!(f.name(), at x.device(), x.dtype(), [of], [y] => unary(f, of, y));
    to_dtype(&result, dtype)
}

/// What kernels write of numbers like x, where a result of this type is asked for: a CPU's write bf16 of f32, the others what
/// they read.
fn written_as(dtype: DType, x: &Buffer) -> DType {
    if dtype == DType::Bf16 && x.device() == Device::Cpu && x.dtype() == DType::F32 { dtype } else { x.dtype() }
}

/// f′(x) dy, given f(x) or x, whichever [`Unary::slope_reads_result`] says.
#[track_caller]
pub fn unary_backward(f: Unary, saved: &Buffer, dy: &Buffer) -> Buffer {
    check_len(f.name(), "dy", dy, saved.len());
    let mut dx = dy.like(dy.len());
    launch!(f.name(), [saved, dy], [dx] => unary_backward(f, saved, dy, dx));
    dx
}

/// f(x) of this type, and its gradient f′(x) dy in the place of `dy`: for a derivative that is computed from x, in one pass.
#[track_caller]
pub fn unary_and_backward(dtype: DType, f: Unary, x: &Buffer, mut dy: Buffer) -> (Buffer, Buffer) {
    debug_assert!(!f.slope_reads_result());
    check_len(f.name(), "dy", &dy, x.len());
    let mut result = Buffer::unspecified(x.len(), written_as(dtype, x), x.device());
    let mut y = StoredMut(&mut result);
    launch!(f.name(), [x], [dy, y] => unary_and_backward(f, x, y, dy));
    (to_dtype(&result, dtype), dy)
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
