//! What changes from step to step: learning rate, weight decay, EMA momentum, as the official schedules compute them.
//!
//! Steps are counted from 1: the official schedulers count first and then compute, so the first step already has one
//! step of warm-up. The momentum's counter starts at 0. Past its last step a schedule stays where it ended.

use std::f64::consts::PI;

/// Linear warm-up from `start` to `peak`, then a cosine to `end`.
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(feature = "checkpoint", derive(serde::Serialize, serde::Deserialize), serde(deny_unknown_fields))]
pub struct LearningRate {
    /// Before the first step.
    pub start: f64,
    /// At step `warmup`.
    pub peak: f64,
    /// At the last step.
    pub end: f64,
    /// Steps of warm-up.
    pub warmup: usize,
}

impl LearningRate {
    /// The learning rate of this step of `total`, counted from 1.
    pub fn at(&self, step: usize, total: usize) -> f64 {
        let LearningRate { start, peak, end, warmup } = *self;
        if step < warmup {
            return start + (peak - start) * step as f64 / warmup as f64;
        }
        let progress = (step - warmup) as f64 / total.saturating_sub(warmup).max(1) as f64;
        cosine(peak, end, progress).max(end.min(peak))
    }
}

/// A cosine from `start` to `end`.
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(feature = "checkpoint", derive(serde::Serialize, serde::Deserialize), serde(deny_unknown_fields))]
pub struct WeightDecay {
    /// Before the first step. Official: 0.04.
    pub start: f64,
    /// At the last step. Official: 0.4.
    pub end: f64,
}

impl WeightDecay {
    /// The weight decay of this step of `total`, counted from 1.
    pub fn at(&self, step: usize, total: usize) -> f64 {
        cosine(self.start, self.end, step as f64 / total.max(1) as f64)
    }
}

/// A straight line from `start` to `end`.
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(feature = "checkpoint", derive(serde::Serialize, serde::Deserialize), serde(deny_unknown_fields))]
pub struct EmaMomentum {
    /// After the first step. Official: 0.996.
    pub start: f64,
    /// One step after the last. Official: 1.
    pub end: f64,
}

impl EmaMomentum {
    /// The momentum with which the average follows after this step of `total`, counted from 1.
    pub fn at(&self, step: usize, total: usize) -> f64 {
        if step > total {
            return self.end;
        }
        self.start + (step - 1) as f64 * (self.end - self.start) / total as f64
    }
}

/// From `from` at progress 0 to `to` at progress 1, and there from then on: the cosine itself would turn round.
fn cosine(from: f64, to: f64, progress: f64) -> f64 {
    to + (from - to) * 0.5 * (1.0 + (PI * progress.min(1.0)).cos())
}

#[cfg(test)]
mod tests {
    use super::*;

    const LR: LearningRate = LearningRate { start: 0.2, peak: 1.0, end: 0.1, warmup: 4 };
    const DECAY: WeightDecay = WeightDecay { start: 0.04, end: 0.4 };
    const EMA: EmaMomentum = EmaMomentum { start: 0.996, end: 1.0 };

    #[test]
    fn values_worked_by_hand() {
        let close = |x: f64, y: f64| assert!((x - y).abs() < 1e-15, "{x} is not {y}");
        close(LR.at(1, 12), 0.4);
        close(LR.at(3, 12), 0.8);
        close(LR.at(4, 12), 1.0);
        close(LR.at(8, 12), 0.55); // half way: the mean of peak and end
        close(LR.at(12, 12), 0.1);
        close(DECAY.at(5, 10), 0.22);
        close(DECAY.at(10, 10), 0.4);
        close(EMA.at(1, 4), 0.996);
        close(EMA.at(3, 4), 0.998);
        close(EMA.at(12, 12), 1.0 - 0.004 / 12.0);
    }

    /// The last step is what the official schedulers give there; the momentum ends one later.
    #[test]
    fn past_its_end_a_schedule_stays_where_it_ended() {
        for step in [13, 14, 24, 120, usize::MAX] {
            assert_eq!([LR.at(step, 12), DECAY.at(step, 12), EMA.at(step, 12)], [0.1, 0.4, 1.0], "step {step}");
        }
        // All of it warm-up.
        let lr = LearningRate { warmup: 12, ..LR };
        assert_eq!([12, 13, 120].map(|step| lr.at(step, 12)), [1.0, 0.1, 0.1]);
    }

    #[test]
    fn degenerate_lengths_do_not_divide_by_zero() {
        assert!(LearningRate { warmup: 0, ..LR }.at(1, 0).is_finite());
        assert!(DECAY.at(1, 0).is_finite());
        assert_eq!(EMA.at(1, 0), 1.0);
    }
}
