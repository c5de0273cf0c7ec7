//! The words of `calibrate`.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use super::args::{ActivationsArg, ModelArgs, size};
use crate::calibrate::Shard;

const CALIBRATE_EXAMPLES: &str = "Examples:
  qwen-nvfp4 calibrate -o calib.json
  qwen-nvfp4 calibrate --model Qwen-Rapid-AIO.safetensors --samples 64 --max-minutes 120 -o calib.json
  qwen-nvfp4 calibrate --samples 512 --shard 3/8 -o shard-3.json
  qwen-nvfp4 calibrate merge shard-*.json -o calib.json
  qwen-nvfp4 convert tiny --policy v3 --assume-unscaled --calib calib.json --calib-stat max -o v3.safetensors";

/// `calibrate`
#[derive(Args, Debug)]
#[command(after_help = CALIBRATE_EXAMPLES, args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct Calibrate {
    #[command(subcommand)]
    pub command: Option<CalibrateCommand>,
    #[command(flatten)]
    pub model: ModelArgs,
    /// The file to write; beside it `.partial` keeps the state until it is whole
    #[arg(short, long, value_name = "FILE", required = true)]
    pub output: Option<PathBuf>,
    /// Prompts, one a line; may be repeated [default: those that come with this program]
    #[arg(long, value_name = "FILE")]
    pub prompts: Vec<PathBuf>,
    /// Generations to look at: number i takes prompt i, size i, ... of each list, beginning again at its end [default: as many as prompts]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub samples: Option<u64>,
    /// Widths and heights in pixels [default: the model's]
    #[arg(long, value_name = "WxH,..", value_delimiter = ',', value_parser = size)]
    pub sizes: Vec<(usize, usize)>,
    /// Step counts [default: the model's]
    #[arg(
        long,
        value_name = "N,..",
        value_delimiter = ',',
        allow_negative_numbers = true
    )]
    pub steps: Vec<usize>,
    /// Guidance scales [default: the model's]
    #[arg(
        long,
        value_name = "X,..",
        value_delimiter = ',',
        allow_negative_numbers = true
    )]
    pub cfg: Vec<f64>,
    /// Seed of the first sample; the following count up
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
    /// Prompts, sizes, steps and guidance scales as a JSON file, from which each sample draws
    #[arg(long, value_name = "FILE", conflicts_with_all = ["prompts", "sizes", "steps", "cfg"])]
    pub plan: Option<PathBuf>,
    /// Run this model, converted from --model, and record its activations
    #[arg(long, value_name = "MODEL")]
    pub observe_on: Option<String>,
    /// How activations of quantized layers are quantized while they are recorded
    #[arg(long, value_enum, default_value_t, value_name = "HOW")]
    pub activations: ActivationsArg,
    /// Go on with what an earlier run of the same kind left
    #[arg(long)]
    pub resume: bool,
    /// Overwrite what is there
    #[arg(long, conflicts_with = "resume")]
    pub force: bool,
    /// Make every Nth sample only; I counts from 0 or from 1
    #[arg(long, value_name = "I/N", value_parser = shard)]
    pub shard: Option<Shard>,
    /// Stop after the sample that ends after so many minutes; --resume goes on
    #[arg(long, value_name = "X", value_parser = minutes)]
    pub max_minutes: Option<f64>,
}

/// What else there is to do with calibrations.
#[derive(Subcommand, Debug)]
pub enum CalibrateCommand {
    /// Add up calibrations of one model; shards of a run give what the whole run gives, bit for bit
    Merge {
        /// Calibrations
        #[arg(required = true, value_name = "FILE")]
        inputs: Vec<PathBuf>,
        /// The file to write
        #[arg(short, long, value_name = "FILE")]
        output: PathBuf,
        /// Overwrite what is there
        #[arg(long)]
        force: bool,
    },
    /// Write one number for each layer, as comfy-dit-quantizer reads them
    Export {
        /// A calibration
        #[arg(value_name = "FILE")]
        input: PathBuf,
        /// The file to write
        #[arg(short, long, value_name = "FILE")]
        output: PathBuf,
        /// Which statistic: max, p99.9 (any percentile), run-p99.9, mse, headroom
        #[arg(long, value_name = "NAME", default_value = "max")]
        stat: String,
        /// For which format, where that makes a difference (mse, headroom)
        #[arg(long, value_name = "NAME")]
        format: Option<FormatArg>,
        /// Overwrite what is there
        #[arg(long)]
        force: bool,
    },
    /// Read a capture of ComfyUI (CALIB_DATA.json), and tell whether it holds maxima or sums
    Import {
        /// The capture
        #[arg(value_name = "FILE")]
        input: PathBuf,
        /// The file to write
        #[arg(short, long, value_name = "FILE")]
        output: PathBuf,
        /// What its numbers are, where that cannot be told
        #[arg(long, value_name = "NAME")]
        form: Option<FormArg>,
        /// How many calls of a layer each sixth of the noise levels saw; one number for all of them, or six: sums become means
        #[arg(long, value_name = "N,..", value_delimiter = ',')]
        calls: Vec<u64>,
        /// Overwrite what is there
        #[arg(long)]
        force: bool,
    },
}

/// A quantized format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum FormatArg {
    /// NVFP4
    Nvfp4,
    /// FP8 E4M3
    Fp8,
}

/// What a capture holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum FormArg {
    /// The largest over all calls
    Maxima,
    /// The sum over all calls
    Sums,
}

fn shard(text: &str) -> Result<Shard, String> {
    let parsed = text
        .split_once('/')
        .and_then(|(i, n)| Some((i.parse().ok()?, n.parse().ok()?)));
    let (index, of) = parsed.ok_or_else(|| "a shard is I/N, as 0/4".to_owned())?;
    Shard::new(index, of)
}

fn minutes(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(minutes) if minutes.is_finite() && minutes > 0.0 => Ok(minutes),
        _ => Err("give a number of minutes above 0".to_owned()),
    }
}
