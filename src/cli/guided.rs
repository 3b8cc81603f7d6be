//! `stop-mim` without a command: two minutes from nothing to a probe.

use clap::Parser;

use super::Cli;
use crate::Result;

/// What the guided run does, as a command line. Embedded images, the paper's method, a model small enough that two
/// cores show it 384,000 images in under two minutes; the probe counts the shapes in an image, as the paper's
/// CLEVR/Count does. docs/experiments.md says how it was found.
const COMMAND: &str = "stop-mim pretrain --method stop --data shapes:count --name guided --dim 64 --depth 3 --heads 1 \
    --predictor-dim 32 --predictor-depth 1 --predictor-heads 1 --embed-std 0.125 --steps 6000 --lr 1e-3 \
    --ema 0.998,1 --probe --probe-images 4000,2000";

/// Runs [`COMMAND`], having shown it.
pub fn run() -> Result<()> {
    say!("StoP on embedded images, in two to three minutes. The same as\n\n  {COMMAND}\n");
    say!("Ctrl-C ends it early, with a checkpoint. `stop-mim --help` shows what else there is.\n");
    // The words are fixed and parsed by a test, so that a mistake in them cannot reach a user.
    Cli::parse_from(COMMAND.split_whitespace()).perform()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_guided_command_is_one() {
        assert!(Cli::try_parse_from(COMMAND.split_whitespace()).is_ok());
    }
}
