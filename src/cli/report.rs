//! `stop-mim report`

use std::collections::BTreeMap;
use std::fs;
use std::path::{Component, Path, PathBuf};

use clap::Args as ClapArgs;

use super::{check, experiment};
use crate::experiments::cache;
use crate::experiments::outcome::RESULT;
use crate::experiments::{Cell, EXPERIMENTS, Outcome, Picture as Pictured};
use crate::lab::{self, Finding};
use crate::report::markdown::rewritten;
use crate::report::page::{Block, Figure, Page, Picture, Section, Table};
use crate::{Error, Result, files};

#[derive(ClapArgs, Clone, Debug)]
pub struct Args {
    /// Where the results of experiments are: in it a folder for each, with result.json and pictures [default: runs/experiments].
    folder: Option<PathBuf>,
    /// Where runs of pretrain are, whose pictures are shown [default: runs].
    #[arg(long, value_name = "DIR")]
    runs: Option<PathBuf>,
    /// The page to write.
    #[arg(long, default_value = "report.html", value_name = "FILE")]
    out: PathBuf,
    /// Also rewrite the tables of a Markdown file: what stands between the lines <!-- experiment: NAME --> and
    /// <!-- end -->, where NAME is a folder in FOLDER.
    #[arg(long, value_name = "FILE")]
    markdown: Option<PathBuf>,
}

/// The pictures of a run, with what stands in for each and under it.
const OF_RUNS: [(&str, &str, &str); 4] = [
    ("curves.svg", "curves", "The loss, what the method reports and the learning rate over the steps of training."),
    (
        "predictions.png",
        "predictions",
        "What the trained model predicts of held-out images: pixels (MAE), or what each predicted feature resembles.",
    ),
    ("positions.png", "positions", "What a position resembles (Fig. 5): without noise, in one draw, on average."),
    ("masks.png", "masks", "Context and target masks over images, as in the first step."),
];

/// The largest picture that is shown, in bytes, and the most that a page holds of all of them: what a browser opens at once.
const LARGEST: u64 = 8 << 20;
const ALL: u64 = 64 << 20;

/// What the folders of experiments hold, by their names. `None`: no result yet.
type Outcomes = BTreeMap<String, Option<Result<Outcome>>>;

pub fn run(args: &Args) -> Result<()> {
    if args.out.extension().is_none_or(|extension| !extension.eq_ignore_ascii_case("html")) {
        return Err(Error::file(&args.out, "the page is written as HTML", "give a name that ends in .html"));
    }
    files::check_writable(&args.out)?;
    files::check_is_none_of(&args.out, &args.markdown.iter().map(PathBuf::as_path).collect::<Vec<_>>())?;
    let experiments = outcomes(args.folder.as_deref())?;
    let markdown = args.markdown.as_deref().map(|path| Ok((path, tables(path, &experiments)?))).transpose()?;
    let runs = folders(args.runs.as_deref(), "runs")?;

    note!("putting the paper's statements to the test: some ten seconds");
    let findings: Vec<Finding> = lab::statements().iter().flat_map(|test| test()).collect();
    let mut pictures = Pictures { left: ALL };
    let page = Page {
        title: "Stochastic positional embeddings: what was found".into(),
        introduction:
            "Results of stop-mim, a reimplementation of Stochastic positional embeddings improve masked image \
                       modeling (ICML 2024): each with what the paper found, and the command that repeats it."
                .into(),
        sections: vec![
            of_experiments(args.folder.as_deref(), &experiments, &mut pictures),
            of_findings(&findings),
            of_runs(&runs, &mut pictures),
        ],
    };
    files::write_whole(&args.out, page.html().as_bytes())?;
    println!("{}", args.out.display());
    if let Some((path, text)) = markdown {
        files::write_whole(path, text.as_bytes())?;
        println!("{}", path.display());
    }
    check::conclude(&findings)
}

