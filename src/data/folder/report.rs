//! What is said about files that cannot be used: on standard error, or in one error.

use std::fmt::Display;
use std::io::Write;
use std::path::Path;

use crate::{Error, Result};

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

/// Says which files are not used.
pub(super) fn report_all(bad: &[Error]) {
    bad.iter().take(REPORTED).for_each(|error| warn(&format!("skipped {}", brief(error))));
    if bad.len() > REPORTED {
        warn(&format!("skipped {} more files", bad.len() - REPORTED));
    }
}

/// An error if there are files that cannot be used.
pub(super) fn refuse(dir: &Path, bad: &[Error]) -> Result<()> {
    if bad.is_empty() {
        return Ok(());
    }
    let named = bad.iter().take(NAMED).map(brief).collect::<Vec<_>>().join("; ");
    let more = if bad.len() > NAMED { "; …" } else { "" };
    let problem = format!("{} files cannot be used: {named}{more}", bad.len());
    Err(Error::file(dir, problem, "replace or remove them, or skip them (`BadImages::Skip`)"))
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
