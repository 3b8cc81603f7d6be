//! Floor 0, above the kernels: tensors. A [`Tensor`] is a shape and a shared buffer, contiguous and row-major.
//!
//! Not generic: its element type (`f32`, `f64`) is a fact at run time, so that a function of the paper reads
//! `fn f(a: &Tensor) -> Tensor`, trains in f32, and is checked in f64 in the same build. What a tensor cannot do
//! here (arithmetic with gradients) is the business of [`crate::autograd`].

mod indices;
mod shape;

use std::fmt;
use std::ops::Range;

use rand::Rng;
use rand_distr::{Distribution, StandardNormal};

use crate::kernels::reduce::{self, Finite};
use crate::kernels::{Buffer, tokens};
pub use crate::kernels::{DType, Device, Reading, Real};
use crate::kernels::{elementwise, optim};
pub use indices::Indices;
pub use shape::Shape;

/// A contiguous, row-major array of `f32` or `f64` (or bf16, see [`DType::Bf16`]). Cheap to clone (the elements are shared),
/// `Send` and `Sync`.
#[derive(Clone)]
pub struct Tensor {
    shape: Shape,
    buffer: Buffer,
}

impl Tensor {
    /// These elements in this shape.
    ///
    /// # Panics
    /// When their number does not fit the shape.
    #[track_caller]
    pub fn new<T: Real>(shape: impl Into<Shape>, elements: Vec<T>) -> Self {
        Self::from_buffer(shape.into(), Buffer::from_vec(elements))
    }

    /// A buffer in a shape.
    ///
    /// # Panics
    /// When the number of elements does not fit.
    #[track_caller]
    pub(crate) fn from_buffer(shape: impl Into<Shape>, buffer: Buffer) -> Self {
        let shape = shape.into();
        assert_eq!(shape.elements(), buffer.len(), "{} elements do not make a tensor of {shape}", buffer.len());
        Tensor { shape, buffer }
    }

    /// All elements `value`; on the CPU.
    #[track_caller]
    pub fn full(shape: impl Into<Shape>, value: f64, dtype: DType) -> Self {
        let shape = shape.into();
        Tensor { shape, buffer: Buffer::full(shape.elements(), value, dtype, Device::Cpu) }
    }

    /// All elements `value`, in the shape, of the type and on the device of this tensor.
    pub fn full_like(&self, value: f64) -> Self {
        Tensor { shape: self.shape, buffer: Buffer::full(self.elements(), value, self.dtype(), self.device()) }
    }

    /// All elements 0.
    #[track_caller]
    pub fn zeros(shape: impl Into<Shape>, dtype: DType) -> Self {
        Self::full(shape, 0.0, dtype)
    }

    /// A scalar: shape \[\].
    pub fn scalar(value: f64, dtype: DType) -> Self {
        Self::full([], value, dtype)
    }

    /// A scalar of the type and on the device of this tensor.
    pub(crate) fn number(&self, value: f64) -> Self {
        Tensor { shape: [].into(), buffer: Buffer::full(1, value, self.dtype(), self.device()) }
    }

    /// Independent draws from N(0, `std`²). The same draws, rounded, whatever the element type.
    #[track_caller]
    pub fn normal(shape: impl Into<Shape>, std: f64, dtype: DType, rng: &mut impl Rng) -> Self {
        Self::from_fn(shape, dtype, |_| {
            let z: f64 = StandardNormal.sample(rng);
            std * z
        })
    }

    /// The element with flat index i is `f(i)`.
    #[track_caller]
    pub fn from_fn(shape: impl Into<Shape>, dtype: DType, f: impl FnMut(usize) -> f64) -> Self {
        let shape = shape.into();
        Tensor { shape, buffer: Buffer::from_fn(shape.elements(), dtype, f) }
    }

    /// The dimensions.
    pub fn shape(&self) -> &Shape {
        &self.shape
    }

