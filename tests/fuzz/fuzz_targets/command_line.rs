//! Arguments, one a line; any bytes.

#![no_main]

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

use clap::Parser;
use libfuzzer_sys::fuzz_target;
use stop_mim::cli::Cli;

fuzz_target!(|data: &[u8]| {
    let args = data.split(|b| *b == b'\n').map(|arg| OsString::from_vec(arg.to_vec()));
    if let Err(error) = Cli::try_parse_from(std::iter::once("stop-mim".into()).chain(args)) {
        assert!(!error.to_string().is_empty());
    }
});
