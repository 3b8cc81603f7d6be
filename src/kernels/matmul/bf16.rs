//! Products in bf16, of matrices that are stored so, or of f32 matrices, rounded as they are copied; sums in f32.
//!
//! AVX512-BF16 multiplies two numbers of 16 bits in each of 16 lanes and adds both products to an f32: twice the work of an
//! f32 multiply-add. So an operand of [`microkernel`](super::microkernel) is here a lane of two numbers, those of k (the
//! lower half) and of k + 1; with an odd number of them the last one's partner is 0. Everything else (tiles, columns at
//! hand, what is added before a sum is written) is as for f32.
//!
//! The instruction adds one product after the other, that of k + 1 first, each fused with its addition: the tests
//! compute it so, and get the same bits. It takes and gives 0 for what is smaller than the least normal number.

use std::arch::x86_64::*;
use std::mem::transmute;

use super::amx;
use super::avx::transpose_quarters;
use super::gemm::Product;
use super::microkernel::run;
use super::registers::{MadeOf, Operand, Register};
use crate::kernels::simd::{has_amx, has_avx512_bf16};
use crate::kernels::{Bf16, Element};

/// Computes the product, on AMX where there is AMX.
///
/// # Safety
/// As [`Product`] promises; the processor has AVX512-BF16, see [`has_avx512_bf16`].
pub(super) unsafe fn gemm<S>(product: &Product<S>)
where
    S: InPairs,
    __m512: MadeOf<S, 2>,
{
    // SAFETY: the caller's promise; the processor was asked for AMX.
    unsafe { if has_amx() { amx::product(product) } else { avx512(product) } }
}

/// # Safety
/// As of [`gemm`].
#[target_feature(enable = "avx512f,avx512vl,avx512dq,avx512bw,avx512bf16")]
unsafe fn avx512<S>(product: &Product<S>)
where
    S: InPairs,
    __m512: MadeOf<S, 2>,
{
    // SAFETY: the caller's promise.
    unsafe { run::<S, __m512, 2>(product) }
}

/// x ← x + a b + a b in twelve registers, `rounds` times over: what is timed to find the limit of arithmetic, see
/// [`peak`](crate::kernels::peak).
///
/// # Panics
/// When the processor has no AVX512-BF16.
pub(in crate::kernels) fn chains(rounds: usize, a: f32, b: f32, _fused: bool) -> f32 {
    #[target_feature(enable = "avx512f,avx512vl,avx512dq,avx512bw,avx512bf16")]
    fn chains(rounds: usize, a: f32, b: f32) -> f32 {
        // SAFETY: registers only.
        unsafe {
            let (a, b) = (__m512::splat(pair(a, a)), __m512::splat(pair(b, b)));
            let mut sums = [__m512::splat(0.0); 12];
            for _ in 0..rounds {
                for sum in &mut sums {
                    *sum = Operand::<2>::plus_product(*sum, a, b);
                }
            }
            let mut all = __m512::splat(0.0);
            for sum in sums {
                all = all.plus(sum);
            }
            _mm512_reduce_add_ps(all)
        }
    }
    assert!(has_avx512_bf16());
    // SAFETY: the processor was just asked.
    unsafe { chains(rounds, a, b) }
}

/// x rounded to bf16, to the nearest, halves to the even one; its 16 bits.
fn rounded(x: f32) -> u32 {
    let bits = x.to_bits();
    if x.is_nan() {
        (bits >> 16) | 0x40 // a quiet one
    } else if x.is_subnormal() {
        (bits >> 16) & 0x8000
    } else {
        (bits + 0x7FFF + (bits >> 16 & 1)) >> 16
    }
}

/// Two numbers in a lane, the first in its lower half.
pub(super) fn pair(x: f32, next: f32) -> f32 {
    f32::from_bits(rounded(next) << 16 | rounded(x))
}

/// 0, 16, 1, 17, …: each of 16 numbers and what follows 16 further on.
const IN_PAIRS: [u16; 32] = {
    let mut order = [0; 32];
    let mut i = 0;
    while i < 32 {
        order[i] = (i / 2 + i % 2 * 16) as u16;
        i += 1;
    }
    order
};

// SAFETY: as for products of f32 in registers.rs.
impl Operand<2> for __m512 {
    #[inline(always)]
    unsafe fn plus_product(self, a: Self, b: Self) -> Self {
        // SAFETY: bits are bits.
        unsafe { _mm512_dpbf16_ps(self, transmute::<__m512, __m512bh>(a), transmute::<__m512, __m512bh>(b)) }
    }
}