    /// The dimensions, exactly `N` of them: `let [b, n, d] = x.dims("attention");`
    ///
    /// # Panics
    /// When there are more or fewer; the message names `op`.
    #[track_caller]
    pub fn dims<const N: usize>(&self, op: &str) -> [usize; N] {
        match self.shape[..].try_into() {
            Ok(dims) => dims,
            Err(_) => panic!("{op}: expected {N} dimensions, got a tensor of {}", self.shape),
        }
    }

    /// The size of the last dimension; 1 for a scalar.
    pub fn last_dim(&self) -> usize {
        self.shape.last().copied().unwrap_or(1)
    }

    /// Number of elements.
    pub fn elements(&self) -> usize {
        self.shape.elements()
    }

    /// What the elements are.
    pub fn dtype(&self) -> DType {
        self.buffer.dtype()
    }

    /// Where the elements live.
    pub fn device(&self) -> Device {
        self.buffer.device()
    }

    /// The same tensor on another device; shared, not copied, when it already is there.
    pub fn to_device(&self, device: Device) -> Self {
        Tensor { shape: self.shape, buffer: self.buffer.to_device(device) }
    }

    /// The buffer, for the doors in [`crate::kernels`].
    pub(crate) fn buffer(&self) -> &Buffer {
        &self.buffer
    }

    /// The buffer, taken out.
    pub(crate) fn into_buffer(self) -> Buffer {
        self.buffer
    }

    /// The buffer, to change in place.
    pub(crate) fn buffer_mut(&mut self) -> &mut Buffer {
        &mut self.buffer
    }

    /// Whether another tensor shares the elements.
    pub(crate) fn is_shared(&self) -> bool {
        self.buffer.is_shared()
    }

    /// The elements, row-major.
    ///
    /// # Panics
    /// When they are not of type `T`.
    #[track_caller]
    pub fn as_slice<T: Real>(&self) -> &[T] {
        self.buffer.as_slice("as_slice")
    }

    /// The elements, to change in place; copied first when another tensor shares them.
    ///
    /// # Panics
    /// When they are not of type `T`.
    #[track_caller]
    pub fn as_mut_slice<T: Real>(&mut self) -> &mut [T] {
        self.buffer.make_mut("as_mut_slice")
    }

    /// The elements as f64, whatever they are.
    pub fn to_f64_vec(&self) -> Vec<f64> {
        self.to_device(Device::Cpu).to_dtype(DType::F64).as_slice::<f64>().to_vec()
    }

    /// The only element, read out: on a device that computes asynchronously, the one call that waits.
    ///
    /// # Panics
    /// When there is not exactly one.
    #[track_caller]
    pub fn item(&self) -> f64 {
        assert_eq!(self.elements(), 1, "item: a tensor of {} is not one number", self.shape);
        self.to_f64_vec()[0]
    }

    /// Begins to read out all elements of these tensors, one tensor after the other, while their device goes on with what it is
    /// asked for next.
    ///
    /// # Panics
    /// When they are on two GPUs.
    #[track_caller]
    pub fn begin_reading(tensors: &[&Tensor]) -> Reading {
        Reading::begin(&tensors.iter().map(|x| &x.buffer).collect::<Vec<_>>())
    }

    /// The same elements in another shape, without a copy.
    ///
    /// # Panics
    /// When the number of elements would change.
    #[track_caller]
    pub fn reshape(&self, shape: impl Into<Shape>) -> Self {
        let shape = shape.into();
        assert_eq!(shape.elements(), self.elements(), "reshape: {} does not have the elements of {shape}", self.shape);
        Tensor { shape, buffer: self.buffer.clone() }
    }

    /// The elements in another type; shared, not copied, when they already are of it.
    pub fn to_dtype(&self, dtype: DType) -> Self {
        Tensor { shape: self.shape, buffer: elementwise::to_dtype(&self.buffer, dtype) }
    }

