//! The door: parse the command line, run, print the error.

use std::process::ExitCode;

fn main() -> ExitCode {
    match stop_mim::cli::Cli::from_args().run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