/// Rounded on the way.
// SAFETY: as above.
impl MadeOf<f32, 2> for __m512 {
    #[inline(always)]
    unsafe fn row(from: *const f32, mask: Option<__mmask16>) -> Self {
        // SAFETY: the caller's promise.
        unsafe { <Self as MadeOf<f32, 1>>::row(from, mask) }
    }
    #[inline(always)]
    unsafe fn operand(self, next: Self) -> Self {
        // SAFETY: bits are bits.
        unsafe {
            let both = transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(next, self));
            _mm512_castsi512_ps(_mm512_permutexvar_epi16(transmute::<[u16; 32], __m512i>(IN_PAIRS), both))
        }
    }
    #[inline(always)]
    fn lane(x: f32, next: f32) -> f32 {
        pair(x, next)
    }
    #[inline(always)]
    unsafe fn turned(from: *const f32, gap: usize, last: usize, to: *mut f32, width: usize) {
        // SAFETY: the caller's promise; bits are bits.
        unsafe {
            let mut x = [_mm512_setzero_ps(); 4];
            for (i, x) in x.iter_mut().enumerate() {
                let row = |q: usize| _mm256_loadu_ps(from.add((4 * q + i).min(last) * gap));
                let two = |q| _mm512_insertf32x8::<1>(_mm512_castps256_ps512(row(q)), row(q + 1));
                *x = transmute::<__m512bh, __m512>(_mm512_cvtne2ps_pbh(two(2), two(0)));
            }
            transpose_quarters(x, to, width);
        }
    }
}

/// A row is the lower halves of its lanes.
// SAFETY: as above.
impl MadeOf<Bf16, 2> for __m512 {
    #[inline(always)]
    unsafe fn row(from: *const Bf16, mask: Option<__mmask16>) -> Self {
        // SAFETY: the caller's promise; bits are bits.
        unsafe {
            let halves = match mask {
                None => _mm256_loadu_epi16(from.cast()),
                Some(mask) => _mm256_maskz_loadu_epi16(mask, from.cast()),
            };
            _mm512_castsi512_ps(_mm512_cvtepu16_epi32(halves))
        }
    }
    #[inline(always)]
    unsafe fn operand(self, next: Self) -> Self {
        // SAFETY: bits are bits.
        unsafe {
            let upper = _mm512_slli_epi32::<16>(_mm512_castps_si512(next));
            _mm512_castsi512_ps(_mm512_or_si512(_mm512_castps_si512(self), upper))
        }
    }
    #[inline(always)]
    fn lane(x: Bf16, next: Bf16) -> f32 {
        lane(x, next)
    }
    #[inline(always)]
    unsafe fn turned(from: *const Bf16, gap: usize, last: usize, to: *mut f32, width: usize) {
        // SAFETY: the caller's promise: two numbers are a lane.
        unsafe { Self::transpose(from.cast(), gap.wrapping_mul(size_of::<Bf16>()), last, to, width) }
    }
}

/// What is multiplied in bf16.
pub(super) trait InPairs: Element<Computed = f32> {
    /// The first `n` of 32 neighbors, two in each lane, and 0 in the place of those that are missing.
    ///
    /// # Safety
    /// They can be read; the processor has AVX512-BF16.
    unsafe fn neighbors(from: *const Self, n: usize) -> __m512;
}

// SAFETY: as the trait says.
impl InPairs for f32 {
    #[inline(always)]
    unsafe fn neighbors(from: *const f32, n: usize) -> __m512 {
        // SAFETY: the caller's promise; masks hide what is missing. Bits are bits.
        unsafe {
            let [low, high] = if n >= 32 {
                [__m512::read(from), __m512::read(from.add(16))]
            } else {
                [0, 16].map(|l| __m512::load(from.wrapping_add(l), __m512::first(n.saturating_sub(l))))
            };
            transmute::<__m512bh, __m512>(_mm512_cvtne2ps_pbh(high, low))
        }
    }
}

// SAFETY: as the trait says.
impl InPairs for Bf16 {
    #[inline(always)]
    unsafe fn neighbors(from: *const Bf16, n: usize) -> __m512 {
        let mask = if n >= 32 { !0 } else { (1 << n) - 1 };
        // SAFETY: the caller's promise; the mask hides what is missing. Bits are bits.
        unsafe { _mm512_castsi512_ps(_mm512_maskz_loadu_epi16(mask, from.cast())) }
    }
}

