//! The words of `bench`.

use std::path::PathBuf;

use clap::Args;

use super::args::{ModelArgs, size};

const BENCH_EXAMPLES: &str = "Examples:
  qwen-nvfp4 bench --limit 5
  qwen-nvfp4 bench
  qwen-nvfp4 bench --model Qwen-Rapid-AIO.safetensors --variants my-variants.json --prompts prompts.txt -o rapid --resume";

/// `bench`
#[derive(Args, Debug)]
#[command(after_help = BENCH_EXAMPLES)]
pub struct Bench {
    #[command(flatten)]
    pub model: ModelArgs,
    /// Rows: a file like configs/variants.json, or names of the rows inside of this program
    #[arg(long, value_name = "FILE|A,B,..")]
    pub variants: Option<String>,
    /// What `calibrate` wrote of this model: for all rows that name a calibration [default: those of the tiny model]
    #[arg(long, value_name = "FILE")]
    pub calib: Option<PathBuf>,
    /// Prompts, one a line [default: the 100 that come with this program]
    #[arg(long, value_name = "FILE")]
    pub prompts: Option<PathBuf>,
    /// Folder for results.json, report.md, report.html, the pictures and the converted checkpoints
    #[arg(short, long, default_value = "bench-results", value_name = "DIR")]
    pub output: PathBuf,
    /// The F32 or BF16 model that this one was made of: a row of its own, and all pictures are compared with its too
    #[arg(long, value_name = "MODEL")]
    pub reference: Option<String>,
    /// Weights of LPIPS, to measure it too: what torch.save(lpips.LPIPS(net='alex').state_dict(), FILE) writes, or safetensors
    #[arg(long, value_name = "FILE")]
    pub lpips: Option<PathBuf>,
    /// Go on with what an earlier run of the same kind left
    #[arg(long)]
    pub resume: bool,
    /// Begin anew where there is something already; converted checkpoints stay
    #[arg(long, conflicts_with = "resume")]
    pub force: bool,
    /// So many prompts only
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub limit: Option<u32>,
    /// Prompts whose velocities and layers are compared, teacher-forced
    #[arg(long, default_value_t = 8, value_name = "N")]
    pub taught: u32,
    /// Steps of the schedule [default: the model's]
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub steps: Option<usize>,
    /// Width and height in pixels [default: the model's]
    #[arg(long, value_name = "WxH", value_parser = size)]
    pub size: Option<(usize, usize)>,
    /// Guidance scale [default: the model's]
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    pub cfg: Option<f64>,
    /// Seed of the first prompt; the following count up
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub seed: u64,
}
