//! The command line's words.

use std::path::{Path, PathBuf};

use clap::builder::PossibleValuesParser;
use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::checkpoint::{Activations, Component};
use crate::numerics::search::Method;
use crate::pipeline::sampler::Sampler;
use crate::pipeline::schedule::ScheduleKind;
use crate::quantize::plan::{Keys, Marker};

/// Run Qwen-Image natively, from full-size FP8 files down to the tiny model inside of this program.
#[derive(Parser, Debug)]
#[command(
    name = "qwen-nvfp4",
    version,
    propagate_version = true,
    arg_required_else_help = true
)]
pub struct Cli {
    #[command(flatten)]
    pub common: Common,
    #[command(subcommand)]
    pub command: Command,
}

/// Options of every command.
#[derive(Args, Debug)]
pub struct Common {
    /// Where to compute: auto, cpu, cuda or cuda:N
    #[arg(long, global = true, default_value = "auto", value_name = "DEVICE")]
    pub device: String,
    /// Threads to compute with [default: one per core]
    #[arg(long, global = true, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub threads: Option<u16>,
    /// Print one JSON document on standard output, and nothing else there
    #[arg(long, global = true)]
    pub json: bool,
    /// Print errors only
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub quiet: bool,
    /// Say what is chosen and why
    #[arg(short, long, global = true)]
    pub verbose: bool,
}

/// What to do.
#[derive(Subcommand, Debug)]
pub enum Command {
    /// Make pictures from text
    Generate(Box<Generate>),
    /// Say what a checkpoint holds and what is wrong with it
    Inspect(Inspect),
    /// Make a mixed NVFP4/FP8 checkpoint of an FP8 or BF16 one
    Convert(Box<Convert>),
    /// Record the ranges of a model's activations, from which static scales are made
    Calibrate(Box<super::calibrate_args::Calibrate>),
    /// Run the policies against the FP8 baseline on 100 prompts, for speed and for quality, and write a report
    Bench(Box<super::bench_args::Bench>),
    /// Rank groups of layers by what NVFP4 costs and saves in them, and suggest a policy
    Sensitivity(Box<super::sensitivity::Sensitivity>),
    /// Say what this machine has, which kernels will run, and whether each computes what it should
    #[command(after_help = "Example:\n  qwen-nvfp4 doctor")]
    Doctor,
}

/// The model's files.
#[derive(Args, Debug, Clone)]
pub struct ModelArgs {
    /// `tiny` (inside of this program), an all-in-one file, a diffusers folder, an index of shards, or a transformer
    #[arg(long, default_value = "tiny", value_name = "MODEL")]
    pub model: String,
    /// Text encoder, where the model has none
    #[arg(long, value_name = "FILE")]
    pub text_encoder: Option<PathBuf>,
    /// VAE, where the model has none
    #[arg(long, value_name = "FILE")]
    pub vae: Option<PathBuf>,
}

const GENERATE_EXAMPLES: &str = "Examples:
  qwen-nvfp4 generate \"a large red star above a small blue circle on a plain yellow background\"
  qwen-nvfp4 generate \"a cat\" --model Qwen-Rapid-AIO.safetensors --size 1024x1024 --steps 4 -o cat.png
  qwen-nvfp4 generate --prompts prompts.txt --batch 2 -o pictures/p.png";

