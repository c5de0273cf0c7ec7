//! A converted checkpoint computes in this engine what it computes in ComfyUI (`fixtures/comfyui`).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};

use candle_core::{Device, Tensor};
use qwen_nvfp4::checkpoint::{Activations, Checkpoint, ModelSource};
use qwen_nvfp4::context::{Cancel, Cx, Observer};
use qwen_nvfp4::model::config::TransformerConfig;
use qwen_nvfp4::model::transformer::{Input, QwenImageTransformer};
use qwen_nvfp4::pipeline::latents::LatentShape;
use qwen_nvfp4::quantize::plan::Options;
use qwen_nvfp4::quantize::{Monitor, Plan, Policy, Source, execute};

/// Remembers every stage.
#[derive(Default)]
struct Stages(Mutex<BTreeMap<String, Tensor>>);

impl Observer for Stages {
    fn stage(&self, name: &str, value: &Tensor) {
        let mut stages = self.0.lock().unwrap();
        stages.insert(name.to_owned(), value.clone());
    }
}

/// Largest difference over the reference's root mean square.
fn difference(a: &Tensor, b: &Tensor) -> f64 {
    let flat = |t: &Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    let (a, b) = (flat(a), flat(b));
    assert_eq!(a.len(), b.len());
    let squares: f64 = b.iter().map(|v| f64::from(*v).powi(2)).sum();
    let rms = (squares / b.len() as f64).sqrt();
    let each = a.iter().zip(&b).map(|(a, b)| f64::from((a - b).abs()));
    each.fold(0.0, f64::max) / rms
}

#[test]
fn the_engine_computes_what_comfyui_computes() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let dir = tempfile::tempdir().unwrap();
    let converted = dir.path().join("v3.safetensors");
    let source = Source::embedded().unwrap();
    let options = Options {
        assume_unscaled: true,
        ..Options::default()
    };
    let policy = Policy::built_in("v3").unwrap().unwrap();
    let plan = Plan::new(&source, &policy, None, &options).unwrap();
    let monitor = Monitor {
        cancel: Cancel::default(),
        done: &|_| {},
    };
    execute(&plan, &source, (&converted, false), &monitor).unwrap();

    let files = ModelSource::Files {
        model: converted,
        text_encoder: None,
        vae: None,
    };
    let mut checkpoint = Checkpoint::open(&files, &Device::Cpu).unwrap();
    // On a CPU ComfyUI widens the weights.
    checkpoint.quantize_activations(Activations::None);
    let config = TransformerConfig::detect(
        &checkpoint.transformer,
        checkpoint.configs.transformer.as_ref(),
    )
    .unwrap();
    let model = QwenImageTransformer::load(&checkpoint.transformer, &config).unwrap();
    let fixture = root.join("tests/fixtures/comfyui/comfyui.safetensors");
    let reference = candle_core::safetensors::load(fixture, &Device::Cpu).unwrap();
    let shape = LatentShape {
        channels: 16,
        height: 8,
        width: 8,
    };
    let stages = Arc::new(Stages::default());
    let cx = Cx::default().observed_by(stages.clone());
    let input = Input {
        img: shape.pack(&reference["x"]).unwrap(),
        txt: reference["context"].clone(),
        txt_lengths: vec![9],
        conditioning: model.conditioning(&[0.7], &cx).unwrap().remove(0),
        grid: shape.grid(),
    };
    let velocity = shape.unpack(&model.forward(&input, &cx).unwrap()).unwrap();

    let mut worst = vec![(
        "velocity".to_owned(),
        difference(&velocity, &reference["velocity"]),
    )];
    let stages = stages.0.lock().unwrap();
    for (name, expected) in reference
        .iter()
        .filter(|(n, _)| n.starts_with("transformer_blocks."))
    {
        // The text half of the last block serves nothing, and is not computed here.
        match stages.get(name) {
            Some(stage) => worst.push((name.clone(), difference(stage, expected))),
            None => assert_eq!(name, "transformer_blocks.11.txt"),
        }
    }
    println!("{worst:?}");
    assert!(worst.len() >= 6);
    for (name, difference) in worst {
        assert!(difference < 3e-5, "{name}: {difference:e}");
    }
}
