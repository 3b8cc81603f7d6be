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

/// Prints what was found.
fn print(findings: &[Finding]) {
    let row = |f: &Finding| {
        let verdict = match f.verdict() {
            Verdict::Pass => "pass",
            Verdict::Mismatch => "MISMATCH",
            Verdict::NotChecked => "NOT CHECKED",
        };
        let numbers = [f.scale, f.error].map(|x| format!("{x:.1e}"));
        let [scale, error] = numbers;
        vec![f.statement.clone(), f.compared.clone(), scale, error, format!("{:.0e}", f.tolerance), verdict.to_owned()]
    };
    let rows: Vec<Vec<String>> = findings.iter().map(row).collect();
    println!("{}", table(&["statement", "compared", "scale", "error", "tolerance", "verdict"], &rows));
}

/// An error unless all of them passed.
fn conclude(findings: &[Finding]) -> Result<()> {
    let failed: Vec<&Finding> = findings.iter().filter(|f| f.verdict() != Verdict::Pass).collect();
    match failed.first() {
        None => {
            println!("{} of {} pass", findings.len(), findings.len());
            Ok(())
        }
        Some(first) => Err(Error::config(
            format!(
                "{} of {} do not pass; first: {}: {}",
                failed.len(),
                findings.len(),
                first.statement,
                first.compared
            ),
            "see the rows of the table above that do not say pass",
        )),
    }
}
