//! The laboratory: statements about the paper's equations, each put to a test that could fail.
//!
//! A test of a statement is a function here that returns [`Finding`]s. `cargo test` asserts them, `stop-mim check`
//! prints them: the same code, so that neither can say what the other does not.

mod finding;
pub mod gradients;
pub mod graph;
pub mod small;

pub use finding::Finding;
