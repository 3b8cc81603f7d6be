//! One product of matrices inside slices, with all that can be added to it: what the CPU's loops are made of. Every
//! transpose is a pair of strides, never a copy.

use std::ops::Range;

use crate::kernels::real::Strides;
use crate::kernels::team::share_rows;
use crate::kernels::{Bf16, Element, Precision, Real, meter};

/// Columns that are not divided among threads: a multiple of what every kernel has at hand at once.
pub(super) const COLUMNS: usize = 32;

/// A matrix inside a slice: where it starts, how long it is, how it is laid out.
#[derive(Clone, Copy, Debug)]
pub struct Mat<'a, T> {
    /// The slice it lies in.
    pub data: &'a [T],
    /// Index of its first element.
    pub offset: usize,
    /// Elements to the next row, elements to the next column.
    pub strides: Strides,
}

impl<'a, T> Mat<'a, T> {
    /// A row-major matrix with `cols` columns, or its transpose.
    pub fn new(data: &'a [T], cols: usize, transposed: bool) -> Self {
        Mat { data, offset: 0, strides: if transposed { (1, cols) } else { (cols, 1) } }
    }

    /// The rows from `row` on.
    pub(super) fn below(self, row: usize) -> Self {
        Mat { offset: self.offset + row * self.strides.0, ..self }
    }
}

/// A matrix inside a slice, to be written.
#[derive(Debug)]
pub struct MatMut<'a, T> {
    /// The slice it lies in.
    pub data: &'a mut [T],
    /// Index of its first element.
    pub offset: usize,
    /// Elements to the next row, elements to the next column.
    pub strides: Strides,
}

impl<'a, T> MatMut<'a, T> {
    /// A row-major matrix with `cols` columns.
    pub fn new(data: &'a mut [T], cols: usize) -> Self {
        MatMut { data, offset: 0, strides: (cols, 1) }
    }
}

/// Whether all elements of a (rows, cols) matrix are among the first `len`. Offsets and strides are anyone's choice: what
/// overflows is far outside.
fn is_inside(len: usize, offset: usize, strides: Strides, rows: usize, cols: usize) -> bool {
    let (Some(rows), Some(cols)) = (rows.checked_sub(1), cols.checked_sub(1)) else { return offset <= len };
    let (down, across) = (rows.checked_mul(strides.0), cols.checked_mul(strides.1));
    let last = down.zip(across).and_then(|(down, across)| down.checked_add(across)?.checked_add(offset));
    last.is_some_and(|last| last < len)
}

/// What is added to a product; by default nothing.
#[derive(Clone, Copy, Debug)]
pub struct Epilogue<'a, T> {
    /// What is in c already.
    pub own: bool,
    /// A number for each column of c.
    pub bias: Option<&'a [T]>,
    /// A matrix of the size of c, its columns side by side.
    pub residual: Option<Mat<'a, T>>,
}

impl<T> Epilogue<'_, T> {
    /// c ← α a b. What was in c does not matter, not even NaN.
    pub const NOTHING: Self = Epilogue { own: false, bias: None, residual: None };
    /// c ← α a b + c.
    pub const OWN: Self = Epilogue { own: true, ..Self::NOTHING };
}

/// A product as the kernels take it. Who makes one promises that every element which the sizes and strides reach lies
/// inside the allocation that its pointer points into, and that the elements of c, and those of the rounded c where there is one,
/// are distinct and nobody else's. Only products of bf16 matrices have a rounded c.
#[derive(Clone, Copy, Debug)]
pub struct Product<S: Element> {
    /// m, k, n: a is (m, k), b (k, n), c (m, n).
    pub dims: [usize; 3],
    /// Columns of the product of which this one may be a part: what the bits depend on is decided by them.
    pub whole: usize,
    /// a and its strides.
    pub a: (*const S, Strides),
    /// b and its strides.
    pub b: (*const S, Strides),
    /// What becomes of a b.
    pub target: Target<S::Computed>,
}

