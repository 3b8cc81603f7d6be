//! The laboratory: statements about the paper's equations, each put to a test that could fail.
//!
//! A test of a statement is a function here that returns [`Finding`]s. `cargo test` asserts them, `stop-mim check`
//! prints them: the same code, so that neither can say what the other does not.

pub mod collapse;
mod finding;

pub use finding::Finding;
