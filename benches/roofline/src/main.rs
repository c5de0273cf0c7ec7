//! Prints the modelled time of a denoising step.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Parser;
use roofline::inputs::Inputs;
use roofline::model::Model;
use roofline::policy::Policy;
use roofline::report::Request;
use roofline::step::Options;
use roofline::time::Machine;

/// Modelled time of a denoising step on an RTX 5090, from arithmetic, bytes and published measurements, as Markdown.
#[derive(Parser)]
struct Arguments {
    /// Policies in configs/; the others are compared with the first.
    #[arg(default_values = ["fp8", "v1", "v2", "v3", "v4", "v5"])]
    policies: Vec<String>,
    /// Image tokens.
    #[arg(long, default_value_t = Model::QWEN_IMAGE.image)]
    image: usize,
    /// Text tokens.
    #[arg(long, default_value_t = Model::QWEN_IMAGE.text)]
    text: usize,
    /// Attention in bf16 instead of FP8.
    #[arg(long)]
    bf16_attention: bool,
    /// Compute modulations in every step instead of once before the first.
    #[arg(long)]
    modulation_in_step: bool,
    /// Change an input, as in clock=2.6e9.
    #[arg(long = "set", value_name = "NAME=VALUE")]
    set: Vec<String>,
    /// Root of the repository: configs/ and kernels/SASS.md are read.
    #[arg(long, default_value = ".")]
    root: PathBuf,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(report) => {
            print!("{report}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<String> {
    let mut inputs = Inputs::rtx5090();
    for set in &arguments.set {
        let (name, value) = set
            .split_once('=')
            .with_context(|| format!("`{set}` is not NAME=VALUE"))?;
        let value = value
            .parse()
            .with_context(|| format!("`{value}` is no number"))?;
        inputs = inputs.with(name, value)?;
    }
    let sass = arguments.root.join("kernels/SASS.md");
    let sass =
        std::fs::read_to_string(&sass).with_context(|| format!("reading {}", sass.display()))?;
    let configs = arguments.root.join("configs");
    let policies: Vec<Policy> = arguments
        .policies
        .iter()
        .map(|name| Policy::read(&configs, name))
        .collect::<Result<_>>()?;
    let request = Request {
        machine: Machine {
            inputs,
            loops: sass_gate::report::read_loops(&sass),
        },
        model: Model {
            image: arguments.image,
            text: arguments.text,
            ..Model::QWEN_IMAGE
        },
        policies: &policies,
        options: Options {
            fp8_attention: !arguments.bf16_attention,
            modulation_ready: !arguments.modulation_in_step,
        },
    };
    request.markdown()
}
