//! Adapters against PEFT, diffusers and ComfyUI: `fixtures/lora/make_lora.py` says who computed what.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::{Device, Tensor};
use qwen_nvfp4::checkpoint::{Component, Lora, SafetensorsFile, Weights};
use qwen_nvfp4::context::Cx;
use qwen_nvfp4::model::config::TransformerConfig;
use qwen_nvfp4::model::transformer::{Input, QwenImageTransformer};
use safetensors::Dtype;
use serde_json::Value;

use crate::common::weights::{encode, weight, write};
use crate::difference;

/// Rows and columns of packed tokens, as the script has them.
const GRID: (usize, usize) = (3, 5);

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures/lora")
        .join(name)
}

struct Reference {
    outputs: Arc<SafetensorsFile>,
    weights: Weights,
    config: TransformerConfig,
}

impl Reference {
    fn open() -> Self {
        let outputs = SafetensorsFile::open(&fixture("outputs.safetensors")).unwrap();
        let meta = |key: &str| -> Value { serde_json::from_str(&outputs.metadata()[key]).unwrap() };
        let shapes: BTreeMap<String, Vec<usize>> = serde_json::from_value(meta("shapes")).unwrap();
        let seed = meta("seed").as_u64().unwrap();
        let tensors: Vec<_> = shapes
            .into_iter()
            .map(|(name, shape)| {
                let values = weight("transformer", &name, &shape, seed);
                (name, Dtype::F32, shape, encode(&values, Dtype::F32))
            })
            .collect();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("transformer.safetensors");
        write(&path, &tensors, None);
        let file = SafetensorsFile::open(&path).unwrap();
        let views = file.views().into_iter().map(|v| (v.name().to_owned(), v));
        let weights = Weights::new(Component::Transformer, &path, &Device::Cpu, views.collect());
        Self {
            config: TransformerConfig::detect(&weights, Some(&meta("config"))).unwrap(),
            outputs,
            weights,
        }
    }

    fn tensor(&self, name: &str) -> Tensor {
        let view = self.outputs.view(name).unwrap();
        Tensor::from_vec(view.to_f32().unwrap(), view.shape(), &Device::Cpu).unwrap()
    }

    fn expected(&self, name: &str) -> Vec<f32> {
        self.outputs.view(name).unwrap().to_f32().unwrap()
    }

    /// The velocity of the script's input.
    fn velocity(&self, weights: &Weights) -> Vec<f32> {
        let model = QwenImageTransformer::load(weights, &self.config).unwrap();
        let cx = Cx::default();
        let timestep = self.expected("timestep");
        let txt = self.tensor("txt");
        let input = Input {
            img: self.tensor("img"),
            txt_lengths: vec![txt.dim(1).unwrap()],
            txt,
            conditioning: model.conditioning(&timestep, &cx).unwrap().remove(0),
            grid: GRID,
        };
        let velocity = model.forward(&input, &cx).unwrap();
        velocity.flatten_all().unwrap().to_vec1().unwrap()
    }

    fn adapted(&self, file: &str, scale: f32) -> Vec<f32> {
        let lora = Lora::open(&fixture(file), scale, &self.weights).unwrap();
        self.velocity(&self.weights.adapted_by(&lora))
    }
}

#[test]
fn files_of_others_act_as_they_do_there() {
    let reference = Reference::open();
    let plain = difference(
        &reference.velocity(&reference.weights),
        &reference.expected("none"),
    );
    println!("no adapter: {plain:.1e}");
    assert!(plain < 1e-4, "{plain:e}");
    for (file, expected) in [
        ("pipeline", "pipeline"),
        ("adapter", "adapter"),
        ("comfy", "comfy"),
        ("kohya", "comfy"),
    ] {
        for scale in ["1.0", "0.7"] {
            let got = reference.adapted(&format!("{file}.safetensors"), scale.parse().unwrap());
            let off = difference(&got, &reference.expected(&format!("{expected}.{scale}")));
            println!("{file} at {scale}: {off:.1e}");
            assert!(off < 1e-4, "{file} at {scale}: {off:e}");
        }
    }
}
