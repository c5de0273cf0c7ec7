//! Parts of the model at the published widths equal transformers and diffusers: heads of 128 and how they are shared and
//! turned, hidden width 3584, the decoder's 96 to 384 channels.
//!
//! `fixtures/published/make_published.py` says what was computed. `cargo test --test published_widths -- --nocapture`
//! prints the largest difference of each part.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use candle_core::{Device, Tensor};
use common::weights::{encode, uniform, weight, write};
use qwen_nvfp4::checkpoint::{Component, SafetensorsFile, Weights};
use qwen_nvfp4::context::Cx;
use qwen_nvfp4::model::config::{TextEncoderConfig, TransformerConfig, VaeConfig};
use qwen_nvfp4::model::text_encoder::LanguageModel;
use qwen_nvfp4::model::transformer::{Input, QwenImageTransformer};
use qwen_nvfp4::model::vae::Decoder;
use safetensors::Dtype;
use serde::Deserialize;

const SEED: u64 = 6;
/// Largest difference over the reference's root mean square. The reference itself is up to 4.8e-6 from float64.
const LIMIT: f64 = 3e-5;

/// What the script says of a part.
#[derive(Deserialize)]
struct Facts {
    /// Every so many-th number of the output is kept.
    every: usize,
    shapes: BTreeMap<String, Vec<usize>>,
}

/// A part's reference and its weights, in BF16 in a file that is gone with it.
struct Part {
    name: &'static str,
    reference: Arc<SafetensorsFile>,
    facts: Facts,
    weights: Weights,
}

impl Part {
    fn open(name: &'static str, component: Component) -> Self {
        let fixture = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("tests/fixtures/published/published.safetensors");
        let reference = SafetensorsFile::open(&fixture).unwrap();
        let facts: Facts = serde_json::from_str(&reference.metadata()[name]).unwrap();
        let stored: Vec<_> = facts
            .shapes
            .iter()
            .map(|(tensor, shape)| {
                let values = weight(name, tensor, shape, SEED);
                let bytes = encode(&values, Dtype::BF16);
                (tensor.clone(), Dtype::BF16, shape.clone(), bytes)
            })
            .collect();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("part.safetensors");
        write(&path, &stored, None);
        let file = SafetensorsFile::open(&path).unwrap();
        let views = file.views().into_iter().map(|v| (v.name().to_owned(), v));
        let weights = Weights::new(component, &path, &Device::Cpu, views.collect());
        Self {
            name,
            reference,
            facts,
            weights,
        }
    }

    fn check(&self, got: &Tensor) {
        let expected = self.reference.view(self.name).unwrap().to_f32().unwrap();
        let got = got.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let got: Vec<f32> = got.into_iter().step_by(self.facts.every).collect();
        assert_eq!(got.len(), expected.len());
        let pairs = got.iter().zip(&expected);
        let largest = pairs
            .map(|(a, b)| f64::from(a - b).abs())
            .fold(0.0, f64::max);
        let square: f64 = expected.iter().map(|v| f64::from(*v).powi(2)).sum();
        let relative = largest / (square / expected.len() as f64).sqrt();
        println!("{:12} {relative:.1e}  (limit {LIMIT:e})", self.name);
        assert!(got.iter().all(|v| v.is_finite()));
        assert!(relative <= LIMIT, "{}: {relative:e}", self.name);
    }
}

/// The script's `numbers`.
fn numbers(name: &str, shape: &[usize]) -> Tensor {
    let values = uniform(name, SEED, shape.iter().product());
    Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
}

#[test]
fn a_layer_of_the_text_encoder() {
    let config = TextEncoderConfig {
        vocab_size: 300,
        hidden_size: 3584,
        num_hidden_layers: 1,
        num_attention_heads: 28,
        num_key_value_heads: 4,
        head_dim: 128,
        intermediate_size: 2368,
        rms_norm_eps: 1e-6,
        rope_theta: 1e6,
    };
    let part = Part::open("text_encoder", Component::TextEncoder);
    let ids: Vec<u32> = (0..100).map(|i| i * i * 7 % 299).collect();
    let model = LanguageModel::load(&part.weights, &config).unwrap();
    part.check(&model.forward(&ids, &Cx::default()).unwrap());
}

/// The heads of a file without a config are the published ones.
#[test]
fn blocks_with_the_published_heads_and_positions() {
    let part = Part::open("transformer", Component::Transformer);
    let config = TransformerConfig::detect(&part.weights, None).unwrap();
    assert_eq!(
        (config.attention_head_dim, config.axes_dims_rope),
        (128, [16, 56, 56])
    );
    let model = QwenImageTransformer::load(&part.weights, &config).unwrap();
    let cx = Cx::default();
    let (grid, text) = ((40, 60), 300);
    let input = Input {
        img: numbers("img", &[1, grid.0 * grid.1, 64]),
        txt: numbers("txt", &[1, text, 3584]),
        txt_lengths: vec![text],
        conditioning: model.conditioning(&[0.875], &cx).unwrap().remove(0),
        grid,
    };
    part.check(&model.forward(&input, &cx).unwrap());
}

#[test]
fn the_whole_decoder() {
    let config = VaeConfig {
        base_dim: 96,
        z_dim: 16,
        dim_mult: vec![1, 2, 4, 4],
        num_res_blocks: 2,
        temporal_downsample: vec![false, true, true],
        input_channels: 3,
        latents_mean: vec![0.0; 16],
        latents_std: vec![1.0; 16],
    };
    let part = Part::open("vae", Component::Vae);
    let decoder = Decoder::load(&part.weights, &config).unwrap();
    let z = numbers("z", &[1, 16, 5, 3]);
    part.check(&decoder.forward(&z, &Cx::default()).unwrap());
}
