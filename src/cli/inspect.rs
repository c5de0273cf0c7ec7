//! `qwen-nvfp4 inspect`.

use std::path::Path;

use anyhow::Context;

use super::Failure;
use super::args::{Common, Inspect};
use crate::inspect::{Report, inspect, inspect_embedded, render_text};

/// Runs the command: the report goes to standard output, faults make the exit code 3.
pub(super) fn run(args: &Inspect, common: &Common) -> Result<(), Failure> {
    let report: Report = match args.file.as_str() {
        "tiny" => inspect_embedded(),
        path => inspect(Path::new(path)),
    }
    .map_err(anyhow::Error::from)?;
    match common.json {
        true => println!("{}", serde_json::to_string(&report).context("the report")?),
        false => print!("{}", render_text(&report)),
    }
    match report.faults.len() {
        0 => Ok(()),
        n => Err(Failure::Faults(n)),
    }
}
