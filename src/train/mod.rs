//! Floor 6: training.

mod algorithm_1;
#[cfg(feature = "checkpoint")]
pub mod checkpoint;
mod config;
pub mod predictions;
mod pretrain;
mod recipe;
#[cfg(feature = "checkpoint")]
pub mod safetensors;
mod schedule;
#[cfg(feature = "checkpoint")]
pub mod weights;

pub use algorithm_1::{Batch, LossAndGradients, Noise, Recording, StepParams, Trainer};
pub use config::{Masking, Origin, RunConfig};
pub use pretrain::{Diagnostics, Failed, StepReport, Watch, fresh_model, go_on, pretrain};
pub use schedule::{EmaMomentum, LearningRate, WeightDecay};
