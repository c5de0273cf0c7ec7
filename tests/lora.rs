//! Adapters beside the weight against the same adapters merged into it, in every spelling, and against what PEFT,
//! diffusers and ComfyUI make of their own files.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;
#[path = "lora/reference.rs"]
mod reference;

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use qwen_nvfp4::checkpoint::{Checkpoint, ModelSource};
use qwen_nvfp4::context::Cx;
use qwen_nvfp4::numerics::widen::E4M3_TO_F32;
use qwen_nvfp4::pipeline::request::{Request, Settings};
use qwen_nvfp4::pipeline::{Engine, Silent};
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};
use tempfile::TempDir;

fn models() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("models/tiny")
}

fn open(model: &Path) -> Checkpoint {
    let source = ModelSource::Files {
        model: model.to_owned(),
        text_encoder: None,
        vae: None,
    };
    Checkpoint::open(&source, &Device::Cpu).unwrap()
}

fn base() -> PathBuf {
    models().join("qwen-tiny-base-aio-fp8.safetensors")
}

fn palette() -> PathBuf {
    models().join("qwen-tiny-palette-lora.safetensors")
}

/// Final latents of four steps.
fn latents(checkpoint: Checkpoint) -> Vec<f32> {
    let engine = Engine::of(checkpoint).unwrap();
    let request = Request {
        prompts: vec![
            "a large red star above a small blue circle on a plain yellow background".to_owned(),
        ],
        negatives: None,
        seeds: vec![3],
        settings: Settings {
            steps: 4,
            ..engine.defaults()
        },
        latents: None,
    };
    let generated = engine
        .generate(&request, &Cx::default(), &mut Silent)
        .unwrap();
    generated.latents.flatten_all().unwrap().to_vec1().unwrap()
}

fn adapted(lora: &Path, scale: f32) -> Vec<f32> {
    let mut checkpoint = open(&base());
    checkpoint.adapt(lora, scale).unwrap();
    latents(checkpoint)
}

/// Largest difference over the root mean square of `b`.
fn difference(a: &[f32], b: &[f32]) -> f32 {
    let rms = (b.iter().map(|v| v * v).sum::<f32>() / b.len() as f32).sqrt();
    let largest = a
        .iter()
        .zip(b)
        .map(|(a, b)| (a - b).abs())
        .fold(0.0, f32::max);
    largest / rms
}

/// A tensor of a BF16 adapter file.
fn matrix(lora: &SafeTensors<'_>, name: &str) -> Tensor {
    let view = lora.tensor(name).unwrap();
    assert_eq!(view.dtype(), Dtype::BF16);
    Tensor::from_raw_buffer(view.data(), DType::BF16, view.shape(), &Device::Cpu)
        .unwrap()
        .to_dtype(DType::F32)
        .unwrap()
}

/// The base model with `weight + scale * up * down` in F32 in place of every adapted weight.
fn merged(dir: &TempDir, scale: f64) -> PathBuf {
    let (model, lora) = (fs::read(base()).unwrap(), fs::read(palette()).unwrap());
    let lora = SafeTensors::deserialize(&lora).unwrap();
    let (_, header) = SafeTensors::read_metadata(&model).unwrap();
    let model = SafeTensors::deserialize(&model).unwrap();
    let mut made = HashMap::new();
    for (name, view) in model.iter() {
        let layer = name
            .strip_prefix("model.diffusion_model.")
            .and_then(|n| n.strip_suffix(".weight"));
        let Some(layer) = layer.filter(|l| lora.tensor(&format!("{l}.lora_A.weight")).is_ok())
        else {
            continue;
        };
        assert_eq!(view.dtype(), Dtype::F8_E4M3);
        let weight: Vec<f32> = view
            .data()
            .iter()
            .map(|b| E4M3_TO_F32[usize::from(*b)])
            .collect();
        let weight = Tensor::from_vec(weight, view.shape(), &Device::Cpu).unwrap();
        let up = matrix(&lora, &format!("{layer}.lora_B.weight"));
        let delta = up
            .matmul(&matrix(&lora, &format!("{layer}.lora_A.weight")))
            .unwrap();
        let sum = (weight + (delta * scale).unwrap()).unwrap();
        let bytes: Vec<u8> = sum
            .flatten_all()
            .unwrap()
            .to_vec1::<f32>()
            .unwrap()
            .iter()
            .flat_map(|v| v.to_le_bytes())
            .collect();
        made.insert(name.to_owned(), (view.shape().to_vec(), bytes));
    }
    assert_eq!(made.len() * 2, lora.len(), "every adapter has its weight");
    let views = model.iter().map(|(name, view)| match made.get(name) {
        Some((shape, bytes)) => (
            name,
            TensorView::new(Dtype::F32, shape.clone(), bytes).unwrap(),
        ),
        None => (name, view),
    });
    let path = dir.path().join("merged.safetensors");
    safetensors::serialize_to_file(views, header.metadata().clone(), &path).unwrap();
    path
}

