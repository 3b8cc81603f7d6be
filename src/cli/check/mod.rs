//! `stop-mim check`

use clap::{Args as ClapArgs, Subcommand};

use crate::Result;

#[derive(ClapArgs, Clone, Debug)]
pub struct Args {
    #[command(subcommand)]
    what: Option<What>,
}

#[derive(Subcommand, Clone, Debug)]
enum What {}

pub fn run(args: &Args) -> Result<()> {
    match args.what {
        None => Ok(()),
        Some(_) => Ok(()),
    }
}