/// The folders in `asked`, or else in `usual` where there is one, by name.
fn folders(asked: Option<&Path>, usual: &str) -> Result<Vec<PathBuf>> {
    let parent = match asked {
        Some(parent) => parent,
        None if Path::new(usual).exists() => Path::new(usual),
        None => return Ok(Vec::new()),
    };
    let failed = |e| Error::io("read", parent, e);
    let entries: Vec<_> = fs::read_dir(parent).and_then(Iterator::collect).map_err(failed)?;
    let mut folders: Vec<PathBuf> = entries.iter().map(fs::DirEntry::path).filter(|path| path.is_dir()).collect();
    folders.sort();
    Ok(folders)
}

fn name(path: &Path) -> String {
    path.file_name().unwrap_or_default().display().to_string()
}

fn outcomes(asked: Option<&Path>) -> Result<Outcomes> {
    let outcome = |folder: PathBuf| {
        let there = folder.join(RESULT).exists();
        let outcome = there.then(|| Outcome::load(&folder).and_then(|outcome| sound(&folder, outcome)));
        if let Some(Err(error)) = &outcome {
            note!("warning: {error}");
        }
        (name(&folder), outcome)
    };
    let results = folders(asked, experiment::FOLDER)?.into_iter().filter(|folder| name(folder) != cache::FOLDER);
    Ok(results.map(outcome).collect())
}

/// The outcome, if its table can be shown.
fn sound(folder: &Path, outcome: Outcome) -> Result<Outcome> {
    const DECIMALS: usize = 17; // more than a number has
    let Outcome { table, .. } = &outcome;
    let wrong = |problem: String| {
        Err(Error::file(folder.join(RESULT), problem, "the file was changed or cut: run the experiment again"))
    };
    if let Some(row) = table.rows.iter().find(|row| row.cells.len() + 1 != table.columns.len()) {
        let (cells, columns) = (row.cells.len() + 1, table.columns.len());
        return wrong(format!("the row '{}' has {cells} cells for {columns} columns", row.label));
    }
    let absurd = |cell: &Cell| matches!(cell, Cell::Mean(mean) if mean.decimals > DECIMALS);
    if table.rows.iter().any(|row| row.cells.iter().any(absurd)) {
        return wrong(format!("a number with more than {DECIMALS} decimals"));
    }
    Ok(outcome)
}

