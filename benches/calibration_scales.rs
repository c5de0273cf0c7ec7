//! Which static activation scale is right? The tiny model by policy v3, its `input_scale`s made from each statistic of a
//! calibration, and from 1/64 to 64 times the largest activation, as the table of `calibs/README.md`:
//!
//!     cargo run --release --example calibration_scales -- calibs/tiny-p999.json
//!
//! SQNR is that of a layer's output, and the velocity error that of a step, teacher-forced: both see what the FP8 baseline saw
//! (weights FP8, activations F32). The picture is the whole generation's: held-out prompts, PSNR against the baseline's
//! picture of the same seed.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "../tests/arithmetic_quality/measure.rs"]
#[allow(dead_code)]
mod measure;

use std::path::{Path, PathBuf};

use measure::{Baseline, Quality, mean};
use qwen_nvfp4::bench::scores::scores;
use qwen_nvfp4::checkpoint::{Activations, Checkpoint, ModelSource};
use qwen_nvfp4::context::{Cancel, Cx};
use qwen_nvfp4::pipeline::image::Picture;
use qwen_nvfp4::pipeline::request::Request;
use qwen_nvfp4::pipeline::{Engine, Silent};
use qwen_nvfp4::quantize::calibration::statistic::LISTED;
use qwen_nvfp4::quantize::calibration::{Bound, Calibration, CalibrationFile, Range};
use qwen_nvfp4::quantize::plan::Options;
use qwen_nvfp4::quantize::{Monitor, Plan, Policy, Source, execute};

const PROMPTS: &str = include_str!("../models/tiny/held_out_prompts.txt");
/// Pictures for each row.
const PICTURES: usize = 48;

fn main() {
    let path = std::env::args()
        .nth(1)
        .expect("a calibration: calibs/tiny-p999.json");
    let text = std::fs::read_to_string(&path).unwrap();
    let file = CalibrationFile::parse(&path, &text).unwrap();
    let table = Table::new();
    println!(
        "| input_scale from | NVFP4 layers, SQNR dB | least | FP8 layers, SQNR dB | least | velocity error | picture, PSNR dB | ± |"
    );
    println!("|---|---|---|---|---|---|---|---|");
    table.row("nothing: NVFP4 dynamic, FP8 1.0", None, Activations::Static);
    table.row("nothing: both dynamic", None, Activations::Dynamic);
    for statistic in LISTED {
        let name = statistic.to_string();
        let calibration = Calibration::of_file(&path, &file, &name).unwrap();
        table.row(&name, Some(&calibration), Activations::Static);
    }
    let max = Calibration::of_file(&path, &file, "max").unwrap();
    for (word, ratio) in [
        ("1/64", 1.0 / 64.0),
        ("1/16", 1.0 / 16.0),
        ("1/8", 0.125),
        ("1/4", 0.25),
        ("1/2", 0.5),
        ("2", 2.0),
        ("4", 4.0),
        ("8", 8.0),
        ("20", 20.0),
        ("64", 64.0),
    ] {
        table.row(
            &format!("{word} x max"),
            Some(&times(&max, ratio)),
            Activations::Static,
        );
    }
}

/// Every range that many times as large.
fn times(calibration: &Calibration, ratio: f32) -> Calibration {
    let scaled = |bound: Bound| Bound {
        amax: bound.amax * ratio,
        harm: None,
    };
    let range = |(layer, range): (&String, &Range)| {
        let range = Range {
            nvfp4: scaled(range.nvfp4),
            fp8: scaled(range.fp8),
        };
        (layer.clone(), range)
    };
    Calibration {
        ranges: calibration.ranges.iter().map(range).collect(),
        ..calibration.clone()
    }
}

/// The baseline, and the pictures that it draws.
struct Table {
    baseline: Baseline,
    pictures: Vec<Picture>,
    dir: tempfile::TempDir,
}

impl Table {
    fn new() -> Self {
        Self {
            baseline: Baseline::new(),
            pictures: pictures(&measure::tiny(), Activations::Static),
            dir: tempfile::tempdir().unwrap(),
        }
    }

    fn row(&self, name: &str, calibration: Option<&Calibration>, activations: Activations) {
        let path = self.convert(calibration);
        let quality = Quality::of(name, &path, activations, &self.baseline);
        let of = |layers: &[f64]| {
            let least = layers.iter().copied().fold(f64::INFINITY, f64::min);
            format!("{:.1} | {least:.1}", mean(layers.iter().copied()))
        };
        let drawn = pictures(&path, activations);
        let psnr: Vec<f64> = self
            .pictures
            .iter()
            .zip(&drawn)
            .map(|(a, b)| scores(a, b, None)["psnr_db"])
            .collect();
        let middle = mean(psnr.iter().copied());
        let spread = mean(psnr.iter().map(|p| (p - middle).powi(2))).sqrt();
        println!(
            "| {name} | {} | {} | {:.4} | {middle:.2} | {:.2} |",
            of(&quality.nvfp4),
            of(&quality.fp8),
            quality.error(),
            spread / (psnr.len() as f64).sqrt(),
        );
    }

    fn convert(&self, calibration: Option<&Calibration>) -> PathBuf {
        let source = Source::open(&measure::tiny()).unwrap();
        let policy = Policy::built_in("v3").unwrap().unwrap();
        let options = Options {
            assume_unscaled: true,
            ..Options::default()
        };
        let plan = Plan::new(&source, &policy, calibration, &options).unwrap();
        let monitor = Monitor {
            cancel: Cancel::default(),
            done: &|_| {},
        };
        let path = self.dir.path().join("v3.safetensors");
        execute(&plan, &source, (&path, true), &monitor).unwrap();
        path
    }
}

/// What a model draws of the first held-out prompts.
fn pictures(model: &Path, activations: Activations) -> Vec<Picture> {
    let source = ModelSource::Files {
        model: model.to_owned(),
        text_encoder: None,
        vae: None,
    };
    let mut checkpoint = Checkpoint::open(&source, &candle_core::Device::Cpu).unwrap();
    checkpoint.quantize_activations(activations);
    let engine = Engine::of(checkpoint).unwrap();
    let prompts = PROMPTS.lines().take(PICTURES).zip(0..);
    let draw = |(prompt, seed): (&str, u64)| {
        let request = Request {
            prompts: vec![prompt.to_owned()],
            negatives: None,
            seeds: vec![seed],
            settings: engine.defaults(),
            latents: None,
        };
        let made = engine
            .generate(&request, &Cx::default(), &mut Silent)
            .unwrap();
        made.pictures[0].clone()
    };
    prompts.map(draw).collect()
}