/// Where a product is written, and with what.
#[derive(Clone, Copy, Debug)]
pub struct Target<T> {
    /// α
    pub alpha: T,
    /// c and the elements between its rows.
    pub c: (*mut T, usize),
    /// Whether c is added to.
    pub own: bool,
    /// n numbers.
    pub bias: Option<*const T>,
    /// An (m, n) matrix and the elements between its rows.
    pub residual: Option<(*const T, usize)>,
    /// Where the finished sums go, rounded, and the elements between its rows; c then holds those that more of k is added to.
    pub rounded: Option<(*mut Bf16, usize)>,
}

impl<S: Element> Product<S> {
    /// These columns of c.
    fn columns(&self, some: Range<usize>) -> Self {
        let Product { dims: [m, k, _], b, target: Target { c, bias, residual, rounded, .. }, .. } = *self;
        Product {
            dims: [m, k, some.len()],
            b: (b.0.wrapping_add(some.start * b.1.1), b.1),
            target: Target {
                c: (c.0.wrapping_add(some.start), c.1),
                bias: bias.map(|bias| bias.wrapping_add(some.start)),
                residual: residual.map(|(r, row)| (r.wrapping_add(some.start), row)),
                rounded: rounded.map(|(c, row)| (c.wrapping_add(some.start), row)),
                ..self.target
            },
            ..*self
        }
    }
}

/// The best kernel for this type and processor, its columns shared out among the threads of a team: each reads all of a, and
/// its part of b.
///
/// # Safety
/// As [`Product`] promises.
pub(super) unsafe fn gemm_by_columns<S: Element>(product: &Product<S>) {
    struct OfAll<'a, S: Element>(&'a Product<S>);
    // SAFETY: a, b and what is added are only read, and every part writes columns of its own. All of it stays borrowed until
    // this function ends, by the caller's promise.
    unsafe impl<S: Element> Sync for OfAll<'_, S> {}
    let all = OfAll(product);
    let [m, k, n] = product.dims;
    share_rows(n.div_ceil(COLUMNS), m * k * n, (&mut [(); 0], &mut [(); 0]), |some, _, _| {
        let OfAll(product) = &all;
        let some = product.columns(some.start * COLUMNS..n.min(some.end * COLUMNS));
        // SAFETY: the caller's promise, for some of the columns.
        unsafe { S::gemm(&some) }
    });
}

/// c ← α a b + what `plus` says, with a of (m, k), b of (k, n), and c of (m, n).
///
/// # Panics
/// When a matrix reaches out of its slice, or `c`'s rows overlap.
pub fn gemm<S: Element>(
    dims: [usize; 3],
    alpha: S::Computed,
    a: Mat<'_, S>,
    b: Mat<'_, S>,
    plus: Epilogue<'_, S::Computed>,
    c: MatMut<'_, S::Computed>,
) {
    gemm_with(S::gemm, dims, alpha, a, b, plus, (c, None));
}

