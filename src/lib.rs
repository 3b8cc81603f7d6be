//! stop-mim

pub mod error;
pub mod rng;
pub mod tensor;

pub use error::{Error, Result};
