//! The door: parse the command line, run, print the error.

use std::io::Write;
use std::process::ExitCode;

use stop_mim::Error;

/// What a shell gives for a process that Ctrl-C ended.
const INTERRUPTED: u8 = 130;

fn main() -> ExitCode {
    end_without_a_reader();
    match stop_mim::cli::Cli::from_args().run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error @ Error::Interrupted) => {
            let _ = writeln!(std::io::stderr(), "{error}");
            ExitCode::from(INTERRUPTED)
        }
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "error: {error}"); // the exit code says it too
            ExitCode::FAILURE
        }
    }
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
