//! The definition, in its simplest loops: computed in f64, each number rounded once when it is written.
#![allow(clippy::needless_range_loop, reason = "index expressions are written out")]

use super::{AdamWStep, AdamWUpdate, EmaStep};
use crate::kernels::{Buffer, Real};

/// average ← μ average + (1 − μ) weight.
fn follow<T: Real>(momentum: f64, weight: &Buffer, average: &mut Buffer) {
    let (w, average) = (weight.as_slice::<T>("ema"), average.make_mut::<T>("ema"));
    for i in 0..w.len() {
        average[i] = T::from_f64(momentum * average[i].to_f64() + (1.0 - momentum) * w[i].to_f64());
    }
}

/// m ← β₁ m + (1−β₁) g;  v ← β₂ v + (1−β₂) g²;  w ← w (1 − lr λ) − lr/(1−β₁ᵗ) · m / (√v/√(1−β₂ᵗ) + ε)
pub(super) fn adamw<T: Real>(update: &AdamWUpdate, unless: Option<&[T]>, steps: Vec<AdamWStep<'_>>) {
    if unless.is_some_and(|count| count[0].to_f64() != 0.0) {
        return;
    }
    let AdamWUpdate { betas: (beta1, beta2), eps, step: t } = *update;
    let (correction1, correction2) = (1.0 - beta1.powf(t as f64), 1.0 - beta2.powf(t as f64));
    for AdamWStep { gradient, m, v, weight, lr, weight_decay, average } in steps {
        let (g, w) = (gradient.as_slice::<T>("adamw"), weight.make_mut::<T>("adamw"));
        let (m, v) = (m.make_mut::<T>("adamw"), v.make_mut::<T>("adamw"));
        for i in 0..w.len() {
            let g = g[i].to_f64();
            let (m_new, v_new) =
                (beta1 * m[i].to_f64() + (1.0 - beta1) * g, beta2 * v[i].to_f64() + (1.0 - beta2) * g * g);
            let (m_hat, v_hat) = (m_new / correction1, v_new / correction2);
            w[i] = T::from_f64(w[i].to_f64() * (1.0 - lr * weight_decay) - lr * m_hat / (v_hat.sqrt() + eps));
            (m[i], v[i]) = (T::from_f64(m_new), T::from_f64(v_new));
        }
        if let Some((momentum, average)) = average {
            follow::<T>(momentum, weight, average);
        }
    }
}

/// x ← before, if the count is not 0.
pub(super) fn undo<T: Real>(unless: &[T], before: &[T], x: &mut [T]) {
    for i in 0..x.len() {
        if unless[0].to_f64() != 0.0 {
            x[i] = before[i];
        }
    }
}

/// Every average.
pub(super) fn ema<T: Real>(steps: Vec<EmaStep<'_>>) {
    for EmaStep { momentum, weight, average } in steps {
        follow::<T>(momentum, weight, average);
    }
}
