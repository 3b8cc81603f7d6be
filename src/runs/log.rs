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

/// The columns of every run. What a method reports comes behind them, and then diagnostics; docs/diagnostics.md explains them.
const COLUMNS: [&str; 7] = ["step", "epoch", "loss", "lr", "weight_decay", "ema_momentum", "images_per_second"];

/// The numbers of a step by column.
fn numbers(report: &StepReport) -> Vec<(&'static str, f64)> {
    let StepReport { step, epoch, loss, params, images_per_second, .. } = report;
    let (step, lr) = (*step as f64, params.lr);
    let of_all = [step, *epoch, *loss, lr, params.weight_decay, params.ema_momentum, *images_per_second];
    let own = report.numbers.0.iter().chain(report.diagnostics.iter().flat_map(|d| &d.0));
    COLUMNS.into_iter().zip(of_all).chain(own.map(|number| (number.name, number.value))).collect()
}

/// What stands in a log.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Logged {
    /// The names of its columns; the first is `step`.
    pub columns: Vec<String>,
    /// Its rows; `None` where a step has no such number.
    pub rows: Vec<Vec<Option<f64>>>,
}

impl Logged {
    /// How many columns every run has, before those of its method and its diagnostics.
    pub const OF_EVERY_RUN: usize = COLUMNS.len();

    /// The numbers of a column over steps.
    pub fn series(&self, column: &str) -> Vec<(f64, f64)> {
        let Some(at) = self.columns.iter().position(|name| name == column) else { return Vec::new() };
        self.rows.iter().filter_map(|row| Some((row[0]?, row[at]?))).collect()
    }
}

/// A log to append to.
pub(super) struct Log {
    path: PathBuf,
    file: File,
    columns: Vec<String>,
}

impl Log {
    /// The log of a run that has done `done` steps; what a killed process logged after that is cut off.
    pub fn open(path: PathBuf, done: usize) -> Result<Self> {
        let (columns, rows) = read(&path, done)?;
        Self::rewrite(path, columns, &rows)
    }

    fn rewrite(path: PathBuf, columns: Vec<String>, rows: &[String]) -> Result<Self> {
        let lines = std::iter::once(columns.join(",")).chain(rows.iter().cloned());
        files::write_whole(&path, lines.map(|line| line + "\n").collect::<String>().as_bytes())?;
        let file = File::options().append(true).open(&path).map_err(|e| Error::io("open", &path, e))?;
        Ok(Log { path, file, columns })
    }

    /// Appends a row. A number that no row had before gets a column of its own behind the others. Two numbers of one name
    /// are an error.
    pub fn append(&mut self, report: &StepReport) -> Result<()> {
        let numbers = numbers(report);
        for (i, (name, _)) in numbers.iter().enumerate() {
            if numbers[..i].iter().any(|other| other.0 == *name) || name.contains([',', '"', '\n']) {
                let problem = format!("a number called '{name}' cannot be logged");
                return Err(Error::config(problem, "give each number a name of its own, without commas or quotes"));
            }
        }
        let new = |name: &str| !self.columns.iter().any(|column| column == name);
        let new: Vec<String> = numbers.iter().map(|n| n.0).filter(|name| new(name)).map(str::to_owned).collect();
        if !new.is_empty() {
            let (columns, rows) = read(&self.path, usize::MAX)?;
            let empty = ",".repeat(new.len());
            let rows: Vec<String> = rows.into_iter().map(|row| row + &empty).collect();
            *self = Self::rewrite(self.path.clone(), [columns, new].concat(), &rows)?;
        }
        let cell = |column: &String| numbers.iter().find(|n| n.0 == column).map_or(String::new(), |n| n.1.to_string());
        let row = self.columns.iter().map(cell).collect::<Vec<_>>().join(",") + "\n";
        self.file.write_all(row.as_bytes()).map_err(|e| Error::io("write", &self.path, e))
    }

    /// Makes what was appended durable.
    pub fn sync(&self) -> Result<()> {
        self.file.sync_data().map_err(|e| Error::io("write", &self.path, e))
    }
}

