//! Stage by stage equal to diffusers and transformers in F32, on random pipelines of odd sizes.
//!
//! Fixtures and the script that made them: `fixtures/pipelines`. `cargo test --test parity -- --nocapture` prints
//! the largest difference of each stage. Pipelines made with `--random SEED` into folders below the folder
//! named by `QWEN_NVFP4_PARITY_DIR` are held to the same, and are read from the files that diffusers wrote:
//!
//!     for i in 1 2 3; do python tests/fixtures/pipelines/make_pipelines.py --random $i -o /tmp/random/$i; done
//!     QWEN_NVFP4_PARITY_DIR=/tmp/random cargo test --test parity further -- --nocapture
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;
#[path = "parity/recorder.rs"]
mod recorder;
#[path = "parity/worst.rs"]
mod worst;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::{Device, Tensor};
use common::weights::{Recipe, diffusers_folder, tokenizer_json, weight};
use qwen_nvfp4::checkpoint::{Checkpoint, ModelSource, SafetensorsFile};
use qwen_nvfp4::context::Cx;
use qwen_nvfp4::model::config::VaeConfig;
use qwen_nvfp4::model::text_encoder::tokenizer::Tokenizer;
use qwen_nvfp4::model::vae::{Decoder, Encoder};
use qwen_nvfp4::pipeline::image::Picture;
use qwen_nvfp4::pipeline::prompt::{PromptTokens, Template};
use qwen_nvfp4::pipeline::request::{Request, Settings};
use qwen_nvfp4::pipeline::{Engine, PipelineError, Progress, latents};
use recorder::Recorder;
use serde::Deserialize;
use worst::{Limits, Worst};

/// What is promised for any pipeline.
const PROMISED: Limits = Limits {
    stage: 1e-4,
    latents: 1e-3,
};
/// For the committed ones: a layer norm epsilon ten times too large moves velocities by 6e-5, float32 by 1e-5.
const TIGHT: Limits = Limits {
    stage: 3e-5,
    latents: 1e-4,
};
/// Share of pixels that may be off by more than 1/255.
const PIXELS: f64 = 1e-3;
/// A relative error of the contrast that the pixels must be able to show.
const SHOWN: f32 = 0.02;

#[derive(Deserialize)]
struct Run {
    prompts: Vec<String>,
    negative: Option<Vec<String>>,
    height: usize,
    width: usize,
    steps: usize,
    cfg: f64,
    token_ids: Vec<Vec<u32>>,
    #[serde(default)]
    negative_token_ids: Vec<Vec<u32>>,
}

/// Keeps the latents of each step, packed.
struct Steps(Vec<Tensor>);

impl Progress for Steps {
    fn stepped(&mut self, _: usize, x: &Tensor) -> Result<(), PipelineError> {
        self.0.push(x.clone());
        Ok(())
    }
}

struct Reference(Arc<SafetensorsFile>);

impl Reference {
    fn f32(&self, name: &str) -> Option<Vec<f32>> {
        Some(self.0.view(name)?.to_f32().unwrap())
    }

    fn u8(&self, name: &str) -> Vec<u8> {
        self.0
            .view(name)
            .unwrap_or_else(|| panic!("{name}"))
            .bytes()
            .to_vec()
    }
}

fn flat(t: &Tensor) -> Vec<f32> {
    t.flatten_all().unwrap().to_vec1().unwrap()
}

fn check_pipeline(fixture: &Path, limits: Limits) {
    let name = fixture.file_name().unwrap().to_string_lossy().into_owned();
    let reference = Reference(SafetensorsFile::open(&fixture.join("stages.safetensors")).unwrap());
    check_weights(fixture, &reference);
    let scratch = tempfile::tempdir().unwrap();
    let folder = match fixture.join("pipeline") {
        saved if saved.is_dir() => saved,
        _ => {
            let folder = scratch.path().join("pipeline");
            diffusers_folder(fixture, &folder);
            folder
        }
    };
    let source = ModelSource::Files {
        model: folder,
        text_encoder: None,
        vae: None,
    };
    let engine = Engine::load(&source).unwrap();
    let runs: Vec<Run> =
        serde_json::from_slice(&fs::read(fixture.join("runs.json")).unwrap()).unwrap();
    let mut worst = Worst::new(limits);
    for (i, run) in runs.iter().enumerate() {
        check_run(
            &engine,
            run,
            &format!("run{i}"),
            &reference,
            scratch.path(),
            &mut worst,
        );
    }
    check_vae(&source, &reference, &mut worst);
    worst.report(&name);
}