/// The Markdown file with its tables made anew: what was found, the numbers, and how they came about.
fn tables(path: &Path, experiments: &Outcomes) -> Result<String> {
    files::ordinary(path, "give the name of a Markdown file")?;
    files::check_writable(path)?;
    let text = fs::read_to_string(path).map_err(|e| Error::io("read", path, e))?;
    rewritten(path, &text, |name| match experiments.get(name) {
        Some(Some(Ok(outcome))) => {
            let facts: Vec<String> = origin(outcome).iter().map(|(name, is)| format!("{name}: {is}")).collect();
            let (statement, table) = (one_line(&outcome.statement), outcome.table.markdown());
            Ok(format!("\n{statement}\n\n{table}\n`{}`; {}.\n\n", outcome.command, facts.join("; ")))
        }
        Some(Some(Err(_))) => Err(format!("the result of '{name}' cannot be used, as the warning above says")),
        Some(None) => Err(format!("'{name}' has no result yet")),
        None => Err(format!("no experiment '{name}' among the results")),
    })
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// How the numbers came about.
fn origin(outcome: &Outcome) -> Vec<(String, String)> {
    [
        ("size", outcome.size.clone()),
        ("images", outcome.data.clone()),
        ("seeds", outcome.seeds.to_string()),
        ("steps of a run", outcome.steps.to_string()),
        ("machine", outcome.machine.clone()),
        ("version", outcome.version.clone()),
    ]
    .map(|(name, is)| (name.to_owned(), is))
    .to_vec()
}

/// Where the paper asks the question, as words for a table.
fn reference(outcome: &Outcome) -> &str {
    if outcome.reference == "none" { "–" } else { &outcome.reference }
}

/// Says on standard error, too, what is missing on the page.
fn warning(text: String) -> Block {
    note!("warning: {text}");
    Block::Warning(text)
}

fn of_experiments(asked: Option<&Path>, experiments: &Outcomes, pictures: &mut Pictures) -> Section {
    let mut section = Section { name: "experiments".into(), heading: "Experiments".into(), ..Section::default() };
    let text = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
    let mut rows = Vec::new();
    let place = |outcome: &Option<Result<Outcome>>| {
        let named = |o: &Outcome| EXPERIMENTS.iter().position(|experiment| experiment.name == o.name);
        outcome.as_ref().and_then(|outcome| named(outcome.as_ref().ok()?)).unwrap_or(EXPERIMENTS.len())
    };
    let mut in_order: Vec<_> = experiments.iter().collect();
    in_order.sort_by_key(|(_, outcome)| place(outcome)); // as in the paper; those of the user last, by name
    for (name, outcome) in in_order {
        match outcome {
            Some(Ok(o)) => {
                rows.push(text(&[name, &o.statement, reference(o), &o.size, &o.data, &o.seeds.to_string()]));
                section.parts.push(of_outcome(name, o, &folder_of(asked).join(name), pictures));
            }
            Some(Err(error)) => {
                let error = error.to_string().replace("\n  ", "; "); // which was said before on standard error
                section.blocks.push(Block::Warning(format!("{name} is not shown: {error}.")));
            }
            None => section.blocks.push(warning(format!("{name} has no result yet: no {RESULT} is in its folder."))),
        }
    }
    if rows.is_empty() {
        let line = format!("No result of an experiment is in {}.", folder_of(asked).display());
        section.blocks.push(warning(line));
        section.blocks.push(Block::Command("stop-mim experiment all --quick".into()));
    } else {
        let columns = text(&["experiment", "what it shows", "in the paper", "size", "images", "seeds"]);
        section.blocks.insert(0, Block::Table(Table { caption: "All experiments".into(), columns, rows }));
    }
    section
}

fn folder_of(asked: Option<&Path>) -> &Path {
    asked.unwrap_or(Path::new(experiment::FOLDER))
}

/// What it shows stands first, so that nobody has to look for a null result.
fn of_outcome(name: &str, outcome: &Outcome, folder: &Path, pictures: &mut Pictures) -> Section {
    let asked = [
        ("question", outcome.question.clone()),
        ("in the paper", reference(outcome).to_owned()),
        ("the paper found", outcome.paper_found.clone()),
    ]
    .map(|(name, is)| (name.to_owned(), is))
    .to_vec();
    let table = Table {
        caption: format!("{}: mean over seeds ± half of the 95 % interval", outcome.title),
        columns: outcome.table.columns.clone(),
        rows: outcome
            .table
            .rows
            .iter()
            .map(|row| [row.label.clone()].into_iter().chain(row.cells.iter().map(Cell::to_string)).collect())
            .collect(),
    };
    let mut blocks = vec![Block::Statement(outcome.statement.clone()), Block::Facts(asked), Block::Table(table)];
    for Pictured { file, caption } in &outcome.pictures {
        let alt = format!("{} of {}", file, outcome.title);
        // Only what lies beside the result: the file comes from outside, and names other files.
        let inside = matches!(Path::new(file).components().collect::<Vec<_>>()[..], [Component::Normal(_)]);
        let picture =
            if inside { pictures.read(&folder.join(file)) } else { Err("is not a name of a file in it".into()) };
        blocks.push(match picture {
            Ok(picture) => Block::Figure(Figure { picture, alt, caption: caption.clone() }),
            Err(why) => warning(format!("{name}: the picture {file} {why}. It would show: {caption}")),
        });
    }
    blocks.extend([Block::Facts(origin(outcome)), Block::Command(outcome.command.clone())]);
    Section { name: name.to_owned(), heading: format!("{} ({name})", outcome.title), blocks, parts: vec![] }
}

/// The statements that `stop-mim check` prints, in the same rows.
fn of_findings(findings: &[Finding]) -> Section {
    let lines = "Of each statement about the paper's equations the comparison that came closest to failing; in brackets, how \
                 many others there were. A comparison passes when its error is at most what is allowed.";
    let table = Table {
        caption: "Statements, put to the test when this page was made".into(),
        columns: check::COLUMNS.map(str::to_owned).to_vec(),
        rows: check::rows(findings, false, usize::MAX),
    };
    let failed = findings.iter().filter(|finding| check::failed(finding)).count();
    let (of, command) = (findings.len(), Block::Command("stop-mim check --all".into()));
    let summary = if failed == 0 {
        Block::Statement(format!("{of} of {of} comparisons pass."))
    } else {
        Block::Warning(format!("{failed} of {of} comparisons do not pass."))
    };
    let blocks = vec![summary, Block::Paragraph(lines.into()), Block::Table(table), command];
    Section { name: "statements".into(), heading: "The paper's statements".into(), blocks, parts: vec![] }
}

/// The pictures of each run that has some.
fn of_runs(folders: &[PathBuf], pictures: &mut Pictures) -> Section {
    let mut section = Section { name: "runs".into(), heading: "Runs".into(), ..Section::default() };
    for folder in folders {
        let name = name(folder);
        let mut blocks = Vec::new();
        for (file, what, caption) in OF_RUNS {
            let path = folder.join(file);
            if !path.exists() {
                continue;
            }
            blocks.push(match pictures.read(&path) {
                Ok(picture) => {
                    Block::Figure(Figure { picture, alt: format!("{what} of the run {name}"), caption: caption.into() })
                }
                Err(why) => warning(format!("{name}: the picture {file} {why}.")),
            });
        }
        if !blocks.is_empty() {
            section.parts.push(Section { name: format!("run-{name}"), heading: name, blocks, parts: vec![] });
        }
    }
    if section.parts.is_empty() {
        section.blocks.push(Block::Paragraph("No run has pictures yet.".into()));
    }
    section
}

/// Reads pictures while there is room on the page.
struct Pictures {
    /// Bytes.
    left: u64,
}

impl Pictures {
    /// The picture, or why it is not shown.
    fn read(&mut self, path: &Path) -> Result<Picture, String> {
        if !path.exists() {
            return Err("is missing".into());
        }
        let metadata = files::ordinary(path, "").map_err(|_| "is not a file".to_owned())?;
        let size = metadata.len();
        if size > LARGEST {
            return Err(format!("is not shown: it has more than {} MiB", LARGEST >> 20));
        }
        if size > self.left {
            return Err(format!("is not shown: the page already holds {} MiB of pictures", ALL >> 20));
        }
        let bytes = fs::read(path).map_err(|e| format!("cannot be read: {e}"))?;
        let picture = Picture::new(bytes)?;
        self.left -= size;
        Ok(picture)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_statement_that_does_not_hold_is_said_first() {
        let findings = [Finding::below("Eq. 1", "a", 1.0, 2.0), Finding::below("Eq. 2", "b < c", 2.0, 1.0)];
        let html = Page { sections: vec![of_findings(&findings)], ..Page::default() }.html();
        let section = html.split_once("id=\"statements\"").unwrap().1.split_once("</h2>\n").unwrap().1;
        assert!(section.starts_with("<p class=\"warning\"><strong>Note:</strong> 1 of 2 comparisons do not pass."));
        assert!(section.contains("<th scope=\"row\">Eq. 2</th><td>b &lt; c: 2.000e0 &lt; 1.000e0</td>"), "{section}");
        assert!(section.contains("<td>MISMATCH</td>") && section.contains("<td>pass</td>"));
        let html = Page { sections: vec![of_findings(&findings[..1])], ..Page::default() }.html();
        assert!(html.contains("<p class=\"statement\">1 of 1 comparisons pass.</p>") && !html.contains("MISMATCH"));
    }

    #[test]
    fn pictures_are_shown_while_there_is_room() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.svg");
        fs::write(&path, "<svg></svg>").unwrap();
        let mut pictures = Pictures { left: 25 };
        assert!(pictures.read(&path).is_ok() && pictures.read(&path).is_ok());
        assert!(pictures.read(&path).unwrap_err().contains("already holds"));
    }
}
