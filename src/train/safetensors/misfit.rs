//! What can be wrong with a tensor of a file.

use std::fmt;

use safetensors::Dtype;

use crate::tensor::Shape;

/// How well a file has to fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fit {
    /// Exactly the same names and shapes.
    Strict,
    /// Whatever fits is read; the rest is left out and reported.
    Partial,
}

/// A tensor that cannot be taken from a file as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Misfit {
    /// Its name in the file.
    pub name: String,
    /// What is wrong with it.
    pub reason: Reason,
}

/// Why a tensor cannot be taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The model has it, the file has not.
    Missing,
    /// The file has it, the model has not.
    Unexpected,
    /// It has another shape in the file.
    Shape {
        /// In the file.
        file: Vec<usize>,
        /// In the model.
        model: Shape,
    },
    /// Its elements are not floating-point numbers of 16, 32 or 64 bits.
    Elements(Dtype),
    /// Its bytes do not have their checksum, or it has none and others do.
    Damaged,
    /// A value of it is NaN or infinite, in the model's element type.
    NotFinite,
}

impl Reason {
    /// Whether a partial reading can do without: what is damaged is never passed over.
    pub(super) fn can_be_left_out(&self) -> bool {
        !matches!(self, Reason::Damaged | Reason::NotFinite)
    }
}

impl Misfit {
    /// Whether it is a parameter of the model, which keeps its value when this is left out.
    pub fn in_model(&self) -> bool {
        self.reason != Reason::Unexpected
    }
}

impl fmt::Display for Misfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = &self.name;
        match &self.reason {
            Reason::Missing => write!(f, "{name} is missing"),
            Reason::Unexpected => write!(f, "{name} is unexpected"),
            Reason::Shape { file, model } => write!(f, "{name} is {file:?} instead of {model}"),
            Reason::Elements(dtype) => write!(f, "{name} is of {dtype:?}, not of F32, F64, F16 or BF16"),
            Reason::Damaged => write!(f, "{name} is damaged: its bytes do not have their checksum"),
            Reason::NotFinite => write!(f, "{name} has values that are not finite"),
        }
    }
}

/// All of these in one sentence, one a line.
pub(super) fn listed(misfits: &[Misfit]) -> String {
    let lines: String = misfits.iter().map(|misfit| format!("\n    {misfit}")).collect();
    format!("{} tensor{} cannot be used:{lines}", misfits.len(), if misfits.len() == 1 { "" } else { "s" })
}
