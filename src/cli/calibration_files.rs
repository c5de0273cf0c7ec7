//! `qwen-nvfp4 calibrate merge`, `export` and `import`.

use std::path::{Path, PathBuf};

use anyhow::Context;
use serde_json::json;

use super::args::Common;
use super::calibrate_args::{CalibrateCommand, FormArg, FormatArg};
use super::{Failure, output, text_file};
use crate::checkpoint::write_whole;
use crate::quantize::calibration::capture::LEVELS;
use crate::quantize::calibration::comfy::{Captured, Form};
use crate::quantize::calibration::{Calibration, CalibrationError, CalibrationFile};

impl From<CalibrationError> for Failure {
    fn from(e: CalibrationError) -> Self {
        Self::Work(e.into())
    }
}

pub(super) fn run(command: &CalibrateCommand, common: &Common) -> Result<(), Failure> {
    match command {
        CalibrateCommand::Merge {
            inputs,
            output,
            force,
        } => {
            let inputs: Vec<&Path> = inputs.iter().map(PathBuf::as_path).collect();
            let target = Target::new(output, *force, &inputs)?;
            let merged = merge(&inputs)?;
            target.write(&merged.to_json(true))?;
            let (samples, layers) = (merged.samples(), merged.capture.layers.len());
            target.report(
                common,
                &json!({ "output": output, "samples": samples, "layers": layers }),
                &format!("{samples} samples, {layers} layers"),
            )
        }
        CalibrateCommand::Export {
            input,
            output,
            stat,
            format,
            force,
        } => {
            let target = Target::new(output, *force, &[input])?;
            let flat = export(input, stat, *format)?;
            let layers = flat.len();
            let text = serde_json::to_string_pretty(&flat).context("the ranges")?;
            target.write(&(text + "\n"))?;
            let report = json!({ "output": output, "layers": layers, "stat": stat });
            target.report(common, &report, &format!("{stat} of {layers} layers"))
        }
        CalibrateCommand::Import {
            input,
            output,
            form,
            calls,
            force,
        } => {
            let target = Target::new(output, *force, &[input])?;
            let captured = Captured::parse(&name(input), &read(input)?)?;
            let form = form.map(|form| match form {
                FormArg::Maxima => Form::Maxima,
                FormArg::Sums => Form::Sums,
            });
            target.write(&captured.import(form, calls_by_level(calls)?)?)?;
            let why = &captured.why;
            let form = format!("{:?}", captured.form.or(form)).to_lowercase();
            let form = form.trim_start_matches("some(").trim_end_matches(')');
            let report = json!({ "output": output, "form": form, "why": why });
            target.report(common, &report, why)
        }
    }
}

/// Adds up calibrations.
fn merge(inputs: &[&Path]) -> Result<CalibrationFile, Failure> {
    let mut merged: Option<CalibrationFile> = None;
    for path in inputs {
        let file = CalibrationFile::parse(&name(path), &read(path)?)?;
        match &mut merged {
            None => merged = Some(file),
            Some(merged) => merged.merge(&file).map_err(|reason| {
                Failure::Work(anyhow::anyhow!(
                    "{}: {reason}; leave it out",
                    path.display()
                ))
            })?,
        }
    }
    merged.ok_or_else(|| Failure::Usage("nothing to merge".to_owned()))
}

/// A number for each layer.
fn export(
    input: &Path,
    stat: &str,
    format: Option<FormatArg>,
) -> Result<serde_json::Map<String, serde_json::Value>, Failure> {
    let calibration = Calibration::parse(&name(input), &read(input)?, stat)?;
    let mut flat = serde_json::Map::new();
    for (layer, range) in &calibration.ranges {
        let bound = match format {
            Some(FormatArg::Nvfp4) => range.nvfp4,
            Some(FormatArg::Fp8) => range.fp8,
            None if range.nvfp4.amax == range.fp8.amax => range.nvfp4,
            None => {
                return Err(Failure::Usage(format!(
                    "`{stat}` of layer `{layer}` is {} for NVFP4 and {} for FP8; say which with --format nvfp4 or --format fp8",
                    range.nvfp4.amax, range.fp8.amax
                )));
            }
        };
        flat.insert(layer.clone(), json!(bound.amax));
    }
    Ok(flat)
}

/// One number for all sixths of the noise levels, or six.
fn calls_by_level(calls: &[u64]) -> Result<Option<[u64; LEVELS]>, Failure> {
    match calls {
        [] => Ok(None),
        [all] => Ok(Some([*all; LEVELS])),
        _ => calls.try_into().map(Some).map_err(|_| {
            Failure::Usage(format!(
                "{} numbers of --calls; give one or six",
                calls.len()
            ))
        }),
    }
}

fn read(path: &Path) -> Result<String, Failure> {
    text_file::read(path, "give a calibration as JSON")
}

/// What messages call a file.
fn name(path: &Path) -> String {
    path.display().to_string()
}

/// A file to write, checked before the work.
struct Target<'a> {
    path: &'a Path,
}

impl<'a> Target<'a> {
    fn new(path: &'a Path, force: bool, inputs: &[&Path]) -> Result<Self, Failure> {
        output::check_target(path, "-o")?;
        output::check_distinct(&[(path, "-o")], inputs)?;
        if path.exists() && !force {
            return Err(Failure::Usage(format!(
                "{} is there already; say --force to overwrite it",
                path.display()
            )));
        }
        Ok(Self { path })
    }

    fn write(&self, text: &str) -> Result<(), Failure> {
        write_whole(self.path, text.as_bytes()).map_err(|e| Failure::Work(e.into()))
    }

    fn report(&self, common: &Common, json: &serde_json::Value, text: &str) -> Result<(), Failure> {
        match common.json {
            true => println!("{json}"),
            false => {
                println!("{}", self.path.display());
                if !common.quiet {
                    eprintln!("{text}");
                }
            }
        }
        Ok(())
    }
}
