//! Floor 2: reverse-mode automatic differentiation on a Wengert list.
//!
//! A [`Tape`] records what ran, in order; [`Tape::backward`] walks it from the end. A [`Var`] is a tensor that may
//! be on a tape; one that is not *is* stop-gradient. [`ops`] has one file an operation, and [`check`] proves their
//! derivatives.
//!
//! ```
//! use stop_mim::autograd::{Tape, ops};
//! use stop_mim::{DType, Tensor};
//!
//! let tape = Tape::new();
//! let x = tape.leaf(Tensor::new([3], vec![1.0, 2.0, 3.0]));
//! let y = ops::sum(&ops::mul(&x, &x)); // Σ x²
//! let gradients = tape.backward(&y);
//! assert_eq!(gradients.of(&x).unwrap().to_f64_vec(), [2.0, 4.0, 6.0]);
//! ```

pub mod check;
mod derivative;
pub mod ops;
mod tape;
mod var;
mod watch;

pub use derivative::derivative_along;
pub use tape::{Gradients, Tape};
pub use var::Var;
pub use watch::{NonFinite, Origin};
