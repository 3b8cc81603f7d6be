//! Floor 2: the vision transformer (Dosovitskiy et al., 2021), with the names and shapes of the official code.

mod block;
mod config;
mod elements;
mod encoder;
pub(crate) mod positions;
mod predictor;
pub mod sincos;

pub use block::Block;
pub use config::{EncoderConfig, PredictorConfig, Preset};
pub use encoder::{Encoder, Visible};
pub use predictor::{Names, Predictor};