/// The formula gives what Python computed.
fn check_weights(fixture: &Path, reference: &Reference) {
    let recipe = Recipe::read(fixture);
    let samples: Vec<&str> = reference
        .0
        .names()
        .filter(|n| n.starts_with("weights."))
        .collect();
    assert!(samples.len() > 10);
    for sample in samples {
        let (component, name) = sample["weights.".len()..].split_once('.').unwrap();
        let expected = reference.f32(sample).unwrap();
        let shape = &recipe.components[component][name];
        let got = weight(component, name, shape, recipe.seed);
        assert_eq!(got[..expected.len()], expected, "{sample}");
    }
}

fn check_run(
    engine: &Engine,
    run: &Run,
    key: &str,
    reference: &Reference,
    scratch: &Path,
    worst: &mut Worst,
) {
    let settings = Settings {
        width: run.width,
        height: run.height,
        steps: run.steps,
        cfg: run.cfg,
        ..engine.defaults()
    };
    assert_eq!(settings.sampler.name(), "euler");
    check_tokens(run);
    let schedule = engine.schedule(&settings).unwrap();
    worst.compare(
        "sigmas",
        1e-6,
        &schedule.sigmas,
        &reference.f32(&format!("{key}.sigmas")).unwrap(),
    );

    let shape = engine.latent_shape(&settings);
    let noise = reference.f32(&format!("{key}.noise")).unwrap();
    let size = (run.prompts.len(), shape.channels, shape.height, shape.width);
    let noise_file = scratch.join("noise.safetensors");
    latents::save(
        &Tensor::from_vec(noise, size, &Device::Cpu).unwrap(),
        &noise_file,
    )
    .unwrap();

    let recorder = Arc::new(Recorder::default());
    let cx = Cx::default().observed_by(recorder.clone());
    let mut steps = Steps(Vec::new());
    let request = Request {
        prompts: run.prompts.clone(),
        negatives: run.negative.clone(),
        seeds: vec![0; run.prompts.len()],
        settings,
        latents: Some(noise_file),
    };
    let generated = engine.generate(&request, &cx, &mut steps).unwrap();

    check_stages(&recorder.stages(), key, run.cfg != 1.0, reference, worst);
    for (i, x) in steps.0.iter().enumerate() {
        let expected = reference.f32(&format!("{key}.step{i}.latents")).unwrap();
        worst.compare(
            "latents, each step",
            worst.limits.latents,
            &flat(&shape.pack(x).unwrap()),
            &expected,
        );
    }
    assert_eq!(steps.0.len(), run.steps);
    let expected = reference.f32(&format!("{key}.latents")).unwrap();
    worst.compare(
        "latents, final",
        worst.limits.latents,
        &flat(&generated.latents),
        &expected,
    );
    check_pixels(
        &generated.pictures,
        &reference.u8(&format!("{key}.pixels")),
        worst,
    );
}

fn check_tokens(run: &Run) {
    let json = fs::read(tokenizer_json()).unwrap();
    let tokenizer = Tokenizer::from_json(&json, "tiny").unwrap();
    let negatives = run.negative.iter().flatten().zip(&run.negative_token_ids);
    for (prompt, ids) in run.prompts.iter().zip(&run.token_ids).chain(negatives) {
        let tokens = PromptTokens::new(&tokenizer, Template::TextToImage, prompt).unwrap();
        assert_eq!((&tokens.ids, tokens.drop), (ids, 34), "{prompt:?}");
    }
}

/// Every inner stage of the reference, none left out.
fn check_stages(
    recorded: &BTreeMap<String, Tensor>,
    key: &str,
    guided: bool,
    reference: &Reference,
    worst: &mut Worst,
) {
    let stages: Vec<&str> = reference
        .0
        .names()
        .filter_map(|name| name.strip_prefix(key)?.strip_prefix('.'))
        .collect();
    let number = |name: &str, prefix: &str| -> Option<usize> {
        name.strip_prefix(prefix)?.split('.').next()?.parse().ok()
    };
    let last_block = stages
        .iter()
        .filter_map(|s| {
            number(
                s.split_once("uncond.").or(s.split_once("cond."))?.1,
                "transformer_blocks.",
            )
        })
        .max();
    let last_hidden = stages
        .iter()
        .filter_map(|s| number(s, "prompt_hidden."))
        .max();
    let mut compared = BTreeSet::new();
    for stage in stages {
        let kind = match stage {
            s if s.ends_with("temb") => "timestep embedding",
            s if s.ends_with("embeds") => "prompt embeddings",
            s if s.ends_with(".img") => "blocks, image",
            // The text half of the last block feeds nothing: it is not computed.
            s if s.ends_with(".txt") => {
                match number(s.split_once("cond.").unwrap().1, "transformer_blocks.") {
                    block if block == last_block => continue,
                    _ => "blocks, text",
                }
            }
            // Number 0 is the embedding, the last one is normed: it is the prompt's embeddings.
            s if s.contains("hidden") => match number(s, "prompt_hidden.") {
                layer if layer == Some(0) || layer == last_hidden => continue,
                _ => "text encoder layers",
            },
            s if s.ends_with("velocity") || s.ends_with("combined") => "velocity",
            _ => continue,
        };
        let got = recorded
            .get(stage)
            .unwrap_or_else(|| panic!("{key}: the engine shows no `{stage}`"));
        let expected = reference.f32(&format!("{key}.{stage}")).unwrap();
        worst.compare(kind, worst.limits.stage, &flat(got), &expected);
        compared.insert(kind);
    }
    assert!(compared.contains("velocity") && compared.contains("prompt embeddings"));
    assert!(!guided || recorded.keys().any(|k| k.ends_with("uncond.velocity")));
}

