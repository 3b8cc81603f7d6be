//! `stop-mim check`

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
enum What {}

pub fn run(args: &Args) -> Result<()> {
    match args.what {
        None => {
            let statements = lab::statements().into_iter();
            report(&statements.map(|(name, test)| (name.to_owned(), test())).collect::<Vec<_>>(), args.all)
        }
        Some(_) => Ok(()),
    }
}

/// Prints what was found about each statement: its worst comparison, or with `all` every one.
///
/// # Errors
/// When a comparison did not pass; it names the statements.
pub fn report(statements: &[(String, Vec<Finding>)], all: bool) -> Result<()> {
    let mut rows = Vec::new();
    for (name, findings) in statements {
        // The worst by its share of what is allowed, and anything that did not pass before that.
        let badness = |f: &Finding| match f.verdict() {
            Verdict::Pass => f.error / (f.tolerance * f.scale).max(f64::MIN_POSITIVE),
            Verdict::NotChecked | Verdict::Mismatch => f64::INFINITY,
        };
        let worst = findings.iter().max_by(|a, b| badness(a).total_cmp(&badness(b)));
        let others = findings.len().saturating_sub(1);
        for finding in findings.iter().filter(|f| all || worst.is_some_and(|w| std::ptr::eq(*f, w))) {
            let compared = match (all, others) {
                (true, _) | (false, 0) => finding.compared.clone(),
                (false, n) => format!("{} (+{n})", finding.compared),
            };
            rows.push(vec![
                name.clone(),
                compared,
                format!("{:.1e}", finding.scale),
                format!("{:.1e}", finding.error),
                format!("{:.0e}", finding.tolerance * finding.scale),
                match finding.verdict() {
                    Verdict::Pass => "pass".into(),
                    Verdict::Mismatch => "MISMATCH".into(),
                    Verdict::NotChecked => "not checked".into(),
                },
            ]);
        }
    }
    let header = ["statement", "compared", "scale", "worst error", "allowed", "verdict"];
    println!("{}", table(&header, &rows));
    let comparisons: usize = statements.iter().map(|(_, findings)| findings.len()).sum();
    let failed: Vec<String> = statements
        .iter()
        .filter(|(_, findings)| findings.is_empty() || findings.iter().any(|f| f.verdict() != Verdict::Pass))
        .map(|(name, _)| name.clone())
        .collect();
    println!("{} statements, {comparisons} comparisons, {} failed", statements.len(), failed.len());
    match failed.is_empty() {
        true => Ok(()),
        false => Err(Error::Check { failed }),
    }
}