/// [`gemm`] by a kernel of one's choice, which may ask nothing of its caller but what [`Product`] promises. The result is rounded
/// where there is something for it; what c then holds, nobody knows.
pub(super) fn gemm_with<S: Element, R>(
    kernel: unsafe fn(&Product<S>) -> R,
    [m, k, n]: [usize; 3],
    alpha: S::Computed,
    a: Mat<'_, S>,
    b: Mat<'_, S>,
    Epilogue { own, bias, residual }: Epilogue<'_, S::Computed>,
    (c, rounded): (MatMut<'_, S::Computed>, Option<MatMut<'_, Bf16>>),
) {
    assert!(is_inside(a.data.len(), a.offset, a.strides, m, k), "gemm: a reaches out of its slice");
    assert!(is_inside(b.data.len(), b.offset, b.strides, k, n), "gemm: b reaches out of its slice");
    assert!(is_inside(c.data.len(), c.offset, c.strides, m, n), "gemm: c reaches out of its slice");
    let distinct = |strides: Strides| strides.1 == 1 && (strides.0 >= n || m <= 1);
    assert!(distinct(c.strides), "gemm: the rows of c overlap");
    if let Some(c) = &rounded {
        assert_eq!(S::DTYPE, Bf16::DTYPE, "gemm: only products of bf16 matrices are rounded");
        assert!(is_inside(c.data.len(), c.offset, c.strides, m, n), "gemm: the rounded c reaches out of its slice");
        assert!(distinct(c.strides), "gemm: the rows of the rounded c overlap");
    }
    assert!(bias.is_none_or(|bias| bias.len() == n), "gemm: the bias is not one number for each of {n} columns");
    let fits = |r: Mat<'_, S::Computed>| r.strides.1 == 1 && is_inside(r.data.len(), r.offset, r.strides, m, n);
    assert!(residual.is_none_or(fits), "gemm: the residual has rows with gaps, or reaches out of its slice");
    if m == 0 || n == 0 {
        return;
    }
    // With k = 0 there is nothing to step over in a or b, whatever their strides say.
    let [a_strides, b_strides] = if k == 0 { [(0, 0); 2] } else { [a.strides, b.strides] };
    meter::product([m, k, n]);
    let product = Product {
        dims: [m, k, n],
        whole: n,
        a: (a.data.as_ptr().wrapping_add(a.offset), a_strides),
        b: (b.data.as_ptr().wrapping_add(b.offset), b_strides),
        target: Target {
            alpha,
            c: (c.data.as_mut_ptr().wrapping_add(c.offset), c.strides.0),
            own,
            bias: bias.map(<[_]>::as_ptr),
            residual: residual.map(|r| (r.data.as_ptr().wrapping_add(r.offset), r.strides.0)),
            rounded: rounded.map(|c| (c.data.as_mut_ptr().wrapping_add(c.offset), c.strides.0)),
        },
    };
    // SAFETY: the assertions above: all matrices lie inside their slices (with k = 0 nothing of a or b is read), and
    // the elements of c are distinct and borrowed for writing.
    unsafe {
        kernel(&product);
    }
}

/// The best kernel that there is for f32 and this processor.
///
/// # Safety
/// As [`Product`] promises.
pub(in crate::kernels) unsafe fn of_f32(product: &Product<f32>) {
    assert_eq!(Precision::here_on_cpu(), Precision::F32, "products of f32 matrices");
    // SAFETY: the caller's promise.
    unsafe {
        #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
        if super::microkernel::sgemm(product) {
            return;
        }
        portable(product, matrixmultiply::sgemm);
    }
}

/// That for f64.
///
/// # Safety
/// As [`Product`] promises.
pub(in crate::kernels) unsafe fn of_f64(product: &Product<f64>) {
    // SAFETY: the caller's promise.
    unsafe { portable(product, matrixmultiply::dgemm) }
}

/// That for bf16.
///
/// # Safety
/// As [`Product`] promises.
///
/// # Panics
/// Where products of this thread are not in bf16, or cannot be.
pub(in crate::kernels) unsafe fn of_bf16(product: &Product<Bf16>) {
    assert_eq!(Precision::here_on_cpu(), Precision::Bf16, "products of bf16 matrices");
    // SAFETY: the caller's promise; the processor has the instructions, or the line above had panicked.
    #[cfg(target_arch = "x86_64")]
    unsafe {
        super::bf16::gemm(product);
    }
    #[cfg(not(target_arch = "x86_64"))]
    unreachable!("available, but not written: {product:?}");
}

