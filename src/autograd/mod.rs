//! Floor 1: reverse-mode automatic differentiation on a Wengert list.
//!
//! A [`Tape`] records what ran, in order; [`Tape::backward`] walks it from the end. A [`Var`] is a tensor that may
//! be on a tape; one that is not *is* stop-gradient. [`ops`] has the operations, [`record`] adds one of your own, and
//! [`check`] proves their derivatives.
//!
//! ```
//! use stop_mim::autograd::Tape;
//! use stop_mim::{DType, Tensor};
//!
//! let tape = Tape::new();
//! let x = tape.leaf(Tensor::new([3], vec![1.0, 2.0, 3.0]));
//! let y = (&x * &x).sum();
//! let gradients = tape.backward(&y);
//! assert_eq!(gradients.of(&x).unwrap().to_f64_vec(), [2.0, 4.0, 6.0]);
//! ```

pub mod check;
mod derivative;
mod operators;
pub mod ops;
mod tape;
mod var;
mod watch;

pub use derivative::derivative_along;
pub use tape::{Gradients, Tape, record};
pub use var::Var;
pub use watch::{NonFinite, Origin};
