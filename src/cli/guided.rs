//! `stop-mim` without a command: two minutes from nothing to a probe.

use clap::Parser;

use super::Cli;
use crate::Result;

/// What the guided run does, as a command line. Embedded images, the paper's method, a model small enough that two
/// cores learn something in under two minutes; docs/experiments.md says how it was found.
const COMMAND: &str = "stop-mim pretrain --method stop --data shapes --name guided --dim 128 --depth 4 --heads 4 \
    --predictor-dim 64 --predictor-depth 2 --predictor-heads 2 --steps 600 --probe --probe-images 5000,2000";

/// Runs [`COMMAND`], having shown it.
pub fn run() -> Result<()> {
    println!("StoP on embedded images, in about two minutes. The same as\n\n  {COMMAND}\n");
    println!("Ctrl-C ends it early, with a checkpoint. `stop-mim --help` shows what else there is.\n");
    // The words are fixed and parsed by a test, so that a mistake in them cannot reach a user.
    Cli::parse_from(COMMAND.split_whitespace()).run()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_guided_command_is_one() {
        assert!(Cli::try_parse_from(COMMAND.split_whitespace()).is_ok());
    }
}
