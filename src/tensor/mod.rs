//! Floor 1: tensors. A [`Tensor`] is a shape and a shared buffer, contiguous and row-major.
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

use crate::kernels::{self, Buffer, Storage};
pub use crate::kernels::{DType, Real};
pub use indices::Indices;
pub use shape::Shape;

/// A contiguous, row-major array of `f32` or `f64`. Cheap to clone (the elements are shared), `Send` and `Sync`.
#[derive(Clone)]
pub struct Tensor {
    shape: Shape,
    buffer: Buffer,
}

impl Tensor {
    /// These elements in this shape, without a copy.
    ///
    /// # Panics
    /// When their number does not fit the shape.
    #[track_caller]
    pub fn new<T: Real>(shape: impl Into<Shape>, elements: Vec<T>) -> Self {
        Self::from_buffer(shape.into(), T::into_buffer(Storage::from_vec(elements)))
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

    /// All elements `value`.
    #[track_caller]
    pub fn full(shape: impl Into<Shape>, value: f64, dtype: DType) -> Self {
        let shape = shape.into();
        Tensor { shape, buffer: kernels::full(shape.elements(), value, dtype) }
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
    pub fn from_fn(shape: impl Into<Shape>, dtype: DType, mut f: impl FnMut(usize) -> f64) -> Self {
        fn fill<T: Real>(n: usize, f: &mut impl FnMut(usize) -> f64) -> Buffer {
            let mut storage = Storage::unspecified(n);
            storage.as_mut_slice().iter_mut().enumerate().for_each(|(i, x)| *x = T::from_f64(f(i)));
            T::into_buffer(storage)
        }
        let shape = shape.into();
        let n = shape.elements();
        let buffer = match dtype {
            DType::F32 => fill::<f32>(n, &mut f),
            DType::F64 => fill::<f64>(n, &mut f),
        };
        Tensor { shape, buffer }
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

    /// The buffer, for the door in [`crate::kernels`].
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
        self.to_dtype(DType::F64).as_slice::<f64>().to_vec()
    }

    /// The only element.
    ///
    /// # Panics
    /// When there is not exactly one.
    #[track_caller]
    pub fn item(&self) -> f64 {
        assert_eq!(self.elements(), 1, "item: a tensor of {} is not one number", self.shape);
        kernels::sum(&self.buffer)
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
        Tensor { shape: self.shape, buffer: kernels::to_dtype(&self.buffer, dtype) }
    }

    /// The part of the first dimension in `range`: some images of a batch. A copy.
    ///
    /// # Panics
    /// When `range` is not inside it.
    #[track_caller]
    pub fn rows(&self, range: Range<usize>) -> Self {
        let rows = self.shape.first().copied().unwrap_or(0);
        assert!(range.end <= rows, "rows: {range:?} of a tensor of {}", self.shape);
        let row: usize = self.shape[1..].iter().product();
        let buffer = kernels::slice_runs(1, rows * row, range.start * row, range.len() * row, &self.buffer);
        Tensor { shape: self.shape.with(0, range.len()), buffer }
    }

    /// Tensors stacked along their first dimension.
    ///
    /// # Panics
    /// When there are none, or their other dimensions differ.
    #[track_caller]
    pub fn concat_rows(parts: &[Tensor]) -> Self {
        let first = parts.first().expect("concat_rows: nothing to concatenate").shape;
        let same = parts.iter().all(|p| p.shape[1..] == first[1..]);
        assert!(same, "concat_rows: dimensions after the first differ");
        let rows = parts.iter().map(|p| p.shape[0]).sum();
        let runs: Vec<_> = parts.iter().map(|p| (&p.buffer, p.elements())).collect();
        Tensor { shape: first.with(0, rows), buffer: kernels::concat_runs(1, &runs) }
    }

    /// self ← self + other, in place unless shared.
    ///
    /// # Panics
    /// When the shapes differ.
    #[track_caller]
    pub fn add_assign(&mut self, other: &Tensor) {
        assert_eq!(self.shape, other.shape, "add_assign: {} and {} differ", self.shape, other.shape);
        kernels::accumulate(&mut self.buffer, &other.buffer);
    }

    /// factor · self.
    pub fn scaled(&self, factor: f64) -> Self {
        Tensor { shape: self.shape, buffer: kernels::scale(&self.buffer, factor) }
    }

    /// √ Σ x²: the Euclidean (Frobenius) norm.
    pub fn norm(&self) -> f64 {
        kernels::sum_squares(&self.buffer).sqrt()
    }

    /// Whether every element is neither NaN nor infinite.
    pub fn is_finite(&self) -> bool {
        match &self.buffer {
            Buffer::F32(s) => s.as_slice().iter().all(|x| x.is_finite()),
            Buffer::F64(s) => s.as_slice().iter().all(|x| x.is_finite()),
        }
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
        match gap.contains(&i) {
            true => write!(f, "…")?,
            false => print_level(f, inner, &values[i * size..(i + 1) * size], indent + 1, cell)?,
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