#[test]
fn beside_the_weight_equals_merged_into_it() {
    let dir = TempDir::new().unwrap();
    let plain = latents(open(&base()));
    for scale in [1.0, 0.5] {
        let (beside, within) = (
            adapted(&palette(), scale),
            latents(open(&merged(&dir, f64::from(scale)))),
        );
        let (off, effect) = (difference(&beside, &within), difference(&plain, &within));
        println!(
            "scale {scale}: beside against merged {off:.1e}; without the adapter {effect:.1e}"
        );
        assert!(off < 1e-4, "{off}");
        assert!(effect > 1e-2, "the adapter does nothing");
    }
    assert_eq!(
        adapted(&palette(), 0.0),
        plain,
        "a scale of 0 is no adapter"
    );
}

/// The palette LoRA with other names and an alpha.
fn respelled(dir: &TempDir, rename: impl Fn(&str) -> String, alpha: Option<f32>) -> PathBuf {
    let bytes = fs::read(palette()).unwrap();
    let lora = SafeTensors::deserialize(&bytes).unwrap();
    let mut tensors: Vec<(String, Dtype, Vec<usize>, Vec<u8>)> = Vec::new();
    for (name, view) in lora.iter() {
        tensors.push((
            rename(name),
            view.dtype(),
            view.shape().to_vec(),
            view.data().to_vec(),
        ));
        if let (Some(alpha), true) = (alpha, name.contains("lora_A")) {
            let name = rename(name).replace(".lora_down.weight", ".alpha");
            tensors.push((name, Dtype::F32, vec![], alpha.to_le_bytes().to_vec()));
        }
    }
    let views = tensors
        .iter()
        .map(|(n, d, s, b)| (n.as_str(), TensorView::new(*d, s.clone(), b).unwrap()));
    let path = dir.path().join("respelled.safetensors");
    safetensors::serialize_to_file(views, None, &path).unwrap();
    path
}

#[test]
fn every_spelling_is_the_same_adapter() {
    let dir = TempDir::new().unwrap();
    let (whole, half) = (adapted(&palette(), 1.0), adapted(&palette(), 0.5));
    let diffusers = |name: &str| format!("transformer.{name}");
    assert_eq!(adapted(&respelled(&dir, diffusers, None), 1.0), whole);
    let down_up = |name: &str| {
        name.replace("lora_A", "lora_down")
            .replace("lora_B", "lora_up")
    };
    let comfy = |name: &str| format!("diffusion_model.{}", down_up(name));
    assert_eq!(adapted(&respelled(&dir, comfy, Some(8.0)), 1.0), whole);
    assert_eq!(
        adapted(&respelled(&dir, comfy, Some(4.0)), 1.0),
        half,
        "alpha 4 over rank 8"
    );
    let kohya = |name: &str| {
        let name = down_up(name);
        let at = name.find(".lora_").unwrap();
        format!("lora_unet_{}{}", name[..at].replace('.', "_"), &name[at..])
    };
    assert_eq!(adapted(&respelled(&dir, kohya, Some(4.0)), 2.0), whole);
}

#[test]
fn two_adapters_add_up() {
    let mut checkpoint = open(&base());
    checkpoint.adapt(&palette(), 0.5).unwrap();
    checkpoint.adapt(&palette(), 0.5).unwrap();
    let off = difference(&latents(checkpoint), &adapted(&palette(), 1.0));
    println!("twice a half against the whole: {off:.1e}");
    assert!(off < 1e-4, "{off}");
}

#[test]
fn foreign_adapters_are_refused_by_name() {
    let dir = TempDir::new().unwrap();
    let refused = |path: &Path, parts: &[&str]| {
        let message = open(&base()).adapt(path, 1.0).unwrap_err().to_string();
        for part in parts {
            assert!(message.contains(part), "`{part}` is not in: {message}");
        }
    };
    refused(&base(), &["is no LoRA of this model", "and 595 more"]);
    let other = |name: &str| match name {
        "transformer_blocks.3.attn.to_q.lora_A.weight" => "text_model.q.lora_A.weight".to_owned(),
        name => name.to_owned(),
    };
    refused(
        &respelled(&dir, other, None),
        &["has 1 tensors", "text_model.q.lora_A.weight"],
    );
    let swapped = |name: &str| {
        name.replace("net.0.proj", "net.9")
            .replace("net.2", "net.0.proj")
            .replace("net.9", "net.2")
    };
    refused(
        &respelled(&dir, swapped, None),
        &["img_mlp.net.0.proj", "the LoRA belongs to another model"],
    );
    let halves = |name: &str| {
        name.replace(
            "transformer_blocks.3.attn.to_q.lora_A",
            "transformer_blocks.3.img_mod.1.lora_A",
        )
    };
    refused(&respelled(&dir, halves, None), &["lacks the other half"]);
}
