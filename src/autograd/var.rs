//! A value that may have a place on a tape.

use std::fmt;

use super::tape::{Tape, record};
use crate::tensor::{DType, Device, Shape, Tensor};

/// A tensor and, if gradients are to reach it, its place on a [`Tape`].
///
/// Off the tape a `Var` is a constant: the target encoder, whose `Var`s are all constants, runs the same code as
/// the context encoder and leaves no trace.
#[derive(Clone)]
pub struct Var {
    value: Tensor,
    node: Option<(Tape, usize)>,
}

impl Var {
    /// A value that no gradient reaches.
    pub fn constant(value: Tensor) -> Self {
        Var { value, node: None }
    }

    pub(super) fn on_tape(value: Tensor, tape: Tape, id: usize) -> Self {
        Var { value, node: Some((tape, id)) }
    }

    /// The value.
    pub fn value(&self) -> &Tensor {
        &self.value
    }

    /// The same value off the tape: stop-gradient.
    pub fn detach(&self) -> Self {
        Var::constant(self.value.clone())
    }

    /// The same value on another device; this very one, when it already is there. Its gradient comes back the same way.
    pub fn to_device(&self, device: Device) -> Self {
        let here = self.device();
        if here == device {
            return self.clone();
        }
        record("to_device", [self], self.value.to_device(device), move |dy, _| [Some(dy.to_device(here))])
    }

    /// Where the value is.
    pub fn device(&self) -> Device {
        self.value().device()
    }

    /// Whether gradients reach this value.
    pub fn is_tracked(&self) -> bool {
        self.node.is_some()
    }

    pub(super) fn node(&self) -> Option<(&Tape, usize)> {
        self.node.as_ref().map(|(tape, id)| (tape, *id))
    }

    /// The dimensions of the value.
    pub fn shape(&self) -> &Shape {
        self.value.shape()
    }

    /// The dimensions, exactly `N` of them.
    ///
    /// # Panics
    /// When there are more or fewer; the message names `op`.
    #[track_caller]
    pub fn dims<const N: usize>(&self, op: &str) -> [usize; N] {
        self.value.dims(op)
    }

    /// The element type of the value.
    pub fn dtype(&self) -> DType {
        self.value.dtype()
    }

    /// The only element of the value.
    ///
    /// # Panics
    /// When there is not exactly one.
    #[track_caller]
    pub fn item(&self) -> f64 {
        self.value.item()
    }
}

impl From<Tensor> for Var {
    fn from(value: Tensor) -> Self {
        Var::constant(value)
    }
}

impl fmt::Debug for Var {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.node {
            Some((_, id)) => write!(f, "Var(#{id}, {:?})", self.value),
            None => write!(f, "Var(constant, {:?})", self.value),
        }
    }
}