    /// The dimensions before an axis, the axis, and those after it: (outer, n, inner).
    ///
    /// # Panics
    /// When there is no such axis; the message names `op`.
    #[track_caller]
    pub(crate) fn around(&self, op: &str, axis: usize) -> [usize; 3] {
        assert!(axis < self.shape.len(), "{op}: axis {axis} of a tensor of {}", self.shape);
        let product = |dims: &[usize]| dims.iter().product();
        [product(&self.shape[..axis]), self.shape[axis], product(&self.shape[axis + 1..])]
    }

    /// Two axes exchanged. A copy.
    ///
    /// # Panics
    /// When there are no such axes.
    #[track_caller]
    pub fn transpose(&self, a: usize, b: usize) -> Self {
        let mut order: Vec<usize> = (0..self.shape.len()).collect();
        assert!(a.max(b) < order.len(), "transpose: axis {} of a tensor of {}", a.max(b), self.shape);
        if a == b {
            return self.clone();
        }
        order.swap(a, b);
        self.permute("transpose", &order)
    }

    /// The axes in another order: axis i of the result is axis `order[i]` of this tensor. A copy, for the operation `op`.
    pub(crate) fn permute(&self, op: &'static str, order: &[usize]) -> Self {
        let buffer = tokens::permute(op, &self.shape, order, &self.buffer);
        let shape: Vec<usize> = order.iter().map(|&axis| self.shape[axis]).collect();
        Tensor { shape: Shape::new(&shape), buffer }
    }

    /// The part of an axis in `range`. A copy.
    ///
    /// # Panics
    /// When `range` is not inside it.
    #[track_caller]
    pub fn slice(&self, axis: usize, range: Range<usize>) -> Self {
        let [outer, n, inner] = self.around("slice", axis);
        let inside = range.start <= range.end && range.end <= n;
        assert!(inside, "slice: {range:?} of axis {axis} of a tensor of {}", self.shape);
        let buffer = tokens::slice(outer, n * inner, range.start * inner, range.len() * inner, &self.buffer);
        Tensor { shape: self.shape.with(axis, range.len()), buffer }
    }

    /// The transpose of [`slice`](Self::slice): this tensor at `start` along an axis of length `n`, 0 elsewhere.
    pub(crate) fn unslice(&self, axis: usize, n: usize, start: usize) -> Self {
        let [outer, len, inner] = self.around("slice", axis);
        let buffer = tokens::unslice(outer, n * inner, start * inner, len * inner, &self.buffer);
        Tensor { shape: self.shape.with(axis, n), buffer }
    }

    /// Tensors one after the other along an axis.
    ///
    /// # Panics
    /// When there are none, or they differ in another dimension.
    #[track_caller]
    pub fn concat(parts: &[&Tensor], axis: usize) -> Self {
        let first = parts.first().expect("concat: nothing to concatenate");
        let [outer, _, inner] = first.around("concat", axis);
        let runs: Vec<(&Buffer, usize)> = parts
            .iter()
            .map(|part| {
                let fits =
                    part.shape.len() == first.shape.len() && part.shape.with(axis, 0) == first.shape.with(axis, 0);
                assert!(fits, "concat: shapes {} and {} do not fit along axis {axis}", first.shape, part.shape);
                (&part.buffer, part.shape[axis] * inner)
            })
            .collect();
        let n = parts.iter().map(|part| part.shape[axis]).sum();
        Tensor { shape: first.shape.with(axis, n), buffer: tokens::concat(outer, &runs) }
    }

    /// The part of the first dimension in `range`: some images of a batch. A copy.
    ///
    /// # Panics
    /// When `range` is not inside it.
    #[track_caller]
    pub fn rows(&self, range: Range<usize>) -> Self {
        self.slice(0, range)
    }

    /// Tensors stacked along their first dimension.
    ///
    /// # Panics
    /// When there are none, or their other dimensions differ.
    #[track_caller]
    pub fn concat_rows(parts: &[Tensor]) -> Self {
        Self::concat(&parts.iter().collect::<Vec<_>>(), 0)
    }

