//! `results.json`: everything that a benchmark found out, from which the reports are made and nothing else.
//!
//! Timings are the machine's; all other numbers are the same on every run, whatever the number of threads.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The schema that this program writes and reads.
pub const VERSION: u32 = 1;

/// A benchmark.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Results {
    /// [`VERSION`].
    pub version: u32,
    /// The program's version.
    pub engine: String,
    /// The row that all others are compared with.
    pub baseline: String,
    /// File name of the model.
    pub model: String,
    /// `Checkpoint::fingerprint` of it.
    pub fingerprint: String,
    /// The command that makes this file.
    pub command: String,
    /// What was asked of every picture: size, steps, sampler, ...
    pub settings: BTreeMap<String, String>,
    /// Where it ran: processor, threads, memory, system. Says nothing of quality.
    pub environment: BTreeMap<String, String>,
    /// Prompts and seeds, in order; picture i of each row is of prompt i.
    pub prompts: Vec<Prompt>,
    /// Rows in the order in which they are shown, the baseline first.
    pub order: Vec<String>,
    /// The rows by name.
    pub variants: BTreeMap<String, Variant>,
    /// Sentences about which differences are larger than noise.
    pub findings: Vec<String>,
}

/// What picture i shows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Prompt {
    /// The text.
    pub prompt: String,
    /// The seed of its noise.
    pub seed: u64,
}

/// A row.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Variant {
    /// Why it failed, if it did; then only what was done before is filled in.
    pub error: Option<String>,
    /// The policy's file or name; nothing for the baseline and the F32 reference.
    pub policy: Option<String>,
    /// The calibration and its statistic.
    pub calibration: Option<String>,
    /// How activations are quantized: `static`, `dynamic`, `none`.
    pub activations: String,
    /// The command that makes its checkpoint.
    pub command: Option<String>,
    /// Bytes of its checkpoint.
    pub file_bytes: u64,
    /// Its layers by format.
    pub layers: Layers,
    /// Kernels that ran, by format.
    pub kernels: BTreeMap<String, String>,
    /// Pictures that were made.
    pub images: usize,
    /// Seconds of all pictures.
    pub total_s: f64,
    /// Mean seconds of a picture.
    pub avg_s: f64,
    /// Median seconds of a picture.
    pub median_s: f64,
    /// 95th percentile.
    pub p95_s: f64,
    /// Seconds of a whole process that makes the first picture: start, loading, picture.
    pub cold_start_s: Option<f64>,
    /// The most memory of that process, in bytes.
    pub peak_rss_bytes: Option<u64>,
    /// Baseline's mean seconds over this row's, picture by picture.
    pub speedup: Option<f64>,
    /// The 95 % interval of `speedup` by bootstrap over prompts.
    pub speedup_interval: Option<[f64; 2]>,
    /// Mean seconds of a picture by part: `linear nvfp4`, `linear float8_e4m3fn`, `linear f32`, `attention`, `norm and modulation`,
    /// `text encoder`, `decode`, `other`.
    pub parts_s: BTreeMap<String, f64>,
    /// How far its pictures and its arithmetic are off the baseline's.
    pub quality: Quality,
    /// Picture by picture, in the order of the prompts.
    pub pictures: Vec<Picture>,
}

/// Layers by format.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layers {
    /// In NVFP4.
    pub nvfp4: usize,
    /// In FP8 with FP8 activations.
    pub float8_e4m3fn: usize,
}

/// Means over pictures, against the baseline; nothing for the baseline itself where it would say nothing.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Quality {
    /// Peak signal-to-noise ratio; equal pictures count as 100.
    pub psnr_db: Option<f64>,
    /// Structural similarity.
    pub ssim: Option<f64>,
    /// At several scales.
    pub ms_ssim: Option<f64>,
    /// SSIMULACRA 2: 100 is equal, 90 hard to tell apart, 50 worse than medium quality.
    pub ssimulacra2: Option<f64>,
    /// LPIPS, if the user had its weights: 0 is equal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lpips: Option<f64>,
    /// High-frequency energy over the baseline's.
    pub detail_ratio: Option<f64>,
    /// |v - v_baseline| / |v_baseline|, teacher-forced, mean over steps and prompts.
    pub velocity_rel_err: Option<f64>,
    /// The same by step.
    pub velocity_by_step: Vec<f64>,
    /// Output SQNR in dB against the baseline's layer on the same input, by layer type (`attn.to_q`) and third of the depth.
    pub layer_sqnr_db: BTreeMap<String, [Option<f64>; 3]>,
    /// The share of pictures that show all that the prompt says; the tiny model's only.
    pub prompt_accuracy: Option<f64>,
    /// By name of a figure: median and the 95 % interval of the mean by bootstrap over prompts.
    pub spread: BTreeMap<String, Spread>,
    /// The same figures against pictures of the F32 model, where there is one.
    pub against_f32: BTreeMap<String, f64>,
}

/// How a figure is distributed over prompts.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Spread {
    /// The middle one.
    pub median: f64,
    /// Interval of the mean.
    pub low: f64,
    /// Interval of the mean.
    pub high: f64,
}

/// One picture of a row.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Picture {
    /// Its file below the folder of `results.json`: `images/v3/007.png`.
    pub file: String,
    /// SHA-256 of its pixels.
    pub sha256: String,
    /// Seconds from prompt to pixels.
    pub seconds: f64,
    /// Against the baseline's: `psnr_db`, `ssim`, `ms_ssim`, `ssimulacra2`, `detail_ratio`, `lpips`.
    pub scores: BTreeMap<String, f64>,
    /// Whether it shows all that the prompt says.
    pub right: Option<bool>,
}
