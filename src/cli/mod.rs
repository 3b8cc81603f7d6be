//! The command line: one file for each subcommand. It parses, calls the library, and prints; nothing is computed here.

/// Prints a line where it can be printed. Hours of training do not end because the reader of its progress has gone, or
/// because the disk behind it is full.
macro_rules! say {
    ($($line:tt)*) => { $crate::cli::print(&mut std::io::stdout(), format_args!($($line)*)) };
}

/// Prints a line on standard error, likewise.
macro_rules! note {
    ($($line:tt)*) => { $crate::cli::print(&mut std::io::stderr(), format_args!($($line)*)) };
}

/// Of several processes the first prints.
fn print(to: &mut dyn std::io::Write, line: std::fmt::Arguments) {
    if processes::speaks() {
        let _ = writeln!(to, "{line}");
    }
}

/// An error where `what` is asked of several processes.
fn only_alone(what: &str) -> Result<()> {
    match processes::world().size() {
        1 => Ok(()),
        n => Err(Error::config(
            format!("{what} is done in one process, and there are {n}"),
            "start it without a launcher",
        )),
    }
}

mod check;
mod encoder;
mod experiment;
mod features;
mod finetune;
mod flags;
mod guided;
mod masks;
mod options;
mod pictures;
mod pretrain;
mod probe;
mod profile;
mod progress;
mod reconstruct;
mod report;
mod run;
mod signals;
mod track;

use clap::{Parser, Subcommand};

use crate::kernels::within_memory;
use crate::processes;
use crate::{Error, Result};

/// Masked image modeling with stochastic positional embeddings (StoP, ICML 2024).
///
/// Without a command: a guided run of two to three minutes. It pretrains StoP on embedded images, probes the features
/// against an untrained encoder and raw pixels, and leaves pictures in runs/.
#[derive(Debug, Parser)]
#[command(name = "stop-mim", version, max_term_width = 110)]
pub struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    /// Threads that compute [default: all cores]. The results do not depend on it, not by a bit.
    #[arg(long, global = true, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Pretrain an encoder without labels, and write a checkpoint, a log and pictures.
    Pretrain(Box<pretrain::Args>),
    /// Judge an encoder's features: linear probe and k-NN, beside an untrained encoder and raw pixels.
    Probe(probe::Args),
    /// Train an encoder further, with a linear head, to tell the classes of few or all labeled images, and test it.
    Finetune(Box<finetune::Args>),
    /// Follow objects through videos by an encoder's patch features: J, F and J&F, as on DAVIS 2017.
    Track(Box<track::Args>),
    /// Compute an encoder's features of images: a tensor in, a tensor out, for other programs to read.
    Features(features::Args),
    /// Draw what a trained model predicts: pixels (MAE), or what predicted features resemble (Fig. 6).
    Reconstruct(Box<reconstruct::Args>),
    /// Repeat a table or figure of the paper at a size that anyone can run; `experiment list` shows which.
    Experiment(experiment::Args),
    /// Put the paper's statements, the gradients and the graph to the test.
    Check(check::Args),
    /// Gather results of experiments, the paper's statements and the pictures of runs on one HTML page.
    Report(report::Args),
    /// Draw masks over images, and how often each position is context or target.
    Masks(Box<masks::Args>),
}

impl Cli {
    /// Parses the process's arguments.
    ///
    /// # Errors
    /// What is to be printed instead of any work: help, or what is wrong with them.
    pub fn from_args() -> Result<Self, clap::Error> {
        Parser::try_parse()
    }

    /// Does what was asked. Once in a process, as it makes the threads.
    ///
    /// # Errors
    /// When something outside the process is not as it must be; the message says what to do. Of several processes all have the
    /// error of one.
    pub fn run(self) -> Result<()> {
        let done = self.run_here();
        processes::world().end(done)
    }

    fn run_here(self) -> Result<()> {
        let threads = self.threads.map_or(0, usize::from); // 0: as many as there are cores
        rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build_global()
            .map_err(|e| Error::config(format!("threads to compute with: {e}"), "ask for fewer, with --threads"))?;
        within_memory(|| self.perform()).flatten().map_err(|error| error.renamed(flags::flag))
    }

    /// Does what was asked, with the threads that there are.
    fn perform(self) -> Result<()> {
        if !matches!(self.command, Some(Command::Pretrain(_) | Command::Finetune(_))) {
            only_alone("this command")?;
        }
        match self.command {
            None => guided::run(),
            Some(Command::Pretrain(args)) => pretrain::run(&args),
            Some(Command::Probe(args)) => probe::run(&args),
            Some(Command::Finetune(args)) => finetune::run(&args),
            Some(Command::Track(args)) => track::run(&args),
            Some(Command::Features(args)) => features::run(&args),
            Some(Command::Reconstruct(args)) => reconstruct::run(&args),
            Some(Command::Experiment(args)) => experiment::run(&args),
            Some(Command::Check(args)) => check::run(&args),
            Some(Command::Report(args)) => report::run(&args),
            Some(Command::Masks(args)) => masks::run(&args),
        }
    }
}
