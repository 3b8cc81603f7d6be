//! What happens to weights between two steps.

use super::simd::vectorized;

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

vectorized! {
    /// One AdamW update (Loshchilov and Hutter, 2019), in one pass: moments m and v, then the weight w.
    ///
    /// m ← β₁ m + (1−β₁) g;  v ← β₂ v + (1−β₂) g²;  w ← w (1 − lr λ) − lr/(1−β₁ᵗ) · m / (√v/√(1−β₂ᵗ) + ε)
    pub fn adamw<T>(s: &AdamWStep<T>, g: &[T], m: &mut [T], v: &mut [T], w: &mut [T]) {
        for (((&g, m), v), w) in g.iter().zip(m).zip(v).zip(w) {
            *m = s.beta1.0 * *m + s.beta1.1 * g;
            *v = s.beta2.0 * *v + s.beta2.1 * g * g;
            *w = *w * s.keep - s.step_size * *m / (v.sqrt() * s.inverse_sqrt_correction2 + s.eps);
        }
    }

    /// target ← momentum · target + (1 − momentum) · online.
    pub fn ema<T>(momentum: T, online: &[T], target: &mut [T]) {
        let rest = T::ONE - momentum;
        for (target, &online) in target.iter_mut().zip(online) {
            *target = momentum * *target + rest * online;
        }
    }
}
