//! Floor 1: tensors.

mod indices;

pub use indices::Indices;
