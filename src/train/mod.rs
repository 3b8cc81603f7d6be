//! Floor 5: training.

mod algorithm_1;
#[cfg(feature = "checkpoint")]
pub mod checkpoint;
mod config;
mod non_finite;
pub mod predictions;
mod pretrain;
#[cfg(feature = "checkpoint")]
pub mod rotation;
#[cfg(feature = "checkpoint")]
pub mod safetensors;
mod schedule;
#[doc(hidden)]
pub mod small;
#[cfg(feature = "checkpoint")]
pub mod weights;

pub use algorithm_1::{Batch, LossAndGradients, Noise, Recording, StepParams, Trainer};
pub use config::{Masking, Origin, RunConfig};
pub use non_finite::{NonFiniteSource, first_non_finite};
pub use pretrain::{Diagnostics, Failed, StepReport, Watch, fresh_model, go_on, pretrain};
pub use schedule::{EmaMomentum, LearningRate, WeightDecay};
