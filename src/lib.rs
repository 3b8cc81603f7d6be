//! stop-mim

pub mod autograd;
pub mod error;
pub mod kernels;
pub mod rng;
pub mod tensor;

pub use error::{Error, Result};
pub use tensor::{DType, Indices, Tensor};
