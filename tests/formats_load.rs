//! One pipeline in every layout and storage that checkpoints come in draws the same, bit for bit.
//!
//! Its numbers are coarse enough for E4M3 and its scales powers of two, so no storage may change anything.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::path::{Path, PathBuf};

use candle_core::Device;
use common::layouts::{Pipeline, Storage};
use qwen_nvfp4::checkpoint::{Activations, Checkpoint, ModelSource};
use qwen_nvfp4::context::Cx;
use qwen_nvfp4::pipeline::request::{Request, Settings};
use qwen_nvfp4::pipeline::sampler::Sampler;
use qwen_nvfp4::pipeline::{Engine, Silent};
use safetensors::Dtype;

/// Final latents and pixels.
type Drawn = (Vec<f32>, Vec<Vec<u8>>);

/// Two pictures under guidance, whatever the checkpoint's defaults are.
fn draw(source: &ModelSource) -> Drawn {
    let mut checkpoint = Checkpoint::open(source, &Device::Cpu).unwrap();
    // The same numbers in other formats; what a record makes of activations is another test's matter.
    checkpoint.quantize_activations(Activations::None);
    let engine = Engine::of(checkpoint).unwrap();
    let settings = Settings {
        width: 48,
        height: 32,
        steps: 2,
        cfg: 3.0,
        negative: " ".to_owned(),
        sampler: Sampler::Euler,
        schedule: qwen_nvfp4::pipeline::schedule::ScheduleKind::Flow,
        template: qwen_nvfp4::pipeline::prompt::Template::TextToImage,
        ..engine.defaults()
    };
    let request = Request {
        prompts: vec!["a red star".to_owned(), "dog".to_owned()],
        negatives: None,
        seeds: vec![5, 6],
        settings,
        latents: None,
    };
    let made = engine
        .generate(&request, &Cx::default(), &mut Silent)
        .unwrap();
    let latents = made.latents.flatten_all().unwrap().to_vec1().unwrap();
    (latents, made.pictures.into_iter().map(|p| p.rgb).collect())
}

fn whole(model: PathBuf) -> ModelSource {
    ModelSource::Files {
        model,
        text_encoder: None,
        vae: None,
    }
}

fn parts([model, text_encoder, vae]: [PathBuf; 3]) -> ModelSource {
    ModelSource::Files {
        model,
        text_encoder: Some(text_encoder),
        vae: Some(vae),
    }
}

/// Draws from every layout of one fixture's pipeline; the first is what the others must equal.
fn check(fixture: &str) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/pipelines");
    let pipeline = Pipeline::of(&root.join(fixture));
    let scratch = tempfile::tempdir().unwrap();
    let at = |name: &str| scratch.path().join(name);

    pipeline.diffusers(&at("f32"), Dtype::F32, 1);
    let expected = draw(&whole(at("f32")));
    let (latents, pictures) = &expected;
    assert!(latents.iter().all(|v| v.is_finite()));
    assert!(
        pictures.iter().all(|p| p.iter().any(|v| *v != p[0])) && pictures[0] != pictures[1],
        "blank pictures would all be equal"
    );

    for (name, dtype, shards) in [
        ("f32 in shards", Dtype::F32, 3),
        ("bf16", Dtype::BF16, 1),
        ("f16 in shards", Dtype::F16, 2),
    ] {
        pipeline.diffusers(&at(name), dtype, shards);
        assert!(draw(&whole(at(name))) == expected, "{fixture}: {name}");
    }
    for (name, storage) in [
        ("aio-bf16.safetensors", Storage::Plain(Dtype::BF16)),
        ("aio-fp8.safetensors", Storage::Plain(Dtype::F8_E4M3)),
        ("aio-recorded.safetensors", Storage::Recorded),
    ] {
        pipeline.all_in_one(&at(name), storage);
        assert!(draw(&whole(at(name))) == expected, "{fixture}: {name}");
    }
    let bf16 = Storage::Plain(Dtype::BF16);
    let fp8 = Storage::Plain(Dtype::F8_E4M3);
    for (name, transformer, text_encoder) in [
        ("separate-bf16", bf16, bf16),
        ("separate-fp8", fp8, Storage::Scaled),
        ("separate-recorded", Storage::Recorded, Storage::Recorded),
    ] {
        let files = pipeline.separate(&at(name), transformer, text_encoder);
        assert!(draw(&parts(files)) == expected, "{fixture}: {name}");
    }
}

#[test]
fn grouped_query_heads() {
    check("grouped");
}

/// A VAE with one residual block per stage: Wan's flat decoder indices fall elsewhere.
#[test]
fn other_vae_stages() {
    check("oblong");
}
