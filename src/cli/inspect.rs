//! `qwen-nvfp4 inspect`.

use std::path::Path;

use anyhow::Context;

use super::Failure;
use super::args::{Common, Inspect};
use crate::context::Cancel;
use crate::inspect::{Depth, inspect_to, render_text};

/// Runs the command: the report goes to standard output, faults make the exit code 3, advice does not.
pub(super) fn run(args: &Inspect, common: &Common, cancel: Cancel) -> Result<(), Failure> {
    let path = match args.file.as_str() {
        "tiny" => None,
        path => Some(Path::new(path)),
    };
    let depth = match args.deep {
        true => Depth::Weights(cancel.clone()),
        false => Depth::Scales,
    };
    let report = inspect_to(path, &depth).map_err(anyhow::Error::from)?;
    if cancel.is_cancelled() {
        return Err(Failure::Interrupted);
    }
    match common.json {
        true => println!("{}", serde_json::to_string(&report).context("the report")?),
        false => print!("{}", render_text(&report)),
    }
    match report.faults.len() {
        0 => Ok(()),
        n => Err(Failure::Faults(n)),
    }
}