/// The product by matrixmultiply, for f64 and for processors that the micro-kernel was not written for.
///
/// # Safety
/// As [`Product`] promises; `sgemm` is matrixmultiply's function for `T`.
unsafe fn portable<T: Real>(product: &Product<T>, sgemm: PortableGemm<T>) {
    let Product { dims: [m, k, n], a, b, target: Target { alpha, c, own, bias, residual, .. }, .. } = *product;
    let beta = own || bias.is_some() || residual.is_some();
    // SAFETY: the caller's promise. matrixmultiply wants what `Product` promises: elements inside, c's distinct.
    unsafe {
        for i in (0..m).filter(|_| bias.is_some() || residual.is_some()) {
            for j in 0..n {
                let c = c.0.add(i * c.1 + j);
                let own = if own { *c } else { T::ZERO };
                let bias = bias.map_or(T::ZERO, |bias| *bias.add(j));
                *c = own + bias + residual.map_or(T::ZERO, |(r, row)| *r.add(i * row + j));
            }
        }
        let s = |stride: usize| stride as isize;
        let (sa, sb, beta) = (a.1, b.1, if beta { T::ONE } else { T::ZERO });
        sgemm(m, k, n, alpha, a.0, s(sa.0), s(sa.1), b.0, s(sb.0), s(sb.1), beta, c.0, s(c.1), 1);
    }
}

/// The argument list of BLAS.
type PortableGemm<T> =
    unsafe fn(usize, usize, usize, T, *const T, isize, isize, *const T, isize, isize, T, *mut T, isize, isize);

#[cfg(test)]
mod tests {
    use super::*;

    /// Against a walk over all elements, in a width in which everything that overflows in `usize` fits.
    #[test]
    #[cfg_attr(miri, ignore = "large")]
    fn what_is_inside_is_what_a_walk_finds_inside() {
        let wide = [0, 1, 2, 3, 7, usize::MAX / 2, usize::MAX / 2 + 1, usize::MAX - 1, usize::MAX];
        let mut seen = [0; 2];
        for (len, offset) in [0, 1, 7, 8, usize::MAX >> 4].into_iter().flat_map(|len| wide.map(|x| (len, x))) {
            for strides in wide.into_iter().flat_map(|row| wide.map(|column| (row, column))) {
                for (rows, cols) in (0..4).flat_map(|rows| (0..4).map(move |cols| (rows, cols))) {
                    let at = |i: usize, j: usize| {
                        offset as u128 + i as u128 * strides.0 as u128 + j as u128 * strides.1 as u128
                    };
                    let mut elements = (0..rows).flat_map(|i| (0..cols).map(move |j| at(i, j)));
                    let expected = elements.all(|at| at < len as u128) && (rows * cols > 0 || offset <= len);
                    let found = is_inside(len, offset, strides, rows, cols);
                    assert_eq!(found, expected, "{rows} × {cols} at {offset} by {strides:?} in {len}");
                    seen[usize::from(found)] += 1;
                }
            }
        }
        assert!(seen.iter().all(|n| *n > 1000), "{seen:?}");
    }

