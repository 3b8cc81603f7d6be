//! What changes from step to step: learning rate, weight decay, EMA momentum, as the official schedules compute them.
//!
//! Steps are counted from 1: the official schedulers count first and then compute, so the first step already has one
//! step of warm-up. The momentum's counter starts at 0. Past its last step a schedule stays where it ended.

use std::f64::consts::PI;

/// Linear warm-up from `start` to `peak`, then a cosine to `end`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LearningRate {
    /// Before the first step.
    pub start: f64,
    /// At step `warmup`.
    pub peak: f64,
    /// At step `total`.
    pub end: f64,
    /// Steps of warm-up.
    pub warmup: usize,
    /// Steps in all.
    pub total: usize,
}

impl LearningRate {
    /// The learning rate of this step, counted from 1.
    pub fn at(&self, step: usize) -> f64 {
        let LearningRate { start, peak, end, warmup, total } = *self;
        if step < warmup {
            return start + (peak - start) * step as f64 / warmup as f64;
        }
        let progress = (step - warmup) as f64 / total.saturating_sub(warmup).max(1) as f64;
        cosine(peak, end, progress).max(end.min(peak))
    }
}

/// A cosine from `start` to `end`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct WeightDecay {
    /// Before the first step. Official: 0.04.
    pub start: f64,
    /// At step `total`. Official: 0.4.
    pub end: f64,
    /// Steps in all.
    pub total: usize,
}

impl WeightDecay {
    /// The weight decay of this step, counted from 1.
    pub fn at(&self, step: usize) -> f64 {
        cosine(self.start, self.end, step as f64 / self.total.max(1) as f64)
    }
}

/// A straight line from `start` to `end`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct EmaMomentum {
    /// After the first step. Official: 0.996.
    pub start: f64,
    /// After step `total` + 1. Official: 1.
    pub end: f64,
    /// Steps in all.
    pub total: usize,
}

impl EmaMomentum {
    /// The momentum with which the target follows after this step, counted from 1.
    pub fn at(&self, step: usize) -> f64 {
        match step <= self.total {
            true => self.start + (step - 1) as f64 * (self.end - self.start) / self.total as f64,
            false => self.end,
        }
    }
}

/// From `from` at progress 0 to `to` at progress 1, and there from then on: the cosine itself would turn round.
fn cosine(from: f64, to: f64, progress: f64) -> f64 {
    to + (from - to) * 0.5 * (1.0 + (PI * progress.min(1.0)).cos())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_worked_by_hand() {
        let lr = LearningRate { start: 0.2, peak: 1.0, end: 0.1, warmup: 4, total: 12 };
        let close = |x: f64, y: f64| assert!((x - y).abs() < 1e-15, "{x} is not {y}");
        close(lr.at(1), 0.4);
        close(lr.at(3), 0.8);
        close(lr.at(4), 1.0);
        close(lr.at(8), 0.55); // half way: the mean of peak and end
        close(lr.at(12), 0.1);
        let wd = WeightDecay { start: 0.04, end: 0.4, total: 10 };
        close(wd.at(5), 0.22);
        close(wd.at(10), 0.4);
        let ema = EmaMomentum { start: 0.996, end: 1.0, total: 4 };
        close(ema.at(1), 0.996);
        close(ema.at(3), 0.998);
    }

    /// `total` itself is what the official schedulers give there; a step of the momentum is `total` + 1 at most.
    #[test]
    fn past_its_end_a_schedule_stays_where_it_ended() {
        let lr = LearningRate { start: 0.2, peak: 1.0, end: 0.1, warmup: 4, total: 12 };
        let wd = WeightDecay { start: 0.04, end: 0.4, total: 12 };
        let ema = EmaMomentum { start: 0.996, end: 1.0, total: 12 };
        for step in [13, 14, 24, 120, usize::MAX] {
            assert_eq!((lr.at(step), wd.at(step)), (lr.at(12), wd.at(12)), "step {step}");
            assert_eq!(ema.at(step), 1.0, "step {step}");
        }
        assert_eq!((lr.at(12), wd.at(12)), (0.1, 0.4));
        assert!((ema.at(12) - (1.0 - 0.004 / 12.0)).abs() < 1e-15);
        // All of it warm-up.
        let lr = LearningRate { warmup: 12, ..lr };
        assert_eq!([12, 13, 120].map(|step| lr.at(step)), [1.0, 0.1, 0.1]);
    }

    #[test]
    fn degenerate_lengths_do_not_divide_by_zero() {
        let lr = LearningRate { start: 0.0, peak: 1.0, end: 0.5, warmup: 0, total: 0 };
        assert!(lr.at(1).is_finite());
        assert!(WeightDecay { start: 0.1, end: 0.2, total: 0 }.at(1).is_finite());
        assert_eq!(EmaMomentum { start: 0.9, end: 1.0, total: 0 }.at(1), 1.0);
    }
}
