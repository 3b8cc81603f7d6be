//! What happens to weights between two steps.

use super::simd::vectorized;
use crate::kernels::Real;

/// The numbers of one AdamW update, the same for every element.
#[derive(Clone, Copy, Debug)]
pub struct AdamWStep<T> {
    /// β₁ and 1 − β₁
    pub beta1: (T, T),
    /// β₂ and 1 − β₂
    pub beta2: (T, T),
    /// lr / (1 − β₁ᵗ)
    pub step_size: T,
    /// 1 / √(1 − β₂ᵗ)
    pub inverse_sqrt_correction2: T,
    /// ε
    pub eps: T,
    /// 1 − lr · weight decay
    pub keep: T,
}

impl<T: Real> AdamWStep<T> {
    /// One weight w and its moments m and v (Loshchilov and Hutter, 2019).
    ///
    /// m ← β₁ m + (1−β₁) g;  v ← β₂ v + (1−β₂) g²;  w ← w (1 − lr λ) − lr/(1−β₁ᵗ) · m / (√v/√(1−β₂ᵗ) + ε)
    #[inline(always)]
    fn update(&self, g: T, m: &mut T, v: &mut T, w: &mut T) {
        *m = self.beta1.0 * *m + self.beta1.1 * g;
        *v = self.beta2.0 * *v + self.beta2.1 * g * g;
        *w = *w * self.keep - self.step_size * *m / (v.sqrt() * self.inverse_sqrt_correction2 + self.eps);
    }
}

/// target ← momentum · target + (1 − momentum) · online, for one weight.
#[inline(always)]
fn follow<T: Real>(momentum: T, online: T, target: &mut T) {
    *target = momentum * *target + (T::ONE - momentum) * online;
}

vectorized! {
    /// One AdamW update of moments m and v and weights w.
    pub fn adamw<T>(step: &AdamWStep<T>, g: &[T], m: &mut [T], v: &mut [T], w: &mut [T]) {
        for (((&g, m), v), w) in g.iter().zip(m).zip(v).zip(w) {
            step.update(g, m, v, w);
        }
    }

    /// target ← momentum · target + (1 − momentum) · online.
    pub fn ema<T>(momentum: T, online: &[T], target: &mut [T]) {
        for (&online, target) in online.iter().zip(target) {
            follow(momentum, online, target);
        }
    }

    /// [`adamw`], and [`ema`] of the new weights: each is read once and written once.
    pub fn adamw_and_ema<T>(
        step: &AdamWStep<T>,
        momentum: T,
        g: &[T],
        m: &mut [T],
        v: &mut [T],
        w: &mut [T],
        target: &mut [T],
    ) {
        for ((((&g, m), v), w), target) in g.iter().zip(m).zip(v).zip(w).zip(target) {
            step.update(g, m, v, w);
            follow(momentum, *w, target);
        }
    }
}