    /// A sum that comes round to a small number would let a safe call write anywhere.
    #[test]
    fn matrices_that_reach_out_are_refused_even_if_their_end_overflows() {
        let x = [1.0f32; 16];
        let inside = || Mat { data: &x, offset: 0, strides: (4, 1) };
        let far = [(usize::MAX, (4, 1)), (0, (usize::MAX, 1)), (0, (usize::MAX / 3 + 1, 1)), (13, (1 << 63, 1 << 63))];
        let refused = |what: &str, call: &mut dyn FnMut()| {
            let panic = std::panic::catch_unwind(std::panic::AssertUnwindSafe(call)).expect_err(what);
            let message = crate::error::panic_message(&*panic);
            assert!(message.contains(what), "{message}, where {what} was expected");
        };
        let dims = [4, 4, 4];
        let mut c = [0.0f32; 16];
        for (offset, strides) in far {
            let bad = Mat { data: &x, offset, strides };
            let mut plain = |a, b, plus| gemm(dims, 1.0, a, b, plus, MatMut::new(&mut c, 4));
            refused("a reaches out", &mut || plain(bad, inside(), Epilogue::NOTHING));
            refused("b reaches out", &mut || plain(inside(), bad, Epilogue::NOTHING));
            let residual = Some(Mat { strides: (bad.strides.0, 1), ..bad });
            if offset != 13 {
                refused("the residual", &mut || plain(inside(), inside(), Epilogue { residual, ..Epilogue::NOTHING }));
            }
            refused("c reaches out", &mut || {
                let c = MatMut { data: &mut [0.0; 16], offset, strides };
                gemm(dims, 1.0, inside(), inside(), Epilogue::NOTHING, c);
            });
        }
        // SAFETY: it touches nothing.
        unsafe fn never<S: Element>(_: &Product<S>) {
            unreachable!("a product that is refused");
        }
        let x = [Bf16::default(); 16];
        let mut rounded = [Bf16::default(); 16];
        for (offset, strides) in far {
            refused("the rounded c reaches out", &mut || {
                let (a, b) = (Mat::new(&x, 4, false), Mat::new(&x, 4, false));
                let to = (MatMut::new(&mut c, 4), Some(MatMut { data: &mut rounded, offset, strides }));
                gemm_with(never::<Bf16>, dims, 1.0, a, b, Epilogue::NOTHING, to);
            });
        }
        for strides in [(3, 1), (1, 4)] {
            refused("rows of the rounded c overlap", &mut || {
                let (a, b) = (Mat::new(&x, 4, false), Mat::new(&x, 4, false));
                let to = (MatMut::new(&mut c, 4), Some(MatMut { data: &mut rounded, offset: 0, strides }));
                gemm_with(never::<Bf16>, dims, 1.0, a, b, Epilogue::NOTHING, to);
            });
        }
        refused("only products of bf16", &mut || {
            let to = (MatMut::new(&mut c, 4), Some(MatMut::new(&mut rounded, 4)));
            gemm_with(never::<f32>, dims, 1.0, inside(), inside(), Epilogue::NOTHING, to);
        });
        assert_eq!(rounded, [Bf16::default(); 16]);
        let x = [1.0f32; 16];
        let inside = || Mat { data: &x, offset: 0, strides: (4, 1) };
        let mut with_c = |strides| {
            gemm(dims, 1.0, inside(), inside(), Epilogue::NOTHING, MatMut { data: &mut c, offset: 0, strides });
        };
        refused("rows of c overlap", &mut || with_c((3, 1)));
        refused("rows of c overlap", &mut || with_c((0, 1)));
        refused("rows of c overlap", &mut || with_c((4, 0)));
        refused("rows of c overlap", &mut || with_c((1, 4)));
        let bias = &[0.0; 3][..];
        refused("the bias", &mut || {
            gemm(
                dims,
                1.0,
                inside(),
                inside(),
                Epilogue { bias: Some(bias), ..Epilogue::NOTHING },
                MatMut::new(&mut c, 4),
            );
        });
        assert_eq!(c, [0.0; 16]);
    }

    #[test]
    fn matrices_without_elements_are_not_walked_through() {
        fn product<T: Real>(dims: [usize; 3], strides: Strides) -> [T; 60] {
            let nothing = Mat::<T> { data: &[], offset: 0, strides };
            let mut c = [T::ONE; 60];
            gemm(
                dims,
                T::ONE,
                nothing,
                nothing,
                Epilogue::NOTHING,
                MatMut { data: &mut c, offset: 0, strides: (3, 1) },
            );
            c
        }
        // Many tiles of an inner size of 0, over operands of which there is nothing: c ← 0.
        for strides in [(0, 1), (5, 1), (1, 5), (usize::MAX, usize::MAX)] {
            assert_eq!(product::<f32>([20, 0, 3], strides), [0.0; 60]);
            assert_eq!(product::<f64>([20, 0, 3], strides), [0.0; 60]);
        }
        assert_eq!(product::<f32>([0, 0, 3], (5, 5)), [1.0; 60], "no rows: untouched");
        assert_eq!(product::<f32>([20, 0, 0], (5, 5)), [1.0; 60], "no columns: untouched");
    }
}
