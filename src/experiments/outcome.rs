//! What an experiment leaves: `result.json`, from which pages and tables are made.

use std::fmt;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::{Error, Result, files};

/// The name of the file in an experiment's folder.
pub const RESULT: &str = "result.json";

/// What an experiment found, with all that is needed to show it and to repeat it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Outcome {
    /// The name on the command line, as in `which-tokens`.
    pub name: String,
    /// A few words, for a heading.
    pub title: String,
    /// What is asked.
    pub question: String,
    /// Where the paper asks it, as in `Table 7` or `Fig. 3`; `none`, where it does not.
    pub reference: String,
    /// What the paper found: a sentence.
    pub paper_found: String,
    /// `quick` or `full`.
    pub size: String,
    /// The images that were trained on, as in `shapes` or `cifar10`: without the folder where they were.
    pub data: String,
    /// How many seeds each arm was trained with.
    pub seeds: usize,
    /// Steps of each run.
    pub steps: usize,
    /// The numbers, with the paper's beside them.
    pub table: Table,
    /// One sentence: what the experiment shows. A null result is reported as one, first.
    pub statement: String,
    /// The pictures beside this file.
    pub pictures: Vec<Picture>,
    /// The command that repeats it.
    pub command: String,
    /// The version of this crate.
    pub version: String,
    /// The machine, in words: its operating system, and how many cores it has.
    pub machine: String,
}

/// Numbers under headings.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Table {
    /// The headings: of the labels first, then one for each cell of a row.
    pub columns: Vec<String>,
    /// From top to bottom.
    pub rows: Vec<Row>,
}

/// A row of a [`Table`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Row {
    /// What the numbers are of: an arm of the experiment, or a baseline.
    pub label: String,
    /// As many as there are headings but the first.
    pub cells: Vec<Cell>,
}

/// What stands in a [`Table`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Cell {
    /// A mean over seeds.
    Mean(Mean),
    /// Words, or a number from the paper as it is printed there.
    Text(String),
}

/// A mean over seeds, finite, with how well it is known.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mean {
    /// The mean.
    pub mean: f64,
    /// Half of the 95 % interval around it; `None` of a single seed, which says nothing of others.
    pub half_width: Option<f64>,
    /// How many seeds it is the mean of.
    pub n: usize,
    /// Digits behind the point that are worth printing.
    pub decimals: usize,
}

/// A picture beside the result.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Picture {
    /// The name of its file (SVG or PNG) in the folder of the result.
    pub file: String,
    /// What is to be seen on it: a sentence or two.
    pub caption: String,
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Cell::Text(text) => f.write_str(text),
            Cell::Mean(Mean { mean, half_width, decimals, .. }) => {
                let sign = if *mean < 0.0 { "−" } else { "" }; // as wide as a digit, where it is printed
                write!(f, "{sign}{:.decimals$}", mean.abs())?;
                half_width.map_or(Ok(()), |half| write!(f, " ± {half:.decimals$}"))
            }
        }
    }
}

impl Table {
    /// The table in Markdown, numbers to the right.
    pub fn markdown(&self) -> String {
        let line = |cells: Vec<String>| format!("| {} |\n", cells.join(" | "));
        let escaped = |text: &str| text.replace('|', "\\|");
        let rule: Vec<String> = (0..self.columns.len()).map(|i| if i == 0 { "---" } else { "---:" }.into()).collect();
        let head = line(self.columns.iter().map(|column| escaped(column)).collect());
        let rows = self.rows.iter().map(|row| {
            let cells = row.cells.iter().map(|cell| escaped(&cell.to_string()));
            line([escaped(&row.label)].into_iter().chain(cells).collect())
        });
        head + &format!("|{}|\n", rule.join("|")) + &rows.collect::<String>()
    }
}

impl Outcome {
    /// Writes the outcome into an experiment's folder, as [`RESULT`].
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn save(&self, folder: &Path) -> Result<()> {
        let json = serde_json::to_string_pretty(self).expect("plain data");
        files::write_whole(&folder.join(RESULT), (json + "\n").as_bytes())
    }

    /// Reads what [`save`](Self::save) wrote.
    ///
    /// # Errors
    /// When there is none, or it cannot be read.
    pub fn load(folder: &Path) -> Result<Self> {
        let path = folder.join(RESULT);
        files::ordinary(&path, "give the folder of an experiment")?;
        let json = std::fs::read(&path).map_err(|e| Error::io("read", &path, e))?;
        serde_json::from_slice(&json).map_err(|e| {
            let hint = "run `stop-mim experiment` again: what was trained and measured is kept, and it is written anew";
            Error::file(&path, format!("no result of an experiment of this version ({e})"), hint)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome() -> Outcome {
        let cell = |mean, half_width| Cell::Mean(Mean { mean, half_width, n: 3, decimals: 1 });
        let row = |label: &str, cells| Row { label: label.into(), cells };
        let columns = ["arm", "top-1", "the paper"].map(str::to_owned).into();
        let rows = vec![
            row("a | b", vec![cell(53.125, Some(0.84)), Cell::Text("57.8".into())]),
            row("untrained", vec![cell(41.7, None), Cell::Text("–".into())]),
        ];
        let text = |text: &str| text.to_owned();
        Outcome {
            name: text("which-tokens"),
            title: text("Noise on which tokens"),
            question: text("?"),
            reference: text("Table 7"),
            paper_found: text("Masked tokens alone."),
            size: text("quick"),
            data: text("shapes"),
            seeds: 3,
            steps: 500,
            table: Table { columns, rows },
            statement: text("Nothing."),
            pictures: vec![Picture { file: text("a.svg"), caption: text("A.") }],
            command: text("stop-mim experiment which-tokens --quick"),
            version: text("0.1.0"),
            machine: text("linux, 2 cores"),
        }
    }

    #[test]
    fn what_was_written_is_read() {
        let folder = tempfile::tempdir().unwrap();
        outcome().save(folder.path()).unwrap();
        assert_eq!(Outcome::load(folder.path()).unwrap(), outcome());
        std::fs::write(folder.path().join(RESULT), "{\"name\": 3}").unwrap();
        let error = Outcome::load(folder.path()).unwrap_err().to_string();
        assert!(error.contains("result.json: no result") && error.contains("run `stop-mim experiment`"), "{error}");
    }

    #[test]
    fn a_table_in_markdown() {
        let expected = "\
| arm | top-1 | the paper |
|---|---:|---:|
| a \\| b | 53.1 ± 0.8 | 57.8 |
| untrained | 41.7 | – |
";
        assert_eq!(outcome().table.markdown(), expected);
    }
}