/// `generate`
#[derive(Args, Debug)]
#[command(after_help = GENERATE_EXAMPLES)]
pub struct Generate {
    /// What to draw; may be empty
    #[arg(default_value = "", hide_default_value = true)]
    pub prompt: String,
    #[command(flatten)]
    pub model: ModelArgs,
    /// The picture; several are numbered: out-000.png, out-001.png, ...
    #[arg(short, long, default_value = "out.png", value_name = "FILE")]
    pub output: PathBuf,
    /// Steps of the schedule [default: the model's]
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub steps: Option<usize>,
    /// Seed of the first picture; the following count up
    #[arg(
        long,
        default_value_t = 0,
        value_name = "N",
        allow_negative_numbers = true
    )]
    pub seed: u64,
    /// Width and height in pixels, multiples of 16 [default: the model's]
    #[arg(long, value_name = "WxH", value_parser = size)]
    pub size: Option<(usize, usize)>,
    /// Guidance scale; 1 is none [default: the model's]
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    pub cfg: Option<f64>,
    /// What not to draw, where the guidance scale is not 1
    #[arg(long, value_name = "TEXT")]
    pub negative: Option<String>,
    /// How to get from noise to a picture [default: the model's]
    #[arg(long, value_name = "NAME", value_parser = PossibleValuesParser::new(Sampler::NAMES.map(|(name, _)| name)))]
    pub sampler: Option<String>,
    /// Which noise levels [default: the model's]
    #[arg(long, value_name = "NAME", value_parser = PossibleValuesParser::new(ScheduleKind::NAMES.map(|(name, _)| name)))]
    pub schedule: Option<String>,
    /// Shift of the schedule: static for flow, ModelSamplingAuraFlow's for the others
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    pub shift: Option<f64>,
    /// Noise levels in place of a schedule, from at most 1 down, the final 0 may be left out
    #[arg(long, value_name = "A,B,..", value_delimiter = ',', conflicts_with_all = ["schedule", "shift", "steps"], allow_negative_numbers = true)]
    pub sigmas: Option<Vec<f32>>,
    /// How the activations of quantized layers are quantized: with the file's scales, with their own, or not at all
    #[arg(long, value_enum, default_value_t, value_name = "HOW")]
    pub activations: ActivationsArg,
    /// Pictures per prompt
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub batch: u32,
    /// Prompts, one a line
    #[arg(long, value_name = "FILE", conflicts_with = "prompt")]
    pub prompts: Option<PathBuf>,
    /// Low-rank adapter beside the transformer's weights, and how strongly it acts [default: 1]; may be repeated
    #[arg(long, value_name = "FILE[:SCALE]", value_parser = lora)]
    pub lora: Vec<LoraArg>,
    /// Frame of the prompt [default: the model's]
    #[arg(long, value_name = "NAME")]
    pub template: Option<TemplateArg>,
    /// Folder for a picture after every step
    #[arg(long, value_name = "DIR")]
    pub preview: Option<PathBuf>,
    /// Final latents, before the VAE, as safetensors
    #[arg(long, value_name = "FILE")]
    pub save_latents: Option<PathBuf>,
    /// Starting latents in place of the seed's noise
    #[arg(long, value_name = "FILE")]
    pub latents: Option<PathBuf>,
}

/// Frames of a prompt.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum TemplateArg {
    /// Qwen-Image
    T2i,
    /// Qwen-Image-Edit, as ComfyUI's TextEncodeQwenImageEditPlus uses it without pictures
    Edit,
}

/// `inspect`
#[derive(Args, Debug)]
#[command(after_help = "Example:\n  qwen-nvfp4 inspect Qwen-Rapid-AIO.safetensors --json")]
pub struct Inspect {
    /// The checkpoint: a file, a folder, an index of shards, or `tiny`
    #[arg(value_name = "FILE")]
    pub file: String,
    /// Read every weight too, in search of NaN and scales that do not fit: as long as reading the file takes
    #[arg(long)]
    pub deep: bool,
}

const CONVERT_EXAMPLES: &str = "Examples:
  qwen-nvfp4 convert Qwen-Rapid-AIO.safetensors --policy v3 --assume-unscaled --dry-run
  qwen-nvfp4 convert Qwen-Rapid-AIO.safetensors --policy v3 --assume-unscaled --calib calib.json -o Qwen-Rapid-AIO-nvfp4.safetensors --verify";

/// `convert`
#[derive(Args, Debug)]
#[command(after_help = CONVERT_EXAMPLES)]
pub struct Convert {
    /// The source: a file, a folder, an index of shards, or `tiny`
    #[arg(value_name = "INPUT")]
    pub input: String,
    /// The file to write; it appears when it is whole
    #[arg(short, long, value_name = "OUTPUT")]
    pub output: Option<PathBuf>,
    /// Which layers go where: v1 to v5, modelopt, sglang, all-nvfp4, fp8, or a JSON file of comfy-dit-quantizer
    #[arg(long, value_name = "POLICY")]
    pub policy: String,
    /// Activation ranges, which become `input_scale`
    #[arg(long, value_name = "FILE")]
    pub calib: Option<PathBuf>,
    /// Which of the calibration's statistics: max, p99.9 (any percentile), run-p99.9, mse, headroom
    #[arg(long, value_name = "NAME", default_value = "max", requires = "calib")]
    pub calib_stat: String,
    /// The calibration may be of other weights with the same layers
    #[arg(long, requires = "calib")]
    pub foreign_calib: bool,
    /// How the scale of a weight is found
    #[arg(long, value_name = "NAME", default_value = "mse")]
    pub method: MethodArg,
    /// Quantize FP8 to FP8 anew, as the original pipeline did, where such layers otherwise keep their bytes
    #[arg(long)]
    pub requantize_fp8: bool,
    /// Where the formats are written down: tensors beside the weights, the header, or both
    #[arg(long, value_name = "NAME", default_value = "comfy_quant")]
    pub marker: MarkerArg,
    /// How tensors are named
    #[arg(long, value_name = "NAME", default_value = "keep")]
    pub keys: KeysArg,
    /// The components to write
    #[arg(
        long,
        value_name = "A,B,..",
        value_delimiter = ',',
        default_value = "transformer,text_encoder,vae"
    )]
    pub components: Vec<ComponentArg>,
    /// FP8 weights without a scale are the weights themselves, as in Qwen-Rapid-AIO
    #[arg(long)]
    pub assume_unscaled: bool,
    /// Print what would be done, reading headers only
    #[arg(long)]
    pub dry_run: bool,
    /// Read the output again and prove every byte of it
    #[arg(long, conflicts_with = "dry_run")]
    pub verify: bool,
    /// Overwrite the output
    #[arg(long)]
    pub force: bool,
    /// Error figures of every quantized layer, as JSON
    #[arg(long, value_name = "FILE", conflicts_with = "dry_run")]
    pub report: Option<PathBuf>,
}

