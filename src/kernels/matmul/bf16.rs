//! Products of matrices in bf16; sums in f32.
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
use super::gemm::Product;
use super::microkernel::run;
use super::registers::{MadeOf, Operand, Register};
use crate::kernels::Bf16;
use crate::kernels::simd::{has_amx, has_avx512_bf16};

/// Computes the product, on AMX where there is AMX.
///
/// # Safety
/// As [`Product`] promises; the processor has AVX512-BF16, see [`has_avx512_bf16`].
pub(super) unsafe fn gemm(product: &Product<Bf16>) {
    // SAFETY: the caller's promise; the processor was asked for AMX.
    unsafe { if has_amx() { amx::product(product) } else { avx512(product) } }
}

/// # Safety
/// As of [`gemm`].
#[target_feature(enable = "avx512f,avx512vl,avx512dq,avx512bw,avx512bf16")]
unsafe fn avx512(product: &Product<Bf16>) {
    // SAFETY: the caller's promise.
    unsafe { run::<Bf16, __m512, 2>(product) }
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
            let [a, b] = [a, b].map(Bf16::from_f32).map(|x| __m512::splat(pair(x, x)));
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

/// Two numbers in a lane, the first in its lower half.
pub(super) fn pair(x: Bf16, next: Bf16) -> f32 {
    f32::from_bits(u32::from(next.0) << 16 | u32::from(x.0))
}

// SAFETY: as for products of f32 in registers.rs.
impl Operand<2> for __m512 {
    #[inline(always)]
    unsafe fn plus_product(self, a: Self, b: Self) -> Self {
        // SAFETY: bits are bits.
        unsafe { _mm512_dpbf16_ps(self, transmute::<__m512, __m512bh>(a), transmute::<__m512, __m512bh>(b)) }
    }
    #[inline(always)]
    unsafe fn store_rounded(self, to: *mut Bf16, mask: __mmask16) {
        // SAFETY: the caller's promise for the lanes of the mask; bits are bits.
        unsafe { _mm256_mask_storeu_epi16(to.cast(), mask, transmute::<__m256bh, __m256i>(_mm512_cvtneps_pbh(self))) }
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
        pair(x, next)
    }
    #[inline(always)]
    unsafe fn turned(from: *const Bf16, gap: usize, last: usize, to: *mut f32, width: usize) {
        // SAFETY: the caller's promise: two numbers are a lane.
        unsafe { Self::transpose(from.cast(), gap.wrapping_mul(size_of::<Bf16>()), last, to, width) }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::copies::copy_panel;
    use super::super::gemm::{Epilogue, Mat, MatMut, gemm_with};
    use super::super::microkernel::tests::{Dot, Kernel, assert_copies, assert_every_edge_shape, assert_large_shapes};
    use super::*;
    use crate::kernels::real::Strides;

    // SAFETY: as the twin of registers of f32, four pairs in plain memory.
    impl Operand<2> for [f32; 4] {
        unsafe fn plus_product(self, a: Self, b: Self) -> Self {
            std::array::from_fn(|i| plus_pairs(self[i], unpaired(a[i]), unpaired(b[i])))
        }
        unsafe fn store_rounded(self, to: *mut Bf16, mask: usize) {
            // SAFETY: the caller's promise for the lanes of the mask.
            (0..mask).for_each(|i| unsafe { *to.add(i) = Bf16::from_f32(without_subnormal(self[i])) });
        }
    }

    // SAFETY: as above.
    impl MadeOf<Bf16, 2> for [f32; 4] {
        unsafe fn row(from: *const Bf16, mask: Option<usize>) -> Self {
            // SAFETY: the caller's promise for the lanes of the mask.
            let at = |i| if i < mask.unwrap_or(4) { unsafe { *from.add(i) } } else { Bf16::default() };
            std::array::from_fn(|i| pair(at(i), Bf16::default()))
        }
        unsafe fn operand(self, next: Self) -> Self {
            std::array::from_fn(|i| f32::from_bits(self[i].to_bits() | next[i].to_bits() << 16))
        }
        fn lane(x: Bf16, next: Bf16) -> f32 {
            pair(x, next)
        }
        unsafe fn turned(from: *const Bf16, gap: usize, last: usize, to: *mut f32, width: usize) {
            // SAFETY: the caller's promise: two numbers are a lane.
            unsafe { Self::transpose(from.cast(), gap.wrapping_mul(size_of::<Bf16>()), last, to, width) }
        }
    }

    pub fn rounded_to_bf16(x: f32) -> f32 {
        Bf16::from_f32(x).to_f32()
    }

    /// 0 in the place of what is smaller than the least normal number.
    pub fn without_subnormal(x: f32) -> f32 {
        if x.abs() < f32::MIN_POSITIVE { 0.0f32.copysign(x) } else { x }
    }

    fn unpaired(x: f32) -> [f32; 2] {
        [x.to_bits() << 16, x.to_bits() & 0xFFFF_0000].map(f32::from_bits)
    }

    /// The sum with a b added, as the instructions do: a factor, or a result, that is smaller than the least normal number is 0.
    pub fn plus_product(sum: f32, a: f32, b: f32) -> f32 {
        without_subnormal(without_subnormal(a).mul_add(without_subnormal(b), sum))
    }

    /// What the instruction does in a lane.
    fn plus_pairs(sum: f32, a: [f32; 2], b: [f32; 2]) -> f32 {
        plus_product(plus_product(sum, a[1], b[1]), a[0], b[0])
    }

    /// Two values of k at a time, the second first; an odd one at the end of a cut with a partner of 0.
    fn in_pairs(factors: &[[f32; 2]]) -> f32 {
        let step = |sum, pair: &[[f32; 2]]| {
            let [x, next] = [pair[0], *pair.get(1).unwrap_or(&[0.0; 2])].map(|factors| factors.map(rounded_to_bf16));
            plus_pairs(sum, [x[0], next[0]], [x[1], next[1]])
        };
        factors.chunks(2).fold(0.0, step)
    }

    /// The kernels that this machine can run.
    fn kernels() -> Vec<(&'static str, Kernel<Bf16>)> {
        let mut all: Vec<(&'static str, Kernel<Bf16>)> = vec![("twin", |product| {
            // SAFETY: the caller's promise; the twin needs nothing of the processor.
            unsafe { run::<Bf16, [f32; 4], 2>(product) };
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
        kernels().into_iter().for_each(|(name, kernel)| assert_every_edge_shape(name, kernel, DOT));
    }

    #[test]
    fn large_products_equal_the_definition_bit_for_bit() {
        kernels().into_iter().for_each(|(name, kernel)| assert_large_shapes(name, kernel, DOT));
    }

    #[test]
    fn what_is_smaller_than_the_least_normal_number_is_zero() {
        kernels().into_iter().for_each(|(name, kernel)| assert_subnormal_is_zero(name, kernel));
    }

    /// Of one product, taken and given.
    pub fn assert_subnormal_is_zero(name: &str, kernel: Kernel<Bf16>) {
        let (least, large) = (f32::MIN_POSITIVE, 2f32.powi(100));
        for (a, b, expected) in
            [(least, 1.0, least), (least, 0.5, 0.0), (least / 2.0, large, 0.0), (large, -least / 2.0, 0.0)]
        {
            let ([a, b], mut c) = ([a, b].map(|x| [Bf16::from_f32(x)]), [f32::NAN]);
            let operands = (Mat::new(&a, 1, false), Mat::new(&b, 1, false));
            let target = (MatMut::new(&mut c, 1), None);
            gemm_with(kernel, [1, 1, 1], 1.0, operands.0, operands.1, Epilogue::NOTHING, target);
            assert_eq!(c, [expected], "{name}: {} * {}", a[0].to_f32(), b[0].to_f32());
        }
    }

    #[test]
    fn copies_fill_whole_registers() {
        assert_copies::<Bf16, [f32; 4], 2>(copy_panel::<Bf16, [f32; 4], 2>);
        if has_avx512_bf16() {
            // SAFETY: as of `copy_panel`; the processor was just asked.
            #[target_feature(enable = "avx512f,avx512vl,avx512dq,avx512bw,avx512bf16")]
            unsafe fn copy(from: *const Bf16, strides: Strides, dims: [usize; 2], to: (*mut f32, usize)) {
                // SAFETY: the caller's promise.
                unsafe { copy_panel::<Bf16, __m512, 2>(from, strides, dims, to) }
            }
            assert_copies::<Bf16, __m512, 2>(copy);
        }
    }

    /// What is written rounded is the nearest, of two equally near the even one; but 0 in the place of what is smaller than the
    /// least normal number.
    #[test]
    #[cfg_attr(miri, ignore = "instructions")]
    fn the_instruction_rounds_to_the_nearest() {
        /// # Safety
        /// The processor has AVX512-BF16.
        #[target_feature(enable = "avx512f,avx512vl,avx512dq,avx512bw,avx512bf16")]
        unsafe fn rounded(x: &[f32; 16]) -> [Bf16; 16] {
            let mut found = [Bf16::default(); 16];
            // SAFETY: the caller's promise; sixteen numbers on both sides.
            unsafe { Operand::<2>::store_rounded(__m512::read(x.as_ptr()), found.as_mut_ptr(), !0) };
            found
        }
        if !has_avx512_bf16() {
            return;
        }
        let halves = (0..1u32 << 16).map(|high| high << 16 | 0x8000);
        let near = halves.flat_map(|half| [half - 1, half, half + 1, half & 0xffff_0000]).map(f32::from_bits);
        for x in near.collect::<Vec<_>>().as_chunks().0 {
            // SAFETY: the processor was just asked.
            for (x, found) in x.iter().zip(unsafe { rounded(x) }) {
                let expected = Bf16::from_f32(without_subnormal(*x));
                let same = found == expected || x.is_nan() && found.to_f32().is_nan();
                assert!(same, "{:x}: {found:?}, not {expected:?}", x.to_bits());
            }
        }
    }
}