/// The columns of a log, if it is there, and the whole rows of the first `done` steps.
pub(super) fn read(path: &Path, done: usize) -> Result<(Vec<String>, Vec<String>)> {
    if !path.exists() {
        return Ok((COLUMNS.map(str::to_owned).into(), Vec::new()));
    }
    files::ordinary(path, "move it away, and try again")?;
    let text = std::fs::read(path).map_err(|e| Error::io("read", path, e))?;
    let text = String::from_utf8_lossy(&text);
    // A last line without an end is half a line.
    let mut lines = text.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n'));
    let columns: Vec<String> = lines.next().unwrap_or_default().split(',').map(str::to_owned).collect();
    if !columns.starts_with(&COLUMNS.map(str::to_owned)) {
        return Err(Error::file(path, "its columns are not those of this version", "move it away, and try again"));
    }
    let step = |line: &str| cells(line, columns.len())?[0].map(|step| step as usize);
    let rows = lines.filter(|line| step(line).is_some_and(|step| step <= done)).map(str::to_owned).collect();
    Ok((columns, rows))
}

/// See [`RunFolder::log`](super::RunFolder::log).
pub(super) fn logged(path: &Path) -> Result<Logged> {
    let (columns, lines) = read(path, usize::MAX)?;
    let stride = lines.len().div_ceil(POINTS).max(1);
    let rows: Vec<_> = lines.iter().filter_map(|line| cells(line, columns.len())).collect();
    // Rows that have what the first step, and so most steps, do not: diagnostics.
    let blank: Vec<bool> = rows.first().map_or(Vec::new(), |row| row.iter().map(Option::is_none).collect());
    let of_interest = |row: &Vec<Option<f64>>| {
        let rare = row.iter().zip(&blank).any(|(cell, blank)| *blank && cell.is_some());
        rare || row[0].is_some_and(|step| (step as usize).is_multiple_of(stride))
    };
    Ok(Logged { rows: rows.into_iter().filter(of_interest).collect(), columns })
}

/// The numbers of a whole line of the log.
fn cells(line: &str, columns: usize) -> Option<Vec<Option<f64>>> {
    let cells: Vec<Option<f64>> = line.split(',').map(|cell| cell.parse().ok()).collect();
    (cells.len() == columns).then_some(cells)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::methods::{Number, Numbers};
    use crate::train::StepParams;

    #[test]
    fn numbers_that_nobody_knows_get_columns_when_they_come() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(NAME);
        let of = |name, value| Numbers(vec![Number::new(name, name, name, value)]);
        let report = |step, diagnostics| StepReport {
            step,
            epoch: 0.5,
            loss: 0.25,
            params: StepParams { lr: 1e-3, weight_decay: 0.0, ema_momentum: 1.0 },
            numbers: of("accuracy", step as f64 / 10.0),
            images_per_second: 100.0,
            diagnostics,
        };
        let mut log = Log::open(path.clone(), 0).unwrap();
        (1..=2).for_each(|step| log.append(&report(step, None)).unwrap());
        log.append(&report(3, Some(of("rank", 7.0)))).unwrap();
        drop(log);
        // What was logged after the step from which a run is resumed is cut off.
        let mut log = Log::open(path.clone(), 3).unwrap();
        log.append(&report(4, None)).unwrap();
        let logged = logged(&path).unwrap();
        assert_eq!(logged.columns, [&COLUMNS[..], &["accuracy", "rank"]].concat());
        assert_eq!(logged.series("accuracy"), [(1.0, 0.1), (2.0, 0.2), (3.0, 0.3), (4.0, 0.4)]);
        assert_eq!((logged.series("rank"), logged.series("nothing")), (vec![(3.0, 7.0)], vec![]));
        let (_, kept) = read(&path, 2).unwrap();
        assert_eq!(kept.len(), 2);
    }

    /// Of 20,000 steps every second is read, and every one that has diagnostics.
    #[test]
    fn a_long_log_is_thinned_but_for_its_diagnostics() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(NAME);
        let rank = |step| if [4999, 15001].contains(&step) { "7" } else { "" };
        let rows: String = (1..=2 * POINTS).map(|step| format!("{step},0,1,0,0,0,1,{}\n", rank(step))).collect();
        std::fs::write(&path, format!("{},rank\n{rows}", COLUMNS.join(","))).unwrap();
        let logged = logged(&path).unwrap();
        assert_eq!(logged.series("rank"), [(4999.0, 7.0), (15001.0, 7.0)]);
        assert_eq!(logged.rows.len(), POINTS + 2);
    }
}
