//! The one error type of the crate.
//!
//! What comes from outside the process (files, flags, checkpoints, data) can be wrong, and then a function
//! returns [`Error`]: what was wrong, where, and what to do about it. A *shape* mistake is a bug in the calling
//! program; it panics, as in every tensor library, and never appears here.

use std::any::Any;
use std::fmt;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// `Result` with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Something outside the process was not as it must be.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused to read or write a file.
    Io {
        /// What was attempted, as a verb: `"read"`, `"write"`, `"create"`.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A file was read, but what it holds cannot be used.
    File {
        /// The file or folder.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
        /// What to do.
        hint: String,
    },
    /// A setting, or a combination of settings, cannot work.
    Config {
        /// What is wrong, with the offending values.
        problem: String,
        /// What to do.
        hint: String,
    },
    /// Training cannot go on: a number became NaN or infinite, a parameter got no gradient, or a thread panicked.
    Training {
        /// The step (counted from 1) at which it was seen.
        step: usize,
        /// What was seen.
        problem: String,
        /// What to do.
        hint: String,
    },
    /// The user asked to stop before the work was done.
    Interrupted,
    /// Another error, and what else there is to say where it happened: what is lost and what not, how to go on.
    Noted {
        /// What went wrong.
        error: Box<Error>,
        /// What it means here.
        note: String,
    },
    /// An error of another of the processes that work together.
    Elsewhere {
        /// The process, from 0.
        process: usize,
        /// Its machine.
        host: String,
        /// What it says.
        error: String,
    },
    /// Something that was put to the test did not hold.
    Check {
        /// The comparisons that did not pass, with what is known about each.
        failed: Vec<String>,
        /// How many were made.
        of: usize,
    },
}

impl Error {
    /// The operating system's error about `path`.
    pub fn io(action: &'static str, path: impl AsRef<Path>, source: std::io::Error) -> Self {
        Error::Io { action, path: path.as_ref().to_owned(), source }
    }

    /// The file at `path` holds something unusable.
    pub fn file(path: impl AsRef<Path>, problem: impl Into<String>, hint: impl Into<String>) -> Self {
        Error::File { path: path.as_ref().to_owned(), problem: problem.into(), hint: hint.into() }
    }

    /// This error, with more to say about it.
    pub fn noted(self, note: impl Into<String>) -> Self {
        Error::Noted { error: Box::new(self), note: note.into() }
    }

    /// This error in the words of another interface: every name in backquotes for which `rename` has something is replaced
    /// by it, backquotes included; other text stays as it is. Errors of the library name its settings so
    /// (`` `batch_size` ``, `` `BadImages::Skip` ``), and a program puts its flags in their place.
    pub fn renamed(mut self, rename: fn(&str) -> Option<&'static str>) -> Self {
        let mut texts = Vec::new();
        let mut error = &mut self;
        while let Error::Noted { error: inner, note } = error {
            texts.push(note);
            error = inner;
        }
        if let Error::File { problem, hint, .. }
        | Error::Config { problem, hint }
        | Error::Training { problem, hint, .. } = error
        {
            texts.extend([problem, hint]);
        } else if let Error::Elsewhere { error, .. } = error {
            texts.push(error);
        }
        texts.into_iter().for_each(|text| *text = renamed(text, rename));
        self
    }

    /// A setting that cannot work.
    pub fn config(problem: impl Into<String>, hint: impl Into<String>) -> Self {
        Error::Config { problem: problem.into(), hint: hint.into() }
    }
}

/// `text` with the names in backquotes replaced for which `rename` has something.
pub(crate) fn renamed(text: &str, rename: fn(&str) -> Option<&'static str>) -> String {
    let (mut done, mut rest) = (String::new(), text);
    while let Some((before, (name, after))) = rest.split_once('`').and_then(|(a, b)| Some((a, b.split_once('`')?))) {
        done += before;
        done += &rename(name).map_or_else(|| format!("`{name}`"), str::to_owned);
        rest = after;
    }
    done + rest
}

/// What a panic said, given what unwinding carried.
pub(crate) fn panic_message(panic: &(dyn Any + Send)) -> &str {
    let message = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
    message.unwrap_or("no message")
}

/// What to do about the system's refusal, where that can be said.
fn advice(kind: ErrorKind) -> Option<&'static str> {
    Some(match kind {
        ErrorKind::NotFound => "look whether the path is right",
        ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => "change its permissions, or take another place",
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => "free some space, or take another place",
        _ => return None,
    })
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Io { action, path, source } => {
                write!(f, "cannot {action} {}: {source}", path.display())?;
                advice(source.kind()).map_or(Ok(()), |advice| write!(f, "\n  {advice}"))
            }
            Error::File { path, problem, hint } => write!(f, "{}: {problem}\n  {hint}", path.display()),
            Error::Config { problem, hint } => write!(f, "{problem}\n  {hint}"),
            Error::Training { step, problem, hint } => {
                write!(f, "training stopped at step {step}: {problem}\n  {hint}")
            }
            Error::Interrupted => write!(f, "stopped, as asked"),
            Error::Noted { error, note } => write!(f, "{error}\n  {note}"),
            Error::Elsewhere { process, host, error } => {
                write!(f, "{error}\n  it happened in process {process}, on {host}")
            }
            Error::Check { failed, of } => {
                write!(f, "{} of {of} comparisons do not pass:\n  {}", failed.len(), failed.join("\n  "))
            }
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Error::Io { source, .. } => Some(source),
            Error::Noted { error, .. } => error.source(), // what it says itself is in what this says
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_in_backquotes_become_those_of_the_program() {
        fn flag(name: &str) -> Option<&'static str> {
            (name == "lr").then_some("--lr")
        }
        let of = |text: &str| Error::config(text, text).renamed(flag).to_string();
        for (text, expected) in [
            ("lower `lr`, or `other`", "lower --lr, or `other`"),
            ("`lr``lr` lr", "--lr--lr lr"),
            ("half a `lr", "half a `lr"),
            ("`", "`"),
            ("", ""),
        ] {
            assert_eq!(of(text), format!("{expected}\n  {expected}"));
        }
        let training = Error::Training { step: 2, problem: "a `lr`".into(), hint: "b `lr`".into() };
        let noted = Error::file("`lr`", "c `lr`", "d `lr`").noted("e `lr`");
        assert_eq!(training.renamed(flag).to_string(), "training stopped at step 2: a --lr\n  b --lr");
        assert_eq!(noted.renamed(flag).to_string(), "`lr`: c --lr\n  d --lr\n  e --lr", "a path is what it is");
    }
}
