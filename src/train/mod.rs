//! Floor 6: training.

mod algorithm_1;
#[cfg(feature = "checkpoint")]
pub mod checkpoint;
mod config;
mod pretrain;
mod schedule;

pub use algorithm_1::{Batch, Found, Hyper, Noise, Recording, Trainer};
pub use config::{Masking, RunConfig};
pub use pretrain::{Diagnostics, StepReport, Watch, fresh_model, pretrain};
pub use schedule::{EmaMomentum, LearningRate, WeightDecay};
