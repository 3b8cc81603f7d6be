//! Floor 6: training.

mod algorithm_1;
mod schedule;

pub use algorithm_1::{Batch, Found, Hyper, Noise, Trainer};
pub use schedule::{EmaMomentum, LearningRate, WeightDecay};
