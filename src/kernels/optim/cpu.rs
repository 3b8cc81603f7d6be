use rayon::prelude::*;

use super::{AdamWStep, AdamWUpdate, EmaStep};
use crate::kernels::simd::vectorized;
use crate::kernels::{Real, meter};

/// The numbers of one AdamW update, the same for every element.
#[derive(Clone, Copy, Debug)]
pub(super) struct Numbers<T> {
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

impl<T: Real> Numbers<T> {
    pub fn new(update: &AdamWUpdate, lr: f64, weight_decay: f64) -> Self {
        let AdamWUpdate { betas: (beta1, beta2), eps, step } = *update;
        // In f64 throughout: 1 − 0.999ᵗ in f32 would be off by 10⁻⁴ at the first step.
        let (f, t) = (T::from_f64, step as f64);
        Numbers {
            beta1: (f(beta1), f(1.0 - beta1)),
            beta2: (f(beta2), f(1.0 - beta2)),
            step_size: f(lr / (1.0 - beta1.powf(t))),
            inverse_sqrt_correction2: f(1.0 / (1.0 - beta2.powf(t)).sqrt()),
            eps: f(eps),
            keep: f(1.0 - lr * weight_decay),
        }
    }
}

vectorized! {
    /// m ← β₁ m + (1−β₁) g;  v ← β₂ v + (1−β₂) g²;  w ← w (1 − lr λ) − lr/(1−β₁ᵗ) · m / (√v/√(1−β₂ᵗ) + ε)
    fn update<T>(of: &Numbers<T>, g: &[T], m: &mut [T], v: &mut [T], w: &mut [T]) {
        for (((&g, m), v), w) in g.iter().zip(m).zip(v).zip(w) {
            *m = of.beta1.0 * *m + of.beta1.1 * g;
            *v = of.beta2.0 * *v + of.beta2.1 * g * g;
            *w = *w * of.keep - of.step_size * *m / (v.sqrt() * of.inverse_sqrt_correction2 + of.eps);
        }
    }

    /// target ← momentum · target + (1 − momentum) · online.
    fn follow<T>(momentum: f64, online: &[T], target: &mut [T]) {
        let momentum = T::from_f64(momentum);
        for (&online, target) in online.iter().zip(target) {
            *target = momentum * *target + (T::ONE - momentum) * online;
        }
    }
}

/// Weights that a thread updates at a time: they, their moments, gradients and average fill a third of a level-2 cache.
/// Each weight is updated for itself, so no bit depends on the cut.
const WEIGHTS: usize = 16 << 10;

/// Whether there is a number that forbids something.
pub(super) fn forbids<T: Real>(unless: &[T]) -> bool {
    unless[0] != T::ZERO
}

/// Every step, in parallel over parameters and over parts of them.
pub(super) fn adamw<T: Real>(of: &AdamWUpdate, unless: Option<&[T]>, steps: Vec<AdamWStep<'_>>) {
    if unless.is_some_and(forbids) {
        return;
    }
    let here = meter::here();
    // A gradient is dropped by the thread that used it, in whose next step its memory serves again.
    steps.into_par_iter().for_each(|AdamWStep { gradient, m, v, weight, lr, weight_decay, average }| {
        let _there = here.enter();
        let numbers = Numbers::<T>::new(of, lr, weight_decay);
        let [m, v, w] = [m, v, weight].map(|x| x.make_mut::<T>("adamw").par_chunks_mut(WEIGHTS));
        let weights = gradient.as_slice::<T>("adamw").par_chunks(WEIGHTS).zip(m).zip(v).zip(w);
        match average {
            None => weights.for_each(|(((g, m), v), w)| update(&numbers, g, m, v, w)),
            Some((momentum, average)) => {
                let average = average.make_mut::<T>("ema").par_chunks_mut(WEIGHTS);
                weights.zip(average).for_each(|((((g, m), v), w), average)| {
                    update(&numbers, g, m, v, w);
                    follow(momentum, w, average); // while they are in the cache
                });
            }
        }
    });
}

/// x ← before, if that is wanted.
pub(super) fn undo<T: Real>(unless: &[T], before: &[T], x: &mut [T]) {
    if forbids(unless) {
        x.copy_from_slice(before);
    }
}

/// Every average, in parallel as [`adamw`].
pub(super) fn ema<T: Real>(steps: Vec<EmaStep<'_>>) {
    let here = meter::here();
    steps.into_par_iter().for_each(|EmaStep { momentum, weight, average }| {
        let _there = here.enter();
        let average = average.make_mut::<T>("ema").par_chunks_mut(WEIGHTS);
        let weights = weight.as_slice::<T>("ema").par_chunks(WEIGHTS).zip(average);
        weights.for_each(|(weight, average)| follow(momentum, weight, average));
    });
}
