//! Stage by stage equal to diffusers and transformers in F32, on random pipelines of odd sizes.
//!
//! Fixtures and the script that made them: `fixtures/pipelines`. `cargo test --test parity -- --nocapture` prints
//! the largest difference of each stage. Pipelines made with `--random SEED` into folders below the folder
//! named by `QWEN_NVFP4_PARITY_DIR` are held to the same.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use candle_core::{Device, Tensor};
use common::weights::{Recipe, diffusers_folder};
use qwen_nvfp4::checkpoint::{Checkpoint, ModelSource, SafetensorsFile};
use qwen_nvfp4::context::{Cx, Observer};
use qwen_nvfp4::model::config::VaeConfig;
use qwen_nvfp4::model::vae::{Decoder, Encoder};
use qwen_nvfp4::pipeline::request::{Request, Settings};
use qwen_nvfp4::pipeline::{Engine, PipelineError, Progress, latents, prompt};
use serde::Deserialize;

/// Largest difference over the reference's root mean square: embeddings, blocks, velocities.
const STAGE: f64 = 1e-4;
/// The same after all steps.
const LATENTS: f64 = 1e-3;
/// Share of pixels that may be off by more than 1/255.
const PIXELS: f64 = 1e-3;

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

/// Names what flows by as the fixture does.
#[derive(Default)]
struct Recorder(Mutex<Recorded>);

#[derive(Default)]
struct Recorded {
    stages: BTreeMap<String, Tensor>,
    pending: Vec<(String, Tensor)>,
    step: usize,
}

impl Observer for Recorder {
    fn stage(&self, name: &str, value: &Tensor) {
        let r = &mut *self.0.lock().unwrap();
        let (step, value) = (r.step, value.clone());
        match name {
            "velocity.cond" | "velocity.uncond" => {
                let call = format!("step{step}.{}", name.split_once('.').unwrap().1);
                for (name, value) in r.pending.drain(..) {
                    r.stages.insert(format!("{call}.{name}"), value);
                }
                r.stages.insert(format!("{call}.velocity"), value);
            }
            "velocity" => {
                r.stages.insert(format!("step{step}.combined"), value);
                r.step += 1;
            }
            "prompt_embeds" => drop(r.stages.insert(name.to_owned(), value)),
            "negative_prompt_embeds" => drop(r.stages.insert("negative_embeds".to_owned(), value)),
            "temb" => r.pending.push((name.to_owned(), value)),
            _ if name.starts_with("transformer_blocks.") => {
                r.pending.push((name.to_owned(), value))
            }
            _ => {
                // The first prompt's hidden states: number 0 is the embedding, so layer n gives number n + 1.
                if let Some(layer) = name.strip_prefix("model.layers.") {
                    let key = format!("prompt_hidden.{}", layer.parse::<usize>().unwrap() + 1);
                    r.stages.entry(key).or_insert(value);
                }
            }
        }
    }
}

/// Keeps the latents of each step, packed.
struct Steps(Vec<Tensor>);

impl Progress for Steps {
    fn stepped(&mut self, _: usize, x: &Tensor) -> Result<(), PipelineError> {
        self.0.push(x.clone());
        Ok(())
    }
}

/// The largest difference per kind of stage.
#[derive(Default)]
struct Worst(BTreeMap<String, (f64, f64)>);

impl Worst {
    fn compare(&mut self, kind: &str, limit: f64, got: &[f32], expected: &[f32]) {
        assert_eq!(got.len(), expected.len(), "{kind}");
        let rms = (expected.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>()
            / expected.len() as f64)
            .sqrt();
        let largest = got
            .iter()
            .zip(expected)
            .map(|(a, b)| f64::from((a - b).abs()))
            .fold(0.0, f64::max);
        let entry = self.0.entry(kind.to_owned()).or_insert((0.0, limit));
        // A NaN must not pass as small.
        let ratio = largest / rms;
        entry.0 = if ratio.is_nan() {
            f64::INFINITY
        } else {
            entry.0.max(ratio)
        };
        assert!(got.iter().all(|v| v.is_finite()), "{kind} is not finite");
    }

