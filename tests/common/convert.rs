//! Conversions as tests make them.

use std::path::{Path, PathBuf};

use qwen_nvfp4::context::Cancel;
use qwen_nvfp4::quantize::execute::verify;
use qwen_nvfp4::quantize::plan::Options;
use qwen_nvfp4::quantize::report::LayerReport;
use qwen_nvfp4::quantize::{ConvertError, Monitor, Plan, Policy, Source, execute};

pub fn unscaled() -> Options {
    Options {
        assume_unscaled: true,
        ..Options::default()
    }
}

pub fn monitor() -> Monitor<'static> {
    Monitor {
        cancel: Cancel::default(),
        done: &|_| {},
    }
}

/// Converts and proves every byte.
pub fn try_convert(
    input: &Path,
    output: &Path,
    policy: &str,
    options: &Options,
) -> Result<Vec<LayerReport>, ConvertError> {
    let source = Source::open(input)?;
    let plan = Plan::new(&source, &Policy::built_in(policy).unwrap()?, None, options)?;
    let reports = execute(&plan, &source, (output, false), &monitor())?;
    verify(&plan, &source, output, &monitor())?;
    Ok(reports)
}

/// A file that is thrown away with its folder.
pub struct Output {
    pub path: PathBuf,
    _dir: tempfile::TempDir,
}

pub fn output() -> Output {
    let dir = tempfile::tempdir().unwrap();
    Output {
        path: dir.path().join("out.safetensors"),
        _dir: dir,
    }
}