    /// self ← self + other, in place unless shared.
    ///
    /// # Panics
    /// When the shapes differ.
    #[track_caller]
    pub fn add_assign(&mut self, other: &Tensor) {
        assert_eq!(self.shape, other.shape, "add_assign: {} and {} differ", self.shape, other.shape);
        elementwise::accumulate(&mut self.buffer, &other.buffer);
    }

    /// self ← before, if `count`, a scalar, is not 0: the device sees that by itself.
    ///
    /// # Panics
    /// When the shapes differ.
    #[track_caller]
    pub(crate) fn undo_unless_zero(&mut self, count: &Tensor, before: &Tensor) {
        assert_eq!(self.shape, before.shape, "undo: {} was {} before", self.shape, before.shape);
        optim::undo(&count.buffer, &before.buffer, &mut self.buffer);
    }

    /// factor · self.
    pub fn scaled(&self, factor: f64) -> Self {
        Tensor { shape: self.shape, buffer: elementwise::scale(&self.buffer, factor) }
    }

    /// Σ x, of shape \[\]; summed in f64.
    pub fn sum(&self) -> Self {
        Self::from_buffer([], reduce::sum([1, self.elements(), 1], 1.0, &self.buffer))
    }

    /// √ Σ x²: the Euclidean (Frobenius) norm, of shape \[\], in f64.
    pub fn l2_norm(&self) -> Self {
        Self::from_buffer([], reduce::norm(&self.to_dtype(DType::F64).buffer))
    }

    /// The [norm](Self::l2_norm), read out.
    pub fn norm(&self) -> f64 {
        self.l2_norm().item()
    }

    /// Whether every element is neither NaN nor infinite: read out.
    pub fn is_finite(&self) -> bool {
        let wide = if self.dtype() == DType::Bf16 { &self.to_dtype(DType::F32) } else { self };
        Self::from_buffer([], reduce::count_non_finite(&[(Finite::Elements, &wide.buffer)])).item() == 0.0
    }

    /// f of each element, computed in f64 on the host, in parallel where there are many: for what has no kernel.
    pub fn map(&self, f: impl Fn(f64) -> f64 + Sync) -> Self {
        Tensor { shape: self.shape, buffer: elementwise::map(&self.buffer, f) }
    }

    /// f of each element and its partner in `other`, as [`map`](Self::map).
    ///
    /// # Panics
    /// When the shapes, types or devices differ.
    #[track_caller]
    pub fn zip_map(&self, other: &Tensor, f: impl Fn(f64, f64) -> f64 + Sync) -> Self {
        assert_eq!(self.shape, other.shape, "zip_map: {} and {} differ", self.shape, other.shape);
        Tensor { shape: self.shape, buffer: elementwise::zip_map(&self.buffer, &other.buffer, f) }
    }

    /// The largest |x − y|; NaN when an element of either is NaN. What tests compare with.
    ///
    /// # Panics
    /// When the shapes differ.
    #[track_caller]
    pub fn max_abs_diff(&self, other: &Tensor) -> f64 {
        assert_eq!(self.shape, other.shape, "max_abs_diff: {} and {} differ", self.shape, other.shape);
        let pairs = self.to_f64_vec().into_iter().zip(other.to_f64_vec());
        pairs.map(|(x, y)| (x - y).abs()).fold(0.0, |worst, d| if d.is_nan() || d > worst { d } else { worst })
    }
}

impl fmt::Debug for Tensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tensor({} of {})", self.dtype(), self.shape)
    }
}

/// Rows and columns from each end that are printed of a dimension too long to show whole.
const EDGE: usize = 3;

