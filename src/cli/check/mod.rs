//! `stop-mim check`

mod collapse;
mod gradients;
mod graph;

use clap::{Args as ClapArgs, Subcommand};

use crate::autograd::check::Verdict;
use crate::lab::{self, Finding};
use crate::report::table::table;
use crate::{Error, Result};

#[derive(ClapArgs, Clone, Debug)]
pub struct Args {
    #[command(subcommand)]
    what: Option<What>,
    /// Print every comparison, not only each statement's worst.
    #[arg(long, global = true)]
    all: bool,
}

#[derive(Subcommand, Clone, Debug)]
enum What {
    /// Every operation, every layer and the training step of every method, against central differences in f64.
    Gradients(gradients::Args),
    /// A training step's graph: what no gradient reaches, what is kept for the backward pass, where a NaN comes from.
    Graph(Box<graph::Args>),
    /// What noise does to A, tied and untied, under a fixed predictor and in training: tables, curves, verdicts.
    Collapse(collapse::Args),
}

pub fn run(args: &Args) -> Result<()> {
    match &args.what {
        None => {
            let findings: Vec<Finding> = lab::statements().iter().flat_map(|test| test()).collect();
            print(&findings, args.all);
            conclude(&findings)
        }
        Some(What::Gradients(what)) => gradients::run(what, args.all),
        Some(What::Graph(what)) => graph::run(what, args.all),
        Some(What::Collapse(what)) => collapse::run(what, args.all),
    }
}

/// What is said of each statement.
pub const COLUMNS: [&str; 6] = ["statement", "compared", "scale", "worst error", "allowed", "verdict"];

/// Prints what was found as a table. What takes more than a line is cut there; [`conclude`] has the whole of it.
fn print(findings: &[Finding], all: bool) {
    println!("{}", table(&COLUMNS, &rows(findings, all, 70)));
}

/// A row for each statement: its worst comparison and how many others there were. With `all`, a row for each comparison.
/// What was compared is cut after `width` characters.
pub fn rows(findings: &[Finding], all: bool, width: usize) -> Vec<Vec<String>> {
    // The share of what is allowed; anything that did not pass comes before that.
    let badness = |f: &Finding| match f.verdict() {
        Verdict::Pass => f.error / (f.tolerance * f.scale).max(f64::MIN_POSITIVE),
        Verdict::NotChecked | Verdict::Mismatch => f64::INFINITY,
    };
    let mut rows = Vec::new();
    for group in findings.chunk_by(|a, b| a.statement == b.statement) {
        let worst = group.iter().max_by(|a, b| badness(a).total_cmp(&badness(b)));
        if all {
            rows.extend(group.iter().map(|f| row(f, 0, width)));
        } else {
            rows.extend(worst.map(|f| row(f, group.len() - 1, width)));
        }
    }
    rows
}

fn row(f: &Finding, others: usize, width: usize) -> Vec<String> {
    let line = f.compared.lines().next().unwrap_or_default();
    let cut = line.chars().nth(width).map(|_| line.chars().take(width - 1).chain(['…']).collect());
    let line = cut.unwrap_or_else(|| line.to_owned());
    let compared = if others == 0 { line } else { format!("{line} (+{others})") };
    let verdict = match f.verdict() {
        Verdict::Pass => "pass",
        Verdict::Mismatch => "MISMATCH",
        Verdict::NotChecked => "NOT CHECKED",
    };
    let [scale, error] = [f.scale, f.error].map(|x| format!("{x:.1e}"));
    vec![f.statement.clone(), compared, scale, error, format!("{:.0e}", f.tolerance * f.scale), verdict.to_owned()]
}

/// Whether a comparison found a mismatch, or nothing that could be compared.
pub fn failed(finding: &Finding) -> bool {
    finding.verdict() != Verdict::Pass
}

/// An error that lists those that did not pass, if there are any.
pub fn conclude(findings: &[Finding]) -> Result<()> {
    let failed = findings.iter().filter(|f| failed(f));
    let failed: Vec<String> = failed.map(|f| format!("{}: {}", f.statement, f.compared)).collect();
    if failed.is_empty() {
        println!("{} of {} comparisons pass", findings.len(), findings.len());
        return Ok(());
    }
    Err(Error::Check { failed, of: findings.len() })
}
