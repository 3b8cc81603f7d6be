//! Floor 6: the paper's tables and figures, one file each, at a size that anyone can run.

pub mod outcome;

pub use outcome::{Cell, Mean, Outcome, Picture, Row, Table};
