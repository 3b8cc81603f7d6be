//! The register of arm64: four numbers, 32 of them.

use std::arch::aarch64::*;

use super::registers::{Operand, Register};

// SAFETY: NEON is part of arm64. `load` and `store` ask that the lanes of the mask, `read` that all, are inside one allocation, `transpose` that
// what it reads and writes is. No alignment is needed.
impl Register for float32x4_t {
    const LANES: usize = 4;
    /// 18 sums. (Of 20 to 24, which the 32 registers would hold, the compiler keeps some in memory.)
    const ROWS: usize = 9;
    /// How many lanes, from the first. There are no masked loads; but at the right edge all lanes are there.
    type Mask = usize;

    #[inline(always)]
    fn first(n: usize) -> usize {
        n.min(4)
    }
    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        unsafe { vdupq_n_f32(x) }
    }
    #[inline(always)]
    unsafe fn read(from: *const f32) -> Self {
        unsafe { vld1q_f32(from) }
    }
    #[inline(always)]
    unsafe fn load(from: *const f32, mask: usize) -> Self {
        unsafe {
            if mask == 4 {
                return vld1q_f32(from);
            }
            let mut lanes = [0.0; 4];
            std::ptr::copy_nonoverlapping(from, lanes.as_mut_ptr(), mask);
            vld1q_f32(lanes.as_ptr())
        }
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32, mask: usize) {
        unsafe {
            if mask == 4 {
                return vst1q_f32(to, self);
            }
            let mut lanes = [0.0; 4];
            vst1q_f32(lanes.as_mut_ptr(), self);
            std::ptr::copy_nonoverlapping(lanes.as_ptr(), to, mask);
        }
    }
    #[inline(always)]
    unsafe fn plus(self, x: Self) -> Self {
        unsafe { vaddq_f32(self, x) }
    }
    #[inline(always)]
    unsafe fn times(self, x: Self) -> Self {
        unsafe { vmulq_f32(self, x) }
    }
    #[inline(always)]
    unsafe fn transpose(from: *const f32, gap: usize, last: usize, to: *mut f32, width: usize) {
        // SAFETY: the caller's promise.
        unsafe {
            let row = |i: usize| vld1q_f32(from.byte_add(i.min(last) * gap));
            let (pairs01, pairs23) = (vtrnq_f32(row(0), row(1)), vtrnq_f32(row(2), row(3)));
            for (l, (low, high)) in [(pairs01.0, pairs23.0), (pairs01.1, pairs23.1)].into_iter().enumerate() {
                vst1q_f32(to.add(l * width), vcombine_f32(vget_low_f32(low), vget_low_f32(high)));
                vst1q_f32(to.add((2 + l) * width), vcombine_f32(vget_high_f32(low), vget_high_f32(high)));
            }
        }
    }
}

// SAFETY: as above.
impl Operand<1> for float32x4_t {
    #[inline(always)]
    unsafe fn plus_product(self, a: Self, b: Self) -> Self {
        unsafe { vfmaq_f32(self, a, b) }
    }
}
