//! Floor 5: training.

mod algorithm_1;
mod batch;
#[cfg(feature = "checkpoint")]
pub mod checkpoint;
mod config;
mod diagnostics;
pub mod fine_tuning;
mod lanes;
mod non_finite;
pub mod predictions;
mod pretrain;
mod recipe;
#[cfg(feature = "checkpoint")]
pub mod safetensors;
mod schedule;
mod shared;
#[doc(hidden)]
pub mod small;
#[cfg(feature = "checkpoint")]
pub mod weights;

pub use crate::methods::Masking;
pub use algorithm_1::{LossAndGradients, StepOutcome, StepParams, StepUnderWay, Trainer};
pub use batch::{Batch, BatchView, Noise, Part};
pub use config::{RunConfig, WeightsFile};
pub use diagnostics::DIAGNOSTICS;
pub use non_finite::{NonFiniteSource, first_non_finite};
pub use pretrain::{Monitoring, RunError, StepReport, fresh_model, pretrain, pretrain_on, resume};
pub use schedule::{EmaMomentum, LearningRate, WeightDecay};
