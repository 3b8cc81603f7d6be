//! What is said about files that cannot be used: on standard error, or in one error.

use std::fmt::Display;
use std::io::Write;

use crate::Error;

/// Bad files that one error names.
pub(super) const NAMED: usize = 10;

/// Bad files that are reported one by one, when a split is opened and after that.
pub(super) const REPORTED: usize = 100;

/// Classes that a line names.
const CLASSES_NAMED: usize = 5;

/// Says something on standard error that is no reason to end.
pub(super) fn warn(what: &str) {
    let _ = writeln!(std::io::stderr(), "warning: {what}");
}

/// An error without its advice, on one line.
pub(super) fn brief(error: &Error) -> String {
    error.to_string().lines().next().unwrap_or_default().to_owned()
}

/// The first of `names`, and how many there are besides.
pub(super) fn few(names: impl IntoIterator<Item = impl Display, IntoIter: ExactSizeIterator>) -> String {
    let names = names.into_iter();
    let more = names.len().saturating_sub(CLASSES_NAMED);
    let mut said: Vec<String> = names.take(CLASSES_NAMED).map(|name| name.to_string()).collect();
    if more > 0 {
        said.push(format!("… and {more} more"));
    }
    said.join(", ")
}
