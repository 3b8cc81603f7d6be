//! The element types, sealed: `f32` for training, `f64` for gradient checks; and [`Bf16`], in which nothing is computed.

use std::cell::RefCell;
use std::fmt::{Debug, Display};
use std::iter::Sum;
use std::ops::{Add, AddAssign, Div, DivAssign, Mul, MulAssign, Neg, Sub, SubAssign};
use std::sync::{Arc, Mutex};

use super::buffer::{Buffer, Elements, Storage};
use super::matmul::gemm::{self, Product};
use super::matmul::rounded::Rounded;
use super::recycler::FreeList;

named! {
    /// What a tensor's elements are.
    #[derive(Hash)]
    pub enum DType: "element type" {
        /// 32-bit floating point: training.
        F32 => "f32",
        /// 64-bit floating point: gradient checks and parity.
        F64 => "f64",
        /// bfloat16, 8 significant bits: what products read, under [`Precision::Bf16`](super::Precision).
        /// Few operations take it; what they write is rounded once, to the nearest, of two equally near the even one.
        Bf16 => "bf16",
    }
}

impl DType {
    /// Bytes of one element.
    pub fn size(self) -> usize {
        match self {
            DType::F32 => 4,
            DType::F64 => 8,
            DType::Bf16 => 2,
        }
    }

    /// What is computed in: itself, but f32 for bf16.
    pub(super) fn computed(self) -> DType {
        if self == DType::Bf16 { DType::F32 } else { self }
    }
}

/// The upper half of an f32.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(transparent)]
pub struct Bf16(pub u16);

impl Bf16 {
    /// The nearest, of two equally near the even one.
    pub fn from_f32(x: f32) -> Self {
        let bits = x.to_bits();
        if x.is_nan() {
            return sealed::Stored::NAN; // to round its bits up could make it 0
        }
        Bf16(((bits + 0x7fff + (bits >> 16 & 1)) >> 16) as u16)
    }

    /// The same number.
    #[inline(always)]
    pub fn to_f32(self) -> f32 {
        f32::from_bits(u32::from(self.0) << 16)
    }
}

impl From<Bf16> for f32 {
    #[inline(always)]
    fn from(x: Bf16) -> f32 {
        x.to_f32()
    }
}

/// What memory holds: a [`Real`], or a [`Bf16`].
pub trait Element: sealed::Stored + Debug {
    /// The runtime name of this type.
    const DTYPE: DType;
    /// What is computed in: itself, but f32 for bf16.
    type Computed: Real;

    /// The nearest of this type.
    fn nearest<T: Real>(x: T) -> Self;
    /// The nearest of that type.
    fn to<T: Real>(self) -> T;
}

/// The strides of a matrix inside a slice: `(elements to the next row, elements to the next column)`.
pub type Strides = (usize, usize);

/// `f32` or `f64`: what the kernels are generic over.
///
/// Sealed by its private supertrait; the set of element types is closed because [`Buffer`] is an enum over them.
pub trait Real:
    Element<Computed = Self>
    + PartialOrd
    + Display
    + Add<Output = Self>
    + Sub<Output = Self>
    + Mul<Output = Self>
    + Div<Output = Self>
    + Neg<Output = Self>
    + AddAssign
    + SubAssign
    + MulAssign
    + DivAssign
    + Sum
{
    /// What is stored in half the size where that does: bf16 for f32. (For f64 there is none: itself.)
    type Narrow: Rounded<Computed = Self>;
    /// 0.
    const ZERO: Self;
    /// 1.
    const ONE: Self;

    /// The nearest value of this type.
    fn from_f64(x: f64) -> Self;
    /// This value in f64, exactly.
    fn to_f64(self) -> f64;
    /// √x.
    fn sqrt(self) -> Self;
    /// |x|.
    fn abs(self) -> Self;
    /// self · a + b with one rounding.
    fn mul_add(self, a: Self, b: Self) -> Self;
    /// eˣ: to half a unit in the last place in f64, to 1.2·10⁻⁷ relative in f32 (where it compiles to vector code).
    fn exp(self) -> Self;
    /// ln x.
    fn ln(self) -> Self;
    /// tanh x.
    fn tanh(self) -> Self;
    /// The standard normal density φ(x) and distribution function Φ(x), which share one exponential.
    fn normal_pdf_cdf(self) -> (Self, Self);
    /// Whether the value is neither NaN nor infinite.
    fn is_finite(self) -> bool;
}

pub(super) mod sealed {
    use super::*;

    /// What a [`Storage`] asks of its elements.
    pub trait Stored: Copy + Default + Send + Sync + 'static {
        /// What memory is filled with that a kernel is to write.
        const NAN: Self;

