//! What [`microkernel`](super::microkernel) needs of a vector register.

use crate::kernels::Bf16;

/// A vector register of f32. All functions compile to an instruction or two, inside a function that has the target feature.
///
/// # Safety
/// The unsafe ones want a processor that has it; `read` wants all lanes, `load` and `store` those of the mask, `transpose` what
/// it reads and writes inside one allocation.
pub(super) trait Register: Copy {
    /// Numbers in it.
    const LANES: usize;
    /// Rows of a tile two registers wide, so that sums, one row of b and one number of a fit the register file.
    const ROWS: usize;
    /// Which lanes are there.
    type Mask: Copy;

    /// The first `n` lanes; all of them when there are fewer.
    fn first(n: usize) -> Self::Mask;
    /// x in all lanes.
    unsafe fn splat(x: f32) -> Self;
    /// All lanes from memory.
    unsafe fn read(from: *const f32) -> Self;
    /// The lanes of the mask from memory, 0 in the others.
    unsafe fn load(from: *const f32, mask: Self::Mask) -> Self;
    /// The lanes of the mask to memory.
    unsafe fn store(self, to: *mut f32, mask: Self::Mask);
    /// self + x.
    unsafe fn plus(self, x: Self) -> Self;
    /// self x.
    unsafe fn times(self, x: Self) -> Self;
    /// The transpose of rows of 4 lanes, `gap` bytes apart, which begin anywhere, the last of them over and over when there are
    /// fewer than `LANES`: four registers, `width` lanes apart, all their lanes.
    unsafe fn transpose(from: *const f32, gap: usize, last: usize, to: *mut f32, width: usize);
}

/// A register as the operand of a product, with `K` values of k in each lane: 1, or 2 of half the size.
///
/// # Safety
/// As of [`Register`].
pub(super) trait Operand<const K: usize>: Register {
    /// self + a b for operands a and b, rounded once for each value of k.
    unsafe fn plus_product(self, a: Self, b: Self) -> Self;
    /// The lanes of the mask to memory, rounded; 0 in the place of what is smaller than the least normal number. Of products of
    /// bf16 only.
    unsafe fn store_rounded(self, _to: *mut Bf16, _mask: Self::Mask) {
        unreachable!("products of f32 are not rounded");
    }
}

/// How operands are made of the numbers of a matrix, which are of type `S`.
///
/// # Safety
/// As of [`Register`].
pub(super) trait MadeOf<S, const K: usize>: Operand<K> {
    /// Numbers of a row, all lanes of a register or those of the mask.
    unsafe fn row(from: *const S, mask: Option<Self::Mask>) -> Self;
    /// The operand made of a [`row`](Self::row), `self`, and of the next.
    unsafe fn operand(self, next: Self) -> Self;
    /// One lane of an operand.
    fn lane(x: S, next: S) -> f32;
    /// Four operands of all lanes, `width` apart: the transpose of rows of 4 `K` numbers, `gap` apart, the last of them over and
    /// over when there are fewer than `LANES`.
    unsafe fn turned(from: *const S, gap: usize, last: usize, to: *mut f32, width: usize);
}

/// In f32 a lane is a number.
// SAFETY: what the functions of a register ask.
impl<R: Operand<1>> MadeOf<f32, 1> for R {
    #[inline(always)]
    unsafe fn row(from: *const f32, mask: Option<R::Mask>) -> R {
        // SAFETY: the caller's promise.
        unsafe {
            match mask {
                None => R::read(from),
                Some(mask) => R::load(from, mask),
            }
        }
    }
    #[inline(always)]
    unsafe fn operand(self, _next: R) -> R {
        self
    }
    #[inline(always)]
    fn lane(x: f32, _next: f32) -> f32 {
        x
    }
    #[inline(always)]
    unsafe fn turned(from: *const f32, gap: usize, last: usize, to: *mut f32, width: usize) {
        // SAFETY: the caller's promise.
        unsafe { R::transpose(from, gap.wrapping_mul(size_of::<f32>()), last, to, width) }
    }
}
