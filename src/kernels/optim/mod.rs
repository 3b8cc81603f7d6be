//! What happens to weights between two steps: AdamW and moving averages, of all parameters in one call; and how it does not
//! happen, where a number is not finite.

mod cpu;
#[cfg(feature = "cuda")]
pub(super) mod cuda;
mod reference;

use super::{Buffer, DType, Device, check_device, check_len, launch};

/// What one AdamW update has in common for all parameters.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamWUpdate {
    /// β₁, β₂.
    pub betas: (f64, f64),
    /// ε.
    pub eps: f64,
    /// t, counted from 1.
    pub step: u64,
}

/// One parameter in an update. The gradient is given away: its memory is free as soon as it was used.
#[derive(Debug)]
pub struct AdamWStep<'a> {
    /// g
    pub gradient: Buffer,
    /// First moment.
    pub m: &'a mut Buffer,
    /// Second moment.
    pub v: &'a mut Buffer,
    /// w
    pub weight: &'a mut Buffer,
    /// Learning rate of this parameter.
    pub lr: f64,
    /// Weight decay λ of this parameter.
    pub weight_decay: f64,
    /// μ and the moving average that follows the new weight, see [`ema`], in the same pass over memory.
    pub average: Option<(f64, &'a mut Buffer)>,
}

/// One moving average, about to follow its weight.
#[derive(Debug)]
pub struct EmaStep<'a> {
    /// μ
    pub momentum: f64,
    /// w
    pub weight: &'a Buffer,
    /// The average.
    pub average: &'a mut Buffer,
}

/// One AdamW update (Loshchilov and Hutter, 2019) of all these parameters, of one element type, in place:
///
/// m ← β₁ m + (1−β₁) g;  v ← β₂ v + (1−β₂) g²;  w ← w (1 − lr λ) − lr/(1−β₁ᵗ) · m / (√v/√(1−β₂ᵗ) + ε)
///
/// Nothing is changed if `unless`, one element, is not 0: a device sees that by itself, and nobody waits for it.
#[track_caller]
pub fn adamw(update: &AdamWUpdate, unless: Option<&Buffer>, steps: Vec<AdamWStep<'_>>) {
    let Some(first) = steps.first() else { return };
    let (device, dtype) = (first.weight.device(), first.weight.dtype());
    for AdamWStep { gradient, m, v, weight, average, .. } in &steps {
        let average = average.iter().map(|(_, average)| ("the average", &**average));
        for (what, x) in [("the gradient", gradient), ("m", &**m), ("v", &**v)].into_iter().chain(average) {
            check_len("adamw", what, x, weight.len());
            check_kind("adamw", what, x, device, dtype);
        }
        check_kind("adamw", "the weight", weight, device, dtype);
    }
    check_len("adamw", "what forbids it", unless, 1);
    launch!("adamw", at device, dtype, [unless], [] => adamw(update, unless, steps));
}

/// x becomes what it was `before`, if `unless`, one element, is not 0: as [`adamw`] leaves weights alone.
#[track_caller]
pub fn undo(unless: &Buffer, before: &Buffer, x: &mut Buffer) {
    check_len("undo", "what demands it", unless, 1);
    check_len("undo", "what was before", before, x.len());
    launch!("undo", [unless, before], [x] => undo(unless, before, x));
}

/// All before anything is changed: an update is of one element type, on one device.
#[track_caller]
fn check_kind(op: &str, what: &str, x: &Buffer, device: Device, dtype: DType) {
    check_device(op, device, x.device());
    assert_eq!(x.dtype(), dtype, "{op}: {what} has another element type");
}

/// average ← μ average + (1 − μ) weight for all of these, of one element type, in place.
#[track_caller]
pub fn ema(steps: Vec<EmaStep<'_>>) {
    let Some(first) = steps.first() else { return };
    let (device, dtype) = (first.weight.device(), first.weight.dtype());
    for EmaStep { weight, average, .. } in &steps {
        check_len("ema", "the average", &**average, weight.len());
        check_kind("ema", "the weight", weight, device, dtype);
        check_kind("ema", "the average", average, device, dtype);
    }
    launch!("ema", at device, dtype, [], [] => ema(steps));
}
