//! `stop-mim check`

mod gradients;
mod graph;

use clap::{Args as ClapArgs, Subcommand};

use crate::autograd::check::Verdict;
use crate::lab::Finding;
use crate::report::table::table;
use crate::{Error, Result};

#[derive(ClapArgs, Clone, Debug)]
pub struct Args {
    #[command(subcommand)]
    what: Option<What>,
}

#[derive(Subcommand, Clone, Debug)]
enum What {
    /// Every operation, every layer and the training step of every method, against central differences in f64.
    Gradients(gradients::Args),
    /// A training step's graph: what no gradient reaches, what is kept for the backward pass, where a NaN comes from.
    Graph(Box<graph::Args>),
}

pub fn run(args: &Args) -> Result<()> {
    match &args.what {
        None => Ok(()),
        Some(What::Gradients(args)) => gradients::run(args),
        Some(What::Graph(args)) => graph::run(args),
    }
}

/// Prints what was found as a table. What takes more than a line is cut there; [`conclude`] has the whole of it.
fn print(findings: &[Finding]) {
    const WIDTH: usize = 64;
    let short = |text: &str| {
        let line = text.lines().next().unwrap_or_default();
        let cut = line.chars().nth(WIDTH).map(|_| line.chars().take(WIDTH - 1).chain(['…']).collect());
        cut.unwrap_or_else(|| line.to_owned())
    };
    let row = |f: &Finding| {
        let verdict = match f.verdict() {
            Verdict::Pass => "pass",
            Verdict::Mismatch => "MISMATCH",
            Verdict::NotChecked => "NOT CHECKED",
        };
        let [scale, error] = [f.scale, f.error].map(|x| format!("{x:.1e}"));
        vec![f.statement.clone(), short(&f.compared), scale, error, format!("{:.0e}", f.tolerance), verdict.to_owned()]
    };
    let rows: Vec<Vec<String>> = findings.iter().map(row).collect();
    println!("{}", table(&["statement", "compared", "scale", "error", "tolerance", "verdict"], &rows));
}

/// An error that lists those that did not pass, if there are any.
fn conclude(findings: &[Finding]) -> Result<()> {
    let failed = findings.iter().filter(|f| f.verdict() != Verdict::Pass);
    let failed: Vec<String> = failed.map(|f| format!("\n  {}: {}", f.statement, f.compared)).collect();
    if failed.is_empty() {
        println!("{} of {} pass", findings.len(), findings.len());
        return Ok(());
    }
    let problem = format!("{} of {} do not pass:{}", failed.len(), findings.len(), failed.concat());
    Err(Error::config(problem, "the table above has their numbers"))
}