        /// A buffer of this storage.
        fn wrap(storage: Storage<Self>) -> Buffer
        where
            Self: Element;
        /// This thread's free buffers of this type.
        fn with_free_list<R>(f: impl FnMut(&mut FreeList<Self>) -> R) -> R;
        /// The free buffers that any thread may take.
        fn shared_free_list() -> &'static Mutex<FreeList<Self>>;
        /// A product of matrices of this type, by the best kernel that there is for it and this processor.
        ///
        /// # Safety
        /// As [`Product`] promises.
        unsafe fn gemm(product: &Product<Self>)
        where
            Self: Element;
    }
}

macro_rules! impl_element {
    ($t:ident, $dtype:ident, $computed:ident, $nan:expr, $nearest:expr, $gemm:expr) => {
        impl Element for $t {
            const DTYPE: DType = DType::$dtype;
            type Computed = $computed;

            #[inline(always)]
            fn nearest<T: Real>(x: T) -> Self {
                $nearest(x.to_f64()) // and of an f32 through f64 comes the same f32: the compiler knows that
            }
            #[inline(always)]
            fn to<T: Real>(self) -> T {
                T::from_f64($computed::from(self).to_f64())
            }
        }

        impl sealed::Stored for $t {
            const NAN: Self = $nan;

            fn wrap(storage: Storage<Self>) -> Buffer {
                Buffer(Elements::$dtype(Arc::new(storage)))
            }
            fn with_free_list<R>(mut f: impl FnMut(&mut FreeList<Self>) -> R) -> R {
                thread_local! {
                    static LIST: RefCell<FreeList<$t>> = const { RefCell::new(FreeList::EMPTY) };
                }
                // While a thread ends its list may be gone already: then work on a list that frees at once.
                let mut none = FreeList::EMPTY;
                LIST.try_with(|list| f(&mut list.borrow_mut())).unwrap_or_else(|_| f(&mut none))
            }
            fn shared_free_list() -> &'static Mutex<FreeList<Self>> {
                static LIST: Mutex<FreeList<$t>> = Mutex::new(FreeList::EMPTY);
                &LIST
            }
            // SAFETY: what it asks is said where it is declared.
            unsafe fn gemm(product: &Product<Self>) {
                // SAFETY: the caller's promise; the functions are those for this type.
                unsafe { $gemm(product) }
            }
        }
    };
}

impl_element!(f32, F32, f32, f32::NAN, |x| x as f32, gemm::of_f32);
impl_element!(f64, F64, f64, f64::NAN, |x| x, gemm::of_f64);
impl_element!(Bf16, Bf16, f32, Bf16(0x7fff), |x| Bf16::from_f32(x as f32), gemm::of_bf16);

macro_rules! of_std {
    ($t:ident: $($f:ident)*) => {$(
        #[inline(always)]
        fn $f(self) -> Self {
            $t::$f(self)
        }
    )*};
}

macro_rules! impl_real {
    ($t:ident, $narrow:ident) => {
        impl Real for $t {
            type Narrow = $narrow;
            const ZERO: Self = 0.0;
            const ONE: Self = 1.0;

            #[inline(always)]
            fn from_f64(x: f64) -> Self {
                x as $t
            }
            #[inline(always)]
            fn to_f64(self) -> f64 {
                self as f64
            }
            of_std!($t: sqrt abs ln tanh);
            #[inline(always)]
            fn mul_add(self, a: Self, b: Self) -> Self {
                $t::mul_add(self, a, b)
            }
            #[inline(always)]
            fn exp(self) -> Self {
                super::special::exp::$t(self)
            }
            #[inline(always)]
            fn normal_pdf_cdf(self) -> (Self, Self) {
                super::special::normal_pdf_cdf::$t(self)
            }
            #[inline(always)]
            fn is_finite(self) -> bool {
                $t::is_finite(self)
            }
        }
    };
}

impl_real!(f32, Bf16);
impl_real!(f64, f64);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bf16_is_the_nearest_of_two_equally_near_the_even_one() {
        let round = |x: f32| Bf16::from_f32(x).to_f32();
        for x in [0.0, -0.0, 1.0, -2.5, f32::INFINITY, f32::NEG_INFINITY] {
            assert_eq!(round(x).to_bits(), x.to_bits());
        }
        let step = 2f32.powi(-7); // from 1 on
        assert_eq!(round(1.0 + step / 2.0), 1.0);
        assert_eq!(round(1.0 + step * 1.5), 1.0 + 2.0 * step);
        assert_eq!(round(1.0 + step * 0.51), 1.0 + step);
        assert_eq!(round(f32::MAX), f32::INFINITY);
        for x in (0..=u16::MAX).map(Bf16).filter(|x| !x.to_f32().is_nan()) {
            assert_eq!(Bf16::from_f32(x.to_f32()), x, "each is itself");
        }
        for bits in [0x7fff_ffff, 0xffff_ffff, f32::NAN.to_bits()] {
            assert!(round(f32::from_bits(bits)).is_nan());
        }
    }
}
