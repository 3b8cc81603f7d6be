//! stop-mim

pub mod autograd;
pub mod data;
pub mod error;
pub mod eval;
pub mod files;
pub mod kernels;
pub mod methods;
pub mod nn;
pub mod paper;
pub mod report;
pub mod rng;
pub mod tensor;
pub mod train;
pub mod vit;

#[cfg(feature = "cli")]
pub mod cli;

pub use error::{Error, Result};
pub use tensor::{DType, Indices, Tensor};
