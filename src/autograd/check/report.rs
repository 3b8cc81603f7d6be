//! What a gradient check found, and how it explains itself.

use std::fmt;

/// What the check concluded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Every comparison is within tolerance.
    Pass,
    /// Some comparison is not.
    Mismatch,
    /// There was nothing to compare: no inputs, or every gradient and every difference is exactly zero.
    NotChecked,
}

/// What a disagreement with a central difference is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorSource {
    /// It shrinks with the step as h²: the difference quotient's, not the derivative's. Take a smaller step.
    Truncation,
    /// It grows as the step shrinks: the function's rounding. Take a larger step.
    RoundOff,
    /// It does not depend on the step: the derivative is wrong (or the function is not smooth there).
    Derivative,
}

/// The direction of one difference.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Along {
    /// One element of one input.
    Element {
        /// Which input.
        input: usize,
        /// Flat index of the element in it.
        element: usize,
    },
    /// A random direction of length 1 through all elements of this input.
    Input(usize),
    /// A random direction of length 1 through all inputs.
    Everything,
}

/// One comparison of a derivative with a central difference.
#[derive(Clone, Copy, Debug)]
pub struct Comparison {
    /// The direction.
    pub along: Along,
    /// What the gradient says.
    pub analytic: f64,
    /// The central difference at the step that agreed better.
    pub numeric: f64,
    /// What the error is measured by: the largest entry of the input's gradient, or for a direction its length; at
    /// least [`Options::floor`](super::Options::floor).
    pub scale: f64,
    /// |analytic − numeric| / scale.
    pub error: f64,
    /// What the error is made of.
    pub source: ErrorSource,
}

impl Comparison {
    /// The error, with NaN as the largest there is.
    pub(super) fn rank(&self) -> f64 {
        if self.error.is_nan() { f64::INFINITY } else { self.error }
    }
}

/// The outcome of a check; its `Display` explains it.
#[derive(Clone, Debug)]
pub struct Report {
    /// What was checked.
    pub name: String,
    /// The verdict.
    pub verdict: Verdict,
    /// The comparison with the largest error, if any was made.
    pub worst: Option<Comparison>,
    /// How many comparisons with differences were made.
    pub comparisons: usize,
    /// Inputs whose gradient is zero and that move nothing: a pass says nothing about them.
    pub silent: Vec<usize>,
    /// By how much two evaluations at the same point differ, if by more than rounding: noise is drawn inside.
    pub nondeterminism: Option<f64>,
    /// How many subsets of inputs were tried on the tape ([`check_gradient`](super::check_gradient) only).
    pub subsets: usize,
    /// A subset of inputs whose gradients depend on which others are tracked, if there is one.
    pub inconsistent_subset: Option<Vec<usize>>,
    /// The tolerance applied.
    pub tolerance: f64,
}

impl Report {
    /// Panics with the report unless it passed.
    ///
    /// # Panics
    /// When the verdict is not [`Verdict::Pass`].
    #[track_caller]
    pub fn assert_pass(&self) {
        assert!(self.verdict == Verdict::Pass, "{self}");
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verdict = match self.verdict {
            Verdict::Pass => "pass",
            Verdict::Mismatch => "MISMATCH",
            Verdict::NotChecked => "not checked (nothing to compare, or all of it zero)",
        };
        write!(f, "{}: {verdict}, {} comparisons", self.name, self.comparisons)?;
        if self.subsets > 0 {
            write!(f, ", {} subsets of inputs", self.subsets)?;
        }
        if let Some(w) = &self.worst {
            let place = match w.along {
                Along::Element { input, element } => format!("element {element} of input {input}"),
                Along::Input(input) => format!("a random direction through input {input}"),
                Along::Everything => "a random direction through all inputs".to_owned(),
            };
            write!(
                f,
                "\n  worst: {place}: analytic {:.12e}, numeric {:.12e}, error {:.1e} of {:.0e} allowed",
                w.analytic, w.numeric, w.error, self.tolerance
            )?;
            if w.rank() > self.tolerance {
                f.write_str(match w.source {
                    ErrorSource::Truncation => "; it shrinks with the step (truncation)",
                    ErrorSource::RoundOff => "; it grows as the step shrinks (round-off)",
                    ErrorSource::Derivative => "; it does not depend on the step (the derivative)",
                })?;
            }
        }
        if self.verdict != Verdict::NotChecked && !self.silent.is_empty() {
            write!(f, "\n  says nothing about inputs {:?}: their gradients and differences are all zero", self.silent)?;
        }
        if let Some(nondeterminism) = self.nondeterminism {
            write!(
                f,
                "\n  two evaluations at the same point differ by {nondeterminism:.1e}: draw noise before, not inside"
            )?;
        }
        if let Some(subset) = &self.inconsistent_subset {
            write!(
                f,
                "\n  gradients change when only inputs {subset:?} are tracked: the rule mishandles what is needed"
            )?;
        }
        Ok(())
    }
}