/// How scales are found.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum MethodArg {
    /// The smallest squared error among a few ratios
    Mse,
    /// From the largest number
    Amax,
    /// From the largest number, then 4 or 6 for each block
    FourSix,
}

impl From<MethodArg> for Method {
    fn from(arg: MethodArg) -> Self {
        match arg {
            MethodArg::Mse => Self::Mse,
            MethodArg::Amax => Self::Amax,
            MethodArg::FourSix => Self::FourSix,
        }
    }
}

/// Where formats are written down.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum MarkerArg {
    /// A tensor beside each weight
    #[value(name = "comfy_quant")]
    ComfyQuant,
    /// The header
    Metadata,
    /// Both
    Both,
}

impl From<MarkerArg> for Marker {
    fn from(arg: MarkerArg) -> Self {
        match arg {
            MarkerArg::ComfyQuant => Self::ComfyQuant,
            MarkerArg::Metadata => Self::Metadata,
            MarkerArg::Both => Self::Both,
        }
    }
}

/// How tensors are named.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum KeysArg {
    /// As in the source
    Keep,
    /// Without prefixes
    Diffusers,
    /// As in a ComfyUI all-in-one
    Comfy,
}

impl From<KeysArg> for Keys {
    fn from(arg: KeysArg) -> Self {
        match arg {
            KeysArg::Keep => Self::Keep,
            KeysArg::Diffusers => Self::Diffusers,
            KeysArg::Comfy => Self::Comfy,
        }
    }
}

/// A part of a model.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum ComponentArg {
    /// The MMDiT
    Transformer,
    /// Qwen2.5-VL
    #[value(name = "text_encoder")]
    TextEncoder,
    /// The VAE
    Vae,
}

impl From<ComponentArg> for Component {
    fn from(arg: ComponentArg) -> Self {
        match arg {
            ComponentArg::Transformer => Self::Transformer,
            ComponentArg::TextEncoder => Self::TextEncoder,
            ComponentArg::Vae => Self::Vae,
        }
    }
}

/// An adapter file and what it is multiplied with.
#[derive(Clone, Debug, PartialEq)]
pub struct LoraArg {
    /// The file.
    pub path: PathBuf,
    /// Its scale.
    pub scale: f32,
}

/// `FILE` or `FILE:SCALE`; a file whose own name ends like a scale is found first.
fn lora(text: &str) -> Result<LoraArg, String> {
    let whole = PathBuf::from(text);
    let split = text.rsplit_once(':').filter(|_| !whole.exists());
    let Some((path, word)) = split else {
        return Ok(LoraArg {
            path: whole,
            scale: 1.0,
        });
    };
    match word.parse::<f32>() {
        _ if path.is_empty() => Err("a LoRA is FILE or FILE:SCALE".to_owned()),
        Ok(scale) if scale.is_finite() => Ok(LoraArg {
            path: path.into(),
            scale,
        }),
        Ok(scale) => Err(format!("a scale of {scale}; give a finite number")),
        Err(_) if Path::new(path).is_file() => {
            Err(format!("the scale `{word}` of {path} is no number"))
        }
        // A colon in the name of a file that is missing.
        Err(_) => Ok(LoraArg {
            path: whole,
            scale: 1.0,
        }),
    }
}

pub(super) fn size(text: &str) -> Result<(usize, usize), String> {
    let parsed = text
        .split_once(['x', 'X'])
        .and_then(|(w, h)| Some((w.parse().ok()?, h.parse().ok()?)));
    parsed.ok_or_else(|| "a size is WIDTHxHEIGHT, as 1024x768".to_owned())
}

/// `--activations`.
#[derive(ValueEnum, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ActivationsArg {
    /// With the file's input_scale; without one NVFP4 by its amax, FP8 by 1
    #[default]
    Static,
    /// By their own amax
    Dynamic,
    /// In F32, weights widened
    None,
}

impl From<ActivationsArg> for Activations {
    fn from(arg: ActivationsArg) -> Self {
        match arg {
            ActivationsArg::Static => Self::Static,
            ActivationsArg::Dynamic => Self::Dynamic,
            ActivationsArg::None => Self::None,
        }
    }
}
