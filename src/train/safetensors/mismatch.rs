//! What can be wrong with a tensor of a file.

use std::fmt;

use safetensors::Dtype;

use crate::tensor::Shape;

/// How well a file has to fit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fit {
    /// Exactly the same names and shapes.
    #[default]
    Strict,
    /// Whatever fits is read; the rest is left out and reported.
    Partial,
}

/// A tensor that cannot be taken from a file as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mismatch {
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

impl Mismatch {
    /// Whether it is a parameter of the model, which keeps its value when this is left out.
    pub fn in_model(&self) -> bool {
        self.reason != Reason::Unexpected
    }
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = shown(&self.name);
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

/// The most mismatches that one error lists: more than any of the official models has tensors.
const MOST_LISTED: usize = 1000;
/// The most characters that an error repeats of a text.
const MOST_SHOWN: usize = 500;

/// All of these in one sentence, one a line; of very many, the first and how many more.
pub(super) fn listed(mismatches: &[Mismatch]) -> String {
    let lines: String = mismatches.iter().take(MOST_LISTED).map(|mismatch| format!("\n    {mismatch}")).collect();
    let more = match mismatches.len().saturating_sub(MOST_LISTED) {
        0 => String::new(),
        more => format!("\n    … and {more} more"),
    };
    format!("{} tensor{} cannot be used:{lines}{more}", mismatches.len(), if mismatches.len() == 1 { "" } else { "s" })
}

/// A text out of a file as an error can show it. It may be of any length, and what looks like a name may tell a terminal
/// what to do: such characters are escaped.
pub(in crate::train) fn shown(text: &str) -> String {
    let mut shown = String::new();
    for (k, c) in text.chars().enumerate() {
        match c {
            _ if k == MOST_SHOWN => {
                shown.push('…');
                break;
            }
            '"' | '\'' | '\\' => shown.push(c),
            _ => shown.extend(c.escape_debug()),
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_of_files_are_shown_without_harm() {
        for fine in ["encoder.norm.weight", "", "größe \"1\" 重み '\\'"] {
            assert_eq!(shown(fine), fine);
        }
        assert_eq!(shown("a\u{1b}[2J\nb\u{202e}"), "a\\u{1b}[2J\\nb\\u{202e}");
        let long = shown(&"x".repeat(1_000_000));
        assert!(long.chars().count() == MOST_SHOWN + 1 && long.ends_with("x…"));
    }
}
