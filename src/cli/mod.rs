//! The command line.

use std::ffi::OsString;
use std::process::ExitCode;

/// Parses `args`, runs the command, prints its errors; the exit code is the contract's.
pub fn run(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let _ = args.into_iter();
    ExitCode::SUCCESS
}
