//! The door: parse the command line, run, print the error.

use std::io::Write;
use std::process::ExitCode;

use stop_mim::cli::Cli;
use stop_mim::{Error, processes};

/// What a shell gives for a process that Ctrl-C ended.
const INTERRUPTED: u8 = 130;

fn main() -> ExitCode {
    end_without_a_reader();
    let started = processes::start();
    let code = match &started {
        Err(error) => failed(error),
        Ok(_) => match Cli::from_args() {
            Ok(cli) => cli.run().map_or_else(|error| failed(&error), |()| ExitCode::SUCCESS),
            Err(usage) => {
                if processes::speaks() {
                    let _ = usage.print();
                }
                ExitCode::from(usage.exit_code() as u8)
            }
        },
    };
    // The launcher gets the code of the first process, and no more messages than that has.
    if processes::speaks() { code } else { ExitCode::SUCCESS }
}

/// Says what went wrong: the exit code says it too.
fn failed(error: &Error) -> ExitCode {
    let interrupted = matches!(error, Error::Interrupted);
    processes::note(format_args!("{}{error}", if interrupted { "" } else { "error: " }));
    if interrupted { ExitCode::from(INTERRUPTED) } else { ExitCode::FAILURE }
}

/// `println!` panics when nothing can be printed. `stop-mim check | head` closes the pipe while we print: the reader has
/// what it wanted. On a full disk it has not, and is told. (Training goes on either way: it does not use `println!`.)
fn end_without_a_reader() {
    let otherwise = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        match info.payload().downcast_ref::<String>().and_then(|message| message.strip_prefix("failed printing to ")) {
            Some(what) if what.starts_with("stdout") && what.contains("Broken pipe") => std::process::exit(0),
            Some(what) => {
                let _ = writeln!(std::io::stderr(), "error: cannot print to {what}\n  print to where there is space");
                std::process::exit(1);
            }
            None => otherwise(info),
        }
    }));
}