/// Two stored numbers in a lane, the first in its lower half.
fn lane(x: Bf16, next: Bf16) -> f32 {
    f32::from_bits(u32::from(next.0) << 16 | u32::from(x.0))
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::copies::copy_panel;
    use super::super::microkernel::tests::{Dot, Kernel, assert_copies, assert_every_edge_shape, assert_large_shapes};
    use super::*;
    use crate::kernels::real::Strides;

    // SAFETY: as the twin of registers of f32, four pairs in plain memory.
    impl Operand<2> for [f32; 4] {
        unsafe fn plus_product(self, a: Self, b: Self) -> Self {
            std::array::from_fn(|i| plus_pairs(self[i], unpaired(a[i]), unpaired(b[i])))
        }
    }

    // SAFETY: as above.
    impl MadeOf<f32, 2> for [f32; 4] {
        unsafe fn row(from: *const f32, mask: Option<usize>) -> Self {
            // SAFETY: the caller's promise.
            unsafe { <Self as MadeOf<f32, 1>>::row(from, mask) }
        }
        unsafe fn operand(self, next: Self) -> Self {
            std::array::from_fn(|i| pair(self[i], next[i]))
        }
        fn lane(x: f32, next: f32) -> f32 {
            pair(x, next)
        }
        unsafe fn turned(from: *const f32, gap: usize, last: usize, to: *mut f32, width: usize) {
            for (l, j) in (0..4).flat_map(|l| (0..4).map(move |j| (l, j))) {
                // SAFETY: the caller's promise.
                unsafe {
                    let from = from.add(j.min(last) * gap + 2 * l);
                    *to.add(l * width + j) = pair(*from, *from.add(1));
                }
            }
        }
    }

    // SAFETY: as above.
    impl MadeOf<Bf16, 2> for [f32; 4] {
        unsafe fn row(from: *const Bf16, mask: Option<usize>) -> Self {
            // SAFETY: the caller's promise for the lanes of the mask.
            let at = |i| if i < mask.unwrap_or(4) { unsafe { *from.add(i) } } else { Bf16::default() };
            std::array::from_fn(|i| lane(at(i), Bf16::default()))
        }
        unsafe fn operand(self, next: Self) -> Self {
            std::array::from_fn(|i| f32::from_bits(self[i].to_bits() | next[i].to_bits() << 16))
        }
        fn lane(x: Bf16, next: Bf16) -> f32 {
            lane(x, next)
        }
        unsafe fn turned(from: *const Bf16, gap: usize, last: usize, to: *mut f32, width: usize) {
            // SAFETY: the caller's promise: two numbers are a lane.
            unsafe { Self::transpose(from.cast(), gap.wrapping_mul(size_of::<Bf16>()), last, to, width) }
        }
    }

    pub fn rounded_to_bf16(x: f32) -> f32 {
        f32::from_bits(rounded(x) << 16)
    }

    /// 0 in the place of what is smaller than the least normal number.
    pub fn without_subnormal(x: f32) -> f32 {
        if x.is_subnormal() { 0.0f32.copysign(x) } else { x }
    }

    fn unpaired(x: f32) -> [f32; 2] {
        [x.to_bits() << 16, x.to_bits() & 0xFFFF_0000].map(f32::from_bits)
    }

    /// What the instruction does in a lane.
    fn plus_pairs(sum: f32, a: [f32; 2], b: [f32; 2]) -> f32 {
        a[0].mul_add(b[0], a[1].mul_add(b[1], sum))
    }

    /// Two values of k at a time, the second first; an odd one at the end of a cut with a partner of 0.
    fn in_pairs(factors: &[[f32; 2]]) -> f32 {
        let step = |sum, pair: &[[f32; 2]]| {
            let [x, next] = [pair[0], *pair.get(1).unwrap_or(&[0.0; 2])].map(|factors| factors.map(rounded_to_bf16));
            plus_pairs(sum, [x[0], next[0]], [x[1], next[1]])
        };
        factors.chunks(2).fold(0.0, step)
    }

    /// The kernels that this machine can run, for matrices of this type.
    fn kernels<S: InPairs>() -> Vec<(&'static str, Kernel<S>)>
    where
        [f32; 4]: MadeOf<S, 2>,
        __m512: MadeOf<S, 2>,
    {
        let mut all: Vec<(&'static str, Kernel<S>)> = vec![("twin", |product| {
            // SAFETY: the caller's promise; the twin needs nothing of the processor.
            unsafe { run::<S, [f32; 4], 2>(product) };
            true
        })];
        if has_avx512_bf16() {
            all.push(("avx512", |product| {
                // SAFETY: the caller's promise, and the processor was just asked.
                unsafe { avx512(product) };
                true
            }));
        }
        all
    }

    const DOT: Dot = (in_pairs, |_, _| 256);

    #[test]
    fn every_edge_shape_equals_the_definition_bit_for_bit() {
        kernels::<f32>().into_iter().for_each(|(name, kernel)| assert_every_edge_shape(name, kernel, DOT));
        kernels::<Bf16>().into_iter().for_each(|(name, kernel)| assert_every_edge_shape(name, kernel, DOT));
    }

    #[test]
    fn large_products_equal_the_definition_bit_for_bit() {
        kernels::<f32>().into_iter().for_each(|(name, kernel)| assert_large_shapes(name, kernel, DOT));
        kernels::<Bf16>().into_iter().for_each(|(name, kernel)| assert_large_shapes(name, kernel, DOT));
    }

    #[test]
    fn copies_fill_whole_registers() {
        assert_copies::<f32, [f32; 4], 2>(copy_panel::<f32, [f32; 4], 2>);
        assert_copies::<Bf16, [f32; 4], 2>(copy_panel::<Bf16, [f32; 4], 2>);
        if has_avx512_bf16() {
            // SAFETY: as of `copy_panel`; the processor was just asked.
            #[target_feature(enable = "avx512f,avx512vl,avx512dq,avx512bw,avx512bf16")]
            unsafe fn copy<S: Element>(from: *const S, strides: Strides, dims: [usize; 2], to: (*mut f32, usize))
            where
                __m512: MadeOf<S, 2>,
            {
                // SAFETY: the caller's promise.
                unsafe { copy_panel::<S, __m512, 2>(from, strides, dims, to) }
            }
            assert_copies::<f32, __m512, 2>(copy);
            assert_copies::<Bf16, __m512, 2>(copy);
        }
    }

    #[test]
    fn rounding_is_to_the_nearest_and_keeps_what_is_not_finite() {
        let known = [
            (1.0, 0x3F80),
            (-1.0, 0xBF80),
            (1.0 + 1.0 / 256.0, 0x3F80), // half way: to the even one
            (1.0 + 3.0 / 256.0, 0x3F82),
            (1.0 + 1.001 / 256.0, 0x3F81),
            (f32::MAX, 0x7F80),
            (f32::INFINITY, 0x7F80),
            (f32::NEG_INFINITY, 0xFF80),
            (1e-40, 0),
            (-1e-40, 0x8000),
            (0.0, 0),
        ];
        known.into_iter().for_each(|(x, bits)| assert_eq!(rounded(x), bits, "{x}"));
        assert!(unpaired(pair(f32::NAN, -f32::NAN)).iter().all(|x| x.is_nan()));
        // Every bf16 is itself.
        for bits in (0..0x10000u32).filter(|bits| !f32::from_bits(bits << 16).is_nan()) {
            let x = f32::from_bits(bits << 16);
            assert!(rounded(x) == bits || x.is_subnormal(), "{bits:x}");
        }
    }

    /// What is rounded where it is made has the bits of what a product rounds, but where nothing but 0, or no number, is left.
    #[test]
    fn stored_numbers_are_rounded_alike() {
        let edges = [0, 0x7fff, 0x8000, 0x8001, 0xffff].into_iter();
        for bits in edges.flat_map(|low| (0..0x1_0000u32).map(move |high| high << 16 | low)) {
            let x = f32::from_bits(bits);
            let (stored, read) = (u32::from(Bf16::from_f32(x).0), rounded(x));
            match (x.is_subnormal(), x.is_nan()) {
                (false, false) => assert_eq!(stored, read, "{bits:x}"),
                (true, _) => assert!(read & 0x7fff == 0 && stored & 0x7fff <= 0x80, "{bits:x}"),
                (_, true) => assert!(Bf16::from_f32(x).to_f32().is_nan() && unpaired(f32::from_bits(read))[0].is_nan()),
            }
        }
    }

    /// The instructions round as [`rounded`] does.
    #[test]
    #[cfg_attr(miri, ignore = "instructions")]
    fn instructions_round_alike() {
        if !has_avx512_bf16() {
            return;
        }
        let edges = [0.0, -0.0, 1e-40, f32::MIN_POSITIVE, f32::MAX, f32::INFINITY, f32::NAN, 1.0 + 1.0 / 256.0];
        let wide = crate::kernels::testing::numbers(4096, 1).into_iter().map(|x| (x * 1e4) as f32);
        let x: Vec<f32> = edges.into_iter().chain(wide).chain([0.0; 8]).collect();
        for x in x.chunks_exact(16) {
            let mut found = [0.0; 16];
            // SAFETY: sixteen numbers on both sides; the processor was just asked.
            unsafe { rounded_by_instruction(x.as_ptr(), found.as_mut_ptr()) };
            for (&x, found) in x.iter().zip(found) {
                let expected = pair(x, x).to_bits();
                assert!(found.to_bits() == expected, "{x}: {:x} instead of {expected:x}", found.to_bits());
            }
        }
    }

    /// # Safety
    /// Sixteen numbers at both; the processor has AVX512-BF16.
    #[target_feature(enable = "avx512f,avx512vl,avx512dq,avx512bw,avx512bf16")]
    unsafe fn rounded_by_instruction(from: *const f32, to: *mut f32) {
        // SAFETY: the caller's promise.
        unsafe {
            let x = __m512::load(from, !0);
            MadeOf::<f32, 2>::operand(x, x).store(to, !0);
        }
    }
}
