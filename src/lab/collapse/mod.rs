//! Does noise make A collapse, and does tying prevent it? Demonstrations that run in a minute, and one that takes
//! another.
//!
//! Proposition 3.1 says that the tied loss has the same gradient at A = 0 as a loss without noise. That is a statement
//! about one point. What gradient descent does with A is shown here:
//!
//! | module | what moves | what it shows |
//! |---|---|---|
//! | [`fixed_predictor`] | A alone, expectations by quadrature | untied, A goes to 0; tied, to an \|A*\| > 0 that falls with the noise |
//! | [`joint_training`] | F and A, on samples | the same; and, with room beside the positions, a large \|A\| and noise without effect |
//! | [`gauge`] | F, A and the norm before A | noise-to-signal falls although A is tied |
//! | [`fields`] | F, a transformer, and A | what weight decay has to do with it |
//!
//! Each is deterministic given its seeds, on any number of threads. `stop-mim check collapse` prints them,
//! with `--full` the last one too.

pub mod fields;
pub mod fixed_predictor;
pub mod gauge;
pub mod joint_training;
mod ring;
mod training;

pub use training::{Measured, Schedule, Spread, Trace, last};
