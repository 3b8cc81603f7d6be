//! Where the first NaN or infinity comes from.

use std::fmt;
use std::panic::Location;

/// The first value or gradient that was not finite, found by a tape that is [watching](super::Tape::watching).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NonFinite {
    /// The operation; `"leaf"` for a leaf.
    pub name: &'static str,
    /// Its place on the tape, from 0.
    pub position: usize,
    /// How it came to be.
    pub origin: Origin,
}

/// How a number that is not finite came to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A leaf had it from the start.
    Leaf,
    /// An input off the tape had it: the operation passed it on.
    Constant {
        /// Which input.
        input: usize,
        /// The line of source that called the operation.
        made_at: &'static Location<'static>,
    },
    /// The operation made it out of finite inputs.
    Value {
        /// The line of source that called the operation.
        made_at: &'static Location<'static>,
    },
    /// Every value was finite; in the sweep, the operation's rule made it.
    Gradient,
}

impl fmt::Display for NonFinite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let NonFinite { name, position, origin } = self;
        match origin {
            Origin::Leaf => write!(f, "leaf {position} is not finite"),
            Origin::Constant { input, made_at } => {
                write!(f, "{name} (entry {position}, {made_at}) was given a constant that is not finite, input {input}")
            }
            Origin::Value { made_at } => {
                write!(f, "{name} (entry {position}, {made_at}) made it out of finite numbers")
            }
            Origin::Gradient => write!(f, "the gradient of {name} (entry {position}) made it; all values are finite"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::autograd::{Tape, Var, ops};
    use crate::tensor::Tensor;

    fn one(value: f32) -> Tensor {
        Tensor::new([1], vec![value])
    }

    #[test]
    fn the_first_place_is_found() {
        let tape = Tape::watching();
        let x = tape.leaf(one(1e30));
        let y = ops::scale(&x, 2.0);
        let line = line!() + 1;
        let square = ops::mul(&y, &y); // 4e60 is no f32
        ops::add(&square, &square);
        let found = tape.first_non_finite().unwrap();
        assert_eq!((found.name, found.position), ("mul", 2));
        let Origin::Value { made_at } = found.origin else { panic!("{found}") };
        assert_eq!((made_at.file(), made_at.line()), (file!(), line));
    }

    #[test]
    fn leaves_and_constants_are_not_blamed_on_operations() {
        let tape = Tape::watching();
        let x = tape.leaf(one(f32::NAN));
        ops::scale(&x, 2.0);
        assert_eq!(tape.first_non_finite().unwrap().origin, Origin::Leaf);

        let tape = Tape::watching();
        ops::add(&tape.leaf(one(1.0)), &Var::constant(one(f32::INFINITY)));
        assert!(matches!(tape.first_non_finite().unwrap().origin, Origin::Constant { input: 1, .. }));
    }

    #[test]
    fn gradients_are_watched_too() {
        let tape = Tape::watching();
        let x = tape.leaf(one(1e-30));
        let y = ops::scale(&ops::scale(&x, 1e30), 1e30); // 1e30, but dy/dx = 1e60
        assert_eq!(tape.first_non_finite(), None);
        tape.backward(&y);
        let found = tape.first_non_finite().unwrap();
        assert_eq!((found.name, found.position, found.origin), ("scale", 1, Origin::Gradient));
    }

    #[test]
    fn an_ordinary_tape_does_not_look() {
        let tape = Tape::new();
        ops::scale(&tape.leaf(one(f32::NAN)), 2.0);
        assert_eq!(tape.first_non_finite(), None);
    }
}
