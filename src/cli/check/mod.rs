//! `stop-mim check`

mod collapse;

use clap::{Args as ClapArgs, Subcommand};

use crate::Result;

#[derive(ClapArgs, Clone, Debug)]
pub struct Args {
    #[command(subcommand)]
    what: Option<What>,
}

#[derive(Subcommand, Clone, Debug)]
enum What {
    /// What noise does to A, tied and untied, under a fixed predictor and in training: tables, curves, verdicts.
    Collapse(collapse::Args),
}

pub fn run(args: &Args) -> Result<()> {
    match &args.what {
        None => Ok(()),
        Some(What::Collapse(args)) => collapse::run(args),
    }
}