    fn report(&self, pipeline: &str) {
        for (kind, (worst, limit)) in &self.0 {
            println!("{pipeline:10} {kind:28} {worst:.1e}  (limit {limit:.0e})");
        }
        let failed: Vec<_> = self
            .0
            .iter()
            .filter(|(_, (worst, limit))| worst > limit)
            .collect();
        assert!(failed.is_empty(), "{pipeline}: {failed:?}");
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

fn check_pipeline(fixture: &Path) {
    let name = fixture.file_name().unwrap().to_string_lossy().into_owned();
    let reference = Reference(SafetensorsFile::open(&fixture.join("stages.safetensors")).unwrap());
    check_weights(fixture, &reference);
    let scratch = tempfile::tempdir().unwrap();
    let folder = scratch.path().join("pipeline");
    diffusers_folder(fixture, &folder);
    let source = ModelSource::Files {
        model: folder,
        text_encoder: None,
        vae: None,
    };
    let engine = Engine::load(&source).unwrap();
    let runs: Vec<Run> =
        serde_json::from_slice(&fs::read(fixture.join("runs.json")).unwrap()).unwrap();
    let mut worst = Worst::default();
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
        assert_eq!(
            recipe.values(component, name)[..expected.len()],
            expected,
            "{sample}"
        );
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
    // Token ids of every prompt.
    let tokenizer = std::fs::read(
        Path::new(env!("CARGO_MANIFEST_DIR")).join("models/tiny/tokenizer/tokenizer.json"),
    );
    let tokenizer = qwen_nvfp4::model::text_encoder::tokenizer::Tokenizer::from_json(
        &tokenizer.unwrap(),
        "tiny",
    )
    .unwrap();
    let negatives = run.negative.iter().flatten().zip(&run.negative_token_ids);
    for (prompt, ids) in run.prompts.iter().zip(&run.token_ids).chain(negatives) {
        let tokens =
            prompt::PromptTokens::new(&tokenizer, prompt::Template::TextToImage, prompt).unwrap();
        assert_eq!((&tokens.ids, tokens.drop), (ids, 34), "{prompt:?}");
    }
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

    let recorded = recorder.0.lock().unwrap();
    let mut seen = BTreeSet::new();
    for (stage, value) in &recorded.stages {
        let Some(expected) = reference.f32(&format!("{key}.{stage}")) else {
            continue;
        };
        let kind = match stage {
            s if s.ends_with("temb") => "timestep embedding",
            s if s.ends_with("embeds") => "prompt embeddings",
            s if s.contains("hidden") => "text encoder layers",
            s if s.ends_with(".img") => "blocks, image",
            s if s.ends_with(".txt") => "blocks, text",
            _ => "velocity",
        };
        // The last hidden state is normed in the fixture: it is compared as the prompt's embeddings.
        let layers = reference
            .0
            .names()
            .filter(|n| n.starts_with(&format!("{key}.prompt_hidden.")))
            .count();
        if *stage == format!("prompt_hidden.{}", layers.wrapping_sub(1)) {
            continue;
        }
        worst.compare(kind, STAGE, &flat(value), &expected);
        seen.insert(kind);
    }
    let blocks = recorded
        .stages
        .keys()
        .filter(|k| k.ends_with(".img"))
        .count();
    assert!(blocks > 0 && seen.contains("velocity") && seen.contains("prompt embeddings"));
    for (i, x) in steps.0.iter().enumerate() {
        let expected = reference.f32(&format!("{key}.step{i}.latents")).unwrap();
        worst.compare(
            "latents, each step",
            LATENTS,
            &flat(&shape.pack(x).unwrap()),
            &expected,
        );
    }
    assert_eq!(steps.0.len(), run.steps);
    let expected = reference.f32(&format!("{key}.latents")).unwrap();
    worst.compare(
        "latents, final",
        LATENTS,
        &flat(&generated.latents),
        &expected,
    );
    check_pixels(
        &generated.pictures,
        &reference.u8(&format!("{key}.pixels")),
        worst,
    );
}

fn check_pixels(
    pictures: &[qwen_nvfp4::pipeline::image::Picture],
    expected: &[u8],
    worst: &mut Worst,
) {
    let pixels = pictures[0].width * pictures[0].height;
    assert_eq!(expected.len(), pictures.len() * 3 * pixels);
    let mut off = 0;
    for (picture, planes) in pictures.iter().zip(expected.chunks(3 * pixels)) {
        for (p, rgb) in picture.rgb.chunks(3).enumerate() {
            off += (0..3)
                .filter(|c| rgb[*c].abs_diff(planes[c * pixels + p]) > 1)
                .count();
        }
    }
    let entry = worst
        .0
        .entry("pixels off by more than 1".to_owned())
        .or_insert((0.0, PIXELS));
    entry.0 = entry.0.max(off as f64 / expected.len() as f64);
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
        STAGE,
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
        STAGE,
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
    check_pipeline(&fixture("deep"));
}

/// Query heads that share key heads; prompts of very different lengths.
#[test]
fn grouped_query_heads() {
    check_pipeline(&fixture("grouped"));
}

/// Wide, and tall, with odd numbers of rows.
#[test]
fn oblong_pictures() {
    check_pipeline(&fixture("oblong"));
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
            check_pipeline(&path);
        }
    }
}