fn check_pixels(pictures: &[Picture], expected: &[u8], worst: &mut Worst) {
    let pixels = pictures[0].width * pictures[0].height;
    assert_eq!(expected.len(), pictures.len() * 3 * pixels);
    let got: Vec<u8> = pictures
        .iter()
        .flat_map(|picture| (0..3 * pixels).map(|i| picture.rgb[i % pixels * 3 + i / pixels]))
        .collect();
    worst.note("pixels off by more than 1", PIXELS, off(&got, expected));
    let stretched: Vec<u8> = expected
        .iter()
        .map(|v| (127.5 + (f32::from(*v) - 127.5) * (1.0 + SHOWN)).round() as u8)
        .collect();
    let shown = off(&stretched, expected);
    assert!(
        shown > PIXELS,
        "the picture is too flat to show anything: {shown}"
    );
}

/// The share of bytes that differ by more than 1.
fn off(got: &[u8], expected: &[u8]) -> f64 {
    let off = got
        .iter()
        .zip(expected)
        .filter(|(a, b)| a.abs_diff(**b) > 1);
    off.count() as f64 / expected.len() as f64
}

fn check_vae(source: &ModelSource, reference: &Reference, worst: &mut Worst) {
    let checkpoint = Checkpoint::open(source, &Device::Cpu).unwrap();
    let config = VaeConfig::detect(&checkpoint.vae, checkpoint.configs.vae.as_ref()).unwrap();
    let view = reference.0.view("vae.picture").unwrap();
    let shape = [&[1][..], view.shape()].concat();
    let picture: Vec<f32> = view
        .bytes()
        .iter()
        .map(|v| f32::from(*v) / 127.5 - 1.0)
        .collect();
    let picture = Tensor::from_vec(picture, shape, &Device::Cpu).unwrap();
    let cx = Cx::default();
    let mode = Encoder::load(&checkpoint.vae, &config)
        .unwrap()
        .forward(&picture, &cx)
        .unwrap();
    worst.compare(
        "VAE encoder",
        worst.limits.stage,
        &flat(&mode),
        &reference.f32("vae.mode").unwrap(),
    );
    let view = reference.0.view("run0.latents").unwrap();
    let z = Tensor::from_vec(view.to_f32().unwrap(), view.shape(), &Device::Cpu).unwrap();
    let z = latents::denormalise(
        &z.narrow(0, 0, 1).unwrap(),
        &config.latents_mean,
        &config.latents_std,
    )
    .unwrap();
    let decoded = Decoder::load(&checkpoint.vae, &config)
        .unwrap()
        .forward(&z, &cx)
        .unwrap();
    worst.compare(
        "VAE decoder",
        worst.limits.stage,
        &flat(&decoded),
        &reference.f32("vae.decoded").unwrap(),
    );
}

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures/pipelines")
        .join(name)
}

/// As deep as the full model.
#[test]
fn sixty_blocks() {
    check_pipeline(&fixture("deep"), TIGHT);
}

/// Query heads that share key heads; prompts of very different lengths.
#[test]
fn grouped_query_heads() {
    check_pipeline(&fixture("grouped"), TIGHT);
}

/// Wide, and tall, with odd numbers of rows.
#[test]
fn oblong_pictures() {
    check_pipeline(&fixture("oblong"), TIGHT);
}

/// Pipelines that are not committed.
#[test]
fn further_pipelines() {
    let Some(folder) = std::env::var_os("QWEN_NVFP4_PARITY_DIR") else {
        return;
    };
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.join("weights.json").is_file() {
            check_pipeline(&path, PROMISED);
        }
    }
}
