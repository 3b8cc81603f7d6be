//! The registers of x86-64: 16 numbers of AVX-512, 8 of AVX2.

use std::arch::x86_64::*;

use super::registers::{Operand, Register};

// SAFETY, for both: each function asks of its caller what its intrinsic asks, the processor's feature and (load,
// store) that the lanes of the mask, or (read) all, are inside one allocation; `transpose` that what it reads and writes is. No alignment
// is needed.
impl Register for __m512 {
    const LANES: usize = 16;
    const ROWS: usize = 12;
    type Mask = __mmask16;

    #[inline(always)]
    fn first(n: usize) -> __mmask16 {
        if n >= 16 { !0 } else { (1 << n) - 1 }
    }
    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        unsafe { _mm512_set1_ps(x) }
    }
    #[inline(always)]
    unsafe fn read(from: *const f32) -> Self {
        unsafe { _mm512_loadu_ps(from) }
    }
    #[inline(always)]
    unsafe fn load(from: *const f32, mask: __mmask16) -> Self {
        unsafe { _mm512_maskz_loadu_ps(mask, from) }
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32, mask: __mmask16) {
        unsafe { _mm512_mask_storeu_ps(to, mask, self) }
    }
    #[inline(always)]
    unsafe fn plus(self, x: Self) -> Self {
        unsafe { _mm512_add_ps(self, x) }
    }
    #[inline(always)]
    unsafe fn times(self, x: Self) -> Self {
        unsafe { _mm512_mul_ps(self, x) }
    }
    #[inline(always)]
    unsafe fn transpose(from: *const f32, gap: usize, last: usize, to: *mut f32, width: usize) {
        // SAFETY: the caller's promise.
        unsafe {
            let mut x = [_mm512_setzero_ps(); 4];
            for (i, x) in x.iter_mut().enumerate() {
                let row = |q: usize| _mm_loadu_ps(from.byte_add((4 * q + i).min(last) * gap));
                *x = _mm512_insertf32x4::<1>(_mm512_castps128_ps512(row(0)), row(1));
                *x = _mm512_insertf32x4::<3>(_mm512_insertf32x4::<2>(*x, row(2)), row(3));
            }
            transpose_quarters(x, to, width);
        }
    }
}

// SAFETY: as above.
impl Operand<1> for __m512 {
    #[inline(always)]
    unsafe fn plus_product(self, a: Self, b: Self) -> Self {
        unsafe { _mm512_fmadd_ps(a, b, self) }
    }
}

/// Writes the transpose of 16 rows of four lanes, of which quarter q of register i holds row 4q + i: four rows of 16, `width`
/// apart.
///
/// # Safety
/// The processor has AVX-512, and these rows can be written.
#[inline(always)]
unsafe fn transpose_quarters(x: [__m512; 4], to: *mut f32, width: usize) {
    // SAFETY: the caller's promise.
    unsafe {
        let (low01, high01) = (_mm512_unpacklo_ps(x[0], x[1]), _mm512_unpackhi_ps(x[0], x[1]));
        let (low23, high23) = (_mm512_unpacklo_ps(x[2], x[3]), _mm512_unpackhi_ps(x[2], x[3]));
        _mm512_storeu_ps(to, _mm512_shuffle_ps::<0x44>(low01, low23));
        _mm512_storeu_ps(to.add(width), _mm512_shuffle_ps::<0xEE>(low01, low23));
        _mm512_storeu_ps(to.add(2 * width), _mm512_shuffle_ps::<0x44>(high01, high23));
        _mm512_storeu_ps(to.add(3 * width), _mm512_shuffle_ps::<0xEE>(high01, high23));
    }
}

/// The mask of the first `n` lanes.
///
/// # Safety
/// The processor has AVX2, and `n` is at most 8.
#[inline(always)]
unsafe fn first_of_eight(n: usize) -> __m256i {
    /// Eight lanes that are there, then eight that are not.
    const LANES: [i32; 16] = [-1, -1, -1, -1, -1, -1, -1, -1, 0, 0, 0, 0, 0, 0, 0, 0];
    debug_assert!(n <= 8);
    // SAFETY: the caller's promise: eight numbers from index 8 − n on.
    unsafe { _mm256_loadu_si256(LANES.as_ptr().add(8 - n).cast()) }
}

// SAFETY: as for `__m512`.
impl Register for __m256 {
    const LANES: usize = 8;
    const ROWS: usize = 6;
    /// How many lanes, from the first, at most 8. There are no registers for masks, and a store under a mask takes AMD's Zen 4 some 14
    /// cycles, one of all lanes a single one: `load` and `store` first ask whether all lanes are meant.
    type Mask = usize;

    #[inline(always)]
    fn first(n: usize) -> usize {
        n.min(8)
    }
    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        unsafe { _mm256_set1_ps(x) }
    }
    #[inline(always)]
    unsafe fn read(from: *const f32) -> Self {
        unsafe { _mm256_loadu_ps(from) }
    }
    #[inline(always)]
    unsafe fn load(from: *const f32, lanes: usize) -> Self {
        unsafe { if lanes == 8 { _mm256_loadu_ps(from) } else { _mm256_maskload_ps(from, first_of_eight(lanes)) } }
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32, lanes: usize) {
        unsafe {
            if lanes == 8 {
                _mm256_storeu_ps(to, self);
            } else {
                _mm256_maskstore_ps(to, first_of_eight(lanes), self);
            }
        }
    }
    #[inline(always)]
    unsafe fn plus(self, x: Self) -> Self {
        unsafe { _mm256_add_ps(self, x) }
    }
    #[inline(always)]
    unsafe fn times(self, x: Self) -> Self {
        unsafe { _mm256_mul_ps(self, x) }
    }
    #[inline(always)]
    unsafe fn transpose(from: *const f32, gap: usize, last: usize, to: *mut f32, width: usize) {
        // SAFETY: the caller's promise.
        unsafe {
            // Half q of register i holds row 4q + i; then each half is transposed on its own.
            let mut x = [_mm256_setzero_ps(); 4];
            for (i, x) in x.iter_mut().enumerate() {
                let row = |q: usize| _mm_loadu_ps(from.byte_add((4 * q + i).min(last) * gap));
                *x = _mm256_insertf128_ps::<1>(_mm256_castps128_ps256(row(0)), row(1));
            }
            let (low01, high01) = (_mm256_unpacklo_ps(x[0], x[1]), _mm256_unpackhi_ps(x[0], x[1]));
            let (low23, high23) = (_mm256_unpacklo_ps(x[2], x[3]), _mm256_unpackhi_ps(x[2], x[3]));
            _mm256_storeu_ps(to, _mm256_shuffle_ps::<0x44>(low01, low23));
            _mm256_storeu_ps(to.add(width), _mm256_shuffle_ps::<0xEE>(low01, low23));
            _mm256_storeu_ps(to.add(2 * width), _mm256_shuffle_ps::<0x44>(high01, high23));
            _mm256_storeu_ps(to.add(3 * width), _mm256_shuffle_ps::<0xEE>(high01, high23));
        }
    }
}

// SAFETY: as above.
impl Operand<1> for __m256 {
    #[inline(always)]
    unsafe fn plus_product(self, a: Self, b: Self) -> Self {
        unsafe { _mm256_fmadd_ps(a, b, self) }
    }
}
