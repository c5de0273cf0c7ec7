//! Checks what `ptxas` made of the kernels and writes `kernels/SASS.md`.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Parser;
use sass_gate::kernel::Products;
use sass_gate::limits::Table;
use sass_gate::{report, rules};

/// Counts the machine code of the kernels, holds it against kernels/gate.json and writes kernels/SASS.md.
///
/// Run kernels/build first.
#[derive(Parser)]
struct Arguments {
    /// Fail if kernels/SASS.md is not what the machine code gives, instead of writing it.
    #[arg(long)]
    check: bool,
    /// Root of the repository.
    #[arg(long, default_value = ".")]
    root: PathBuf,
    /// NVIDIA's cuobjdump; the one beside $NVCC, or that which kernels/build installed.
    #[arg(long, env = "CUOBJDUMP")]
    cuobjdump: Option<PathBuf>,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<bool> {
    let products = Products {
        binaries: arguments.root.join("target/kernels"),
        ptx: arguments.root.join("kernels/ptx"),
        cuobjdump: cuobjdump(arguments)?,
    };
    let table = Table::read(&arguments.root.join("kernels/gate.json"))?;
    let kernels = products.kernels()?;
    let broken = rules::check(&kernels, &table);
    for rule in &broken {
        eprintln!("{rule}");
    }
    let text = report::markdown(&kernels, &table);
    let path = arguments.root.join("kernels/SASS.md");
    let mut good = broken.is_empty();
    if !arguments.check {
        std::fs::write(&path, text).with_context(|| format!("writing {}", path.display()))?;
    } else if std::fs::read_to_string(&path).ok().as_deref() != Some(text.as_str()) {
        eprintln!(
            "kernels/SASS.md is not what the machine code gives: run cargo run -p sass-gate and commit"
        );
        good = false;
    }
    println!("{} kernels, {} broken rules", kernels.len(), broken.len());
    Ok(good)
}

/// The tool that was named, the one beside `nvcc`, or the one of the build's own installation.
fn cuobjdump(arguments: &Arguments) -> Result<PathBuf> {
    if let Some(named) = &arguments.cuobjdump {
        return Ok(named.clone());
    }
    if let Some(nvcc) = std::env::var_os("NVCC") {
        return Ok(PathBuf::from(nvcc).with_file_name("cuobjdump"));
    }
    let cache = std::env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache")))
        .context("neither CUOBJDUMP nor NVCC nor HOME is set")?;
    let python = cache.join("qwen-nvfp4/nvcc-13.0.88/lib");
    let versions = std::fs::read_dir(&python)
        .with_context(|| format!("reading {} (run kernels/build)", python.display()))?;
    for version in versions {
        let tool = version?
            .path()
            .join("site-packages/nvidia/cu13/bin/cuobjdump");
        if tool.exists() {
            return Ok(tool);
        }
    }
    anyhow::bail!("no cuobjdump under {}: run kernels/build", python.display())
}
