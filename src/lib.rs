//! stop-mim

pub mod autograd;
pub mod error;
pub mod kernels;
pub mod methods;
pub mod nn;
pub mod paper;
pub mod rng;
pub mod tensor;
pub mod train;
pub mod vit;

pub use error::{Error, Result};
pub use tensor::{DType, Indices, Tensor};
