//! `log.csv`: a row is appended with each step, so that it can be watched.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use crate::train::StepReport;
use crate::{Error, Result, files};

/// The name of the log in a run's folder.
pub(super) const NAME: &str = "log.csv";

/// Of a longer log about so many rows are read: curves of more points cannot be told apart.
const POINTS: usize = 10_000;

/// A column: its name, and its number for a step; `None` where a step has no diagnostics.
pub type Column = (&'static str, fn(&StepReport) -> Option<f64>);

/// The columns of the log, explained in docs/diagnostics.md; empty where a step has no diagnostics.
pub const COLUMNS: [Column; 20] = [
    ("step", |r| Some(r.step as f64)),
    ("epoch", |r| Some(r.epoch)),
    ("loss", |r| Some(r.loss)),
    ("lr", |r| Some(r.hyper.lr)),
    ("weight_decay", |r| Some(r.hyper.weight_decay)),
    ("ema_momentum", |r| Some(r.hyper.ema_momentum)),
    ("norm_a", |r| Some(r.norm_a)),
    ("norm_m", |r| Some(r.norm_m)),
    ("noise_rms", |r| Some(r.noise_rms)),
    ("images_per_second", |r| Some(r.images_per_second)),
    ("feature_std", |r| Some(r.diagnostics?.feature_std)),
    ("rank_me", |r| Some(r.diagnostics?.rank_me)),
    ("target_std", |r| Some(r.diagnostics?.target_std)),
    ("visible_norm_a", |r| Some(r.diagnostics?.visible_norm_a)),
    ("norm_gamma", |r| Some(r.diagnostics?.norm_gamma)),
    ("context_rms", |r| Some(r.diagnostics?.context_rms)),
    ("neighbor_distance", |r| Some(r.diagnostics?.neighbors.mean)),
    ("least_neighbor_distance", |r| Some(r.diagnostics?.neighbors.least)),
    ("position_accuracy", |r| Some(r.diagnostics?.position_accuracy)),
    ("noise_sensitivity", |r| Some(r.diagnostics?.noise_sensitivity)),
];

/// The numbers of one step, in the order of [`COLUMNS`].
pub type LogRow = [Option<f64>; COLUMNS.len()];

/// Where a column stands in [`COLUMNS`].
///
/// # Panics
/// When there is none of this name.
pub fn column(name: &str) -> usize {
    COLUMNS.iter().position(|(column, _)| *column == name).expect("a column of the log")
}

/// A log to append to.
pub(super) struct Log {
    path: PathBuf,
    file: File,
}

impl Log {
    /// The log of a run that has done `done` steps; what a killed process logged after that is cut off.
    pub fn open(path: PathBuf, done: usize) -> Result<Self> {
        let (rows, _) = rows_until(&path, done)?;
        files::write_whole(&path, (header() + "\n" + &rows).as_bytes())?;
        let file = File::options().append(true).open(&path).map_err(|e| Error::io("open", &path, e))?;
        Ok(Log { path, file })
    }

    pub fn append(&mut self, report: &StepReport) -> Result<()> {
        let cells = COLUMNS.map(|(_, value)| value(report).map_or(String::new(), |x| x.to_string()));
        let row = cells.join(",") + "\n";
        self.file.write_all(row.as_bytes()).map_err(|e| Error::io("write", &self.path, e))
    }

    /// Makes what was appended durable.
    pub fn sync(&self) -> Result<()> {
        self.file.sync_data().map_err(|e| Error::io("write", &self.path, e))
    }
}

/// The whole rows of the first `done` steps in a log, if it is there, and how many there are.
pub(super) fn rows_until(path: &Path, done: usize) -> Result<(String, usize)> {
    if !path.exists() {
        return Ok((String::new(), 0));
    }
    files::ordinary(path, "move it away, and try again")?;
    let text = std::fs::read(path).map_err(|e| Error::io("read", path, e))?;
    let text = String::from_utf8_lossy(&text);
    // A last line without an end is half a line.
    let mut lines = text.split_inclusive('\n').filter(|line| line.ends_with('\n'));
    if lines.next().is_some_and(|first| first.trim_end_matches('\n') != header()) {
        return Err(Error::file(path, "its columns are not those of this version", "move it away, and try again"));
    }
    let step = |line: &str| cells(line)?[0].map(|step| step as usize);
    let rows: Vec<&str> = lines.filter(|line| step(line).is_some_and(|step| step <= done)).collect();
    Ok((rows.concat(), rows.len()))
}

/// See [`RunFolder::log`](super::RunFolder::log).
pub(super) fn rows(path: &Path) -> Result<Vec<LogRow>> {
    let text = std::fs::read_to_string(path).map_err(|e| Error::io("read", path, e))?;
    let stride = text.lines().count().div_ceil(POINTS);
    let of_interest = |row: &LogRow| {
        row[0].is_some_and(|step| (step as usize).is_multiple_of(stride)) || row[column("feature_std")].is_some()
    };
    Ok(text.lines().skip(1).filter_map(cells).filter(of_interest).collect())
}

fn header() -> String {
    COLUMNS.map(|(name, _)| name).join(",")
}

/// The numbers of a whole line of the log.
fn cells(line: &str) -> Option<LogRow> {
    let cells: Vec<Option<f64>> = line.trim_end_matches('\n').split(',').map(|cell| cell.parse().ok()).collect();
    cells.try_into().ok()
}