/// NumPy's layout: nested brackets, aligned columns, the middle of long dimensions left out, and the shape below.
impl fmt::Display for Tensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let values = self.to_f64_vec();
        let precision = f.precision().unwrap_or(4);
        let largest = values.iter().filter(|x| x.is_finite()).fold(0.0f64, |m, x| m.max(x.abs()));
        let scientific = largest != 0.0 && !(1e-3..1e5).contains(&largest);
        let text = |x: f64| if scientific { format!("{x:.precision$e}") } else { format!("{x:.precision$}") };
        let width = values.iter().map(|&x| text(x).len()).max().unwrap_or(0);
        print_level(f, &self.shape, &values, 0, &|x| format!("{:>width$}", text(x)))?;
        write!(f, "\n{} of {}", self.dtype(), self.shape)
    }
}

fn print_level(
    f: &mut fmt::Formatter<'_>,
    shape: &[usize],
    values: &[f64],
    indent: usize,
    cell: &dyn Fn(f64) -> String,
) -> fmt::Result {
    let Some((&n, inner)) = shape.split_first() else { return write!(f, "{}", cell(values[0])) };
    let size: usize = inner.iter().product();
    let separator = match inner.len() {
        0 => ", ".to_owned(),
        rank => format!(",{}{}", "\n".repeat(rank), " ".repeat(indent + 1)),
    };
    let gap = if n > 2 * EDGE + 1 { EDGE..n - EDGE } else { 0..0 };
    write!(f, "[")?;
    for i in (0..n).filter(|i| !gap.contains(i) || *i == gap.start) {
        if i > 0 {
            write!(f, "{separator}")?;
        }
        if gap.contains(&i) {
            write!(f, "…")?;
        } else {
            print_level(f, inner, &values[i * size..(i + 1) * size], indent + 1, cell)?;
        }
    }
    write!(f, "]")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_person_can_read_a_tensor() {
        let x = Tensor::new([2, 2], vec![1.0f32, -2.5, 0.0, 10.0]);
        assert_eq!(x.to_string(), "[[ 1.0000, -2.5000],\n [ 0.0000, 10.0000]]\nf32 of [2, 2]");
        assert_eq!(format!("{:.1}", Tensor::scalar(3.0, DType::F64)), "3.0\nf64 of []");
        let long = Tensor::from_fn([100], DType::F32, |i| i as f64);
        assert_eq!(format!("{long:.0}"), "[ 0,  1,  2, …, 97, 98, 99]\nf32 of [100]");
        assert_eq!(Tensor::zeros([0, 3], DType::F32).to_string(), "[]\nf32 of [0, 3]");
        assert_eq!(format!("{:.1}", Tensor::new([2], vec![1e-9f64, 2e-9])), "[1.0e-9, 2.0e-9]\nf64 of [2]");
    }

    #[test]
    fn tensors_cross_threads() {
        fn crosses<T: Send + Sync>() {}
        crosses::<Tensor>();
    }

    #[test]
    fn the_same_noise_in_both_element_types() {
        let draw = |dtype| {
            let mut rng = crate::rng::stream(1, crate::rng::Purpose::Noise, [0, 0]);
            Tensor::normal([50], 0.25, dtype, &mut rng)
        };
        assert!(draw(DType::F32).to_dtype(DType::F64).max_abs_diff(&draw(DType::F64)) < 1e-7);
    }

    #[test]
    fn comparing_does_not_overlook_nan() {
        let x = Tensor::new([3], vec![1.0f32, f32::NAN, 1.0]);
        assert!(x.max_abs_diff(&x).is_nan());
        assert!(!x.is_finite());
    }

    #[test]
    #[should_panic(expected = "reshape: [2, 3] does not have the elements of [4]")]
    fn reshaping_keeps_every_element() {
        Tensor::zeros([2, 3], DType::F32).reshape([4]);
    }

    #[test]
    fn changing_a_clone_leaves_the_original() {
        let x = Tensor::new([2], vec![1.0f64, 2.0]);
        let mut y = x.clone();
        y.add_assign(&x);
        assert_eq!((x.to_f64_vec(), y.to_f64_vec()), (vec![1.0, 2.0], vec![2.0, 4.0]));
    }
}
