//! The language model equals transformers' at the longest prompt, whatever its embedding is stored as.
//!
//! `cargo test --test language -- --nocapture` prints the largest difference of each layer.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::path::Path;
use std::sync::{Arc, Mutex};

use candle_core::{Device, Tensor};
use common::weights::{encode, representable, weight, write};
use qwen_nvfp4::checkpoint::{Component, SafetensorsFile, Weights};
use qwen_nvfp4::context::{Cx, Observer};
use qwen_nvfp4::model::ModelError;
use qwen_nvfp4::model::config::TextEncoderConfig;
use qwen_nvfp4::model::text_encoder::LanguageModel;
use safetensors::Dtype;
use serde_json::json;

/// Sizes, seed and ids of `fixtures/language/make_language.py`.
const CONFIG: TextEncoderConfig = TextEncoderConfig {
    vocab_size: 300,
    hidden_size: 120,
    num_hidden_layers: 3,
    num_attention_heads: 6,
    num_key_value_heads: 2,
    head_dim: 20,
    intermediate_size: 200,
    rms_norm_eps: 1e-6,
    rope_theta: 1e6,
};
const SEED: u64 = 5;
const EVERY: usize = 13;
/// Largest difference over the reference's root mean square. The reference itself is 2.3e-5 from float64 here.
const LIMIT: f64 = 5e-5;

const EMBEDDING: &str = "model.embed_tokens.weight";

type Stored = (String, Dtype, Vec<usize>, Vec<u8>);

fn ids() -> Vec<u32> {
    (0..546).map(|i| i * i * 7 % 299).collect()
}

/// Every tensor but the embedding, in F32.
fn layers() -> Vec<Stored> {
    let (h, kv, mlp) = (120, 40, 200);
    let parts: [(&str, &[usize]); 12] = [
        ("input_layernorm.weight", &[h]),
        ("post_attention_layernorm.weight", &[h]),
        ("self_attn.q_proj.weight", &[h, h]),
        ("self_attn.q_proj.bias", &[h]),
        ("self_attn.k_proj.weight", &[kv, h]),
        ("self_attn.k_proj.bias", &[kv]),
        ("self_attn.v_proj.weight", &[kv, h]),
        ("self_attn.v_proj.bias", &[kv]),
        ("self_attn.o_proj.weight", &[h, h]),
        ("mlp.gate_proj.weight", &[mlp, h]),
        ("mlp.up_proj.weight", &[mlp, h]),
        ("mlp.down_proj.weight", &[h, mlp]),
    ];
    let mut named = vec![("model.norm.weight".to_owned(), vec![h])];
    for layer in 0..CONFIG.num_hidden_layers {
        let of_layer = |(part, shape): &(&str, &[usize])| {
            (format!("model.layers.{layer}.{part}"), shape.to_vec())
        };
        named.extend(parts.iter().map(of_layer));
    }
    let store = |(name, shape): (String, Vec<usize>)| {
        let mut values = weight("text_encoder", &name, &shape, SEED);
        if name.ends_with("q_proj.weight") {
            values.iter_mut().for_each(|v| *v *= 8.0);
        }
        (name, Dtype::F32, shape, encode(&values, Dtype::F32))
    };
    named.into_iter().map(store).collect()
}

fn embedding(values: &[f32], dtype: Dtype) -> Stored {
    let shape = vec![CONFIG.vocab_size, CONFIG.hidden_size];
    (EMBEDDING.to_owned(), dtype, shape, encode(values, dtype))
}

fn formula() -> Vec<f32> {
    let shape = [CONFIG.vocab_size, CONFIG.hidden_size];
    weight("text_encoder", EMBEDDING, &shape, SEED)
}

/// The layers and `embedding` as a file, opened.
fn weights(embedding: Vec<Stored>) -> Weights {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    write(&path, &[layers(), embedding].concat(), None);
    let file = SafetensorsFile::open(&path).unwrap();
    let views = file.views().into_iter().map(|v| (v.name().to_owned(), v));
    Weights::new(Component::TextEncoder, &path, &Device::Cpu, views.collect())
}

fn model(embedding: Vec<Stored>) -> LanguageModel {
    LanguageModel::load(&weights(embedding), &CONFIG).unwrap()
}

fn flat(t: &Tensor) -> Vec<f32> {
    t.flatten_all().unwrap().to_vec1().unwrap()
}

#[derive(Default)]
struct Stages(Mutex<Vec<(String, Tensor)>>);

impl Observer for Stages {
    fn stage(&self, name: &str, value: &Tensor) {
        self.0
            .lock()
            .unwrap()
            .push((name.to_owned(), value.clone()));
    }
}

#[test]
fn the_longest_prompt_equals_transformers() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/language");
    let reference = SafetensorsFile::open(&path.join("states.safetensors")).unwrap();
    let seen = Arc::new(Stages::default());
    let model = model(vec![embedding(&formula(), Dtype::F32)]);
    let cx = Cx::default().observed_by(seen.clone());
    let last = model.forward(&ids(), &cx).unwrap();
    let mut stages = std::mem::take(&mut *seen.0.lock().unwrap());
    assert_eq!(stages.remove(0).0, "model.embed_tokens");
    stages.push(("last_hidden_state".to_owned(), last));
    let names: Vec<_> = stages.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(
        names,
        [
            "model.layers.0",
            "model.layers.1",
            "model.layers.2",
            "last_hidden_state"
        ]
    );
    for (name, value) in &stages {
        let expected = reference.view(name).unwrap().to_f32().unwrap();
        let rows = flat(value);
        let rows = rows.chunks(CONFIG.hidden_size).step_by(EVERY).flatten();
        assert_eq!(rows.clone().count(), expected.len());
        let largest = rows
            .zip(&expected)
            .map(|(a, b)| f64::from(a - b).abs())
            .fold(0.0, f64::max);
        let square: f64 = expected.iter().map(|v| f64::from(*v).powi(2)).sum();
        let relative = largest / (square / expected.len() as f64).sqrt();
        println!("{name:20} {relative:.1e}  (limit {LIMIT:e})");
        assert!(relative <= LIMIT, "{name}: {relative:e}");
    }
}

#[test]
fn a_scale_of_the_embedding_is_applied() {
    let shape = [CONFIG.vocab_size, CONFIG.hidden_size];
    let codes = representable("text_encoder", EMBEDDING, &shape, SEED);
    let scaled: Vec<f32> = codes.iter().map(|v| v * 0.375).collect();
    let scale = |name: &str, value: f32| {
        let name = format!("model.embed_tokens.{name}");
        (name, Dtype::F32, vec![], encode(&[value], Dtype::F32))
    };
    let ids = &ids()[..40];
    let states = |embedding| flat(&model(embedding).forward(ids, &Cx::default()).unwrap());
    let expected = states(vec![embedding(&scaled, Dtype::F32)]);
    for name in ["weight_scale", "scale_weight"] {
        let stored = vec![embedding(&codes, Dtype::F8_E4M3), scale(name, 0.375)];
        assert_eq!(states(stored), expected, "{name}");
    }
    let plain = states(vec![embedding(&codes, Dtype::F8_E4M3)]);
    assert_ne!(plain, expected);
    assert_eq!(plain, states(vec![embedding(&codes, Dtype::F32)]));

    let stored = vec![
        embedding(&codes, Dtype::F8_E4M3),
        scale("weight_scale", 0.0),
    ];
    let Err(error) = LanguageModel::load(&weights(stored), &CONFIG) else {
        panic!("a scale of 0 was taken");
    };
    assert!(error.to_string().contains("model.embed_tokens"), "{error}");
}

#[test]
fn a_foreign_token_and_a_request_to_stop_end_the_work() {
    let model = model(vec![embedding(&formula(), Dtype::BF16)]);
    let error = model.forward(&[1, 300], &Cx::default()).unwrap_err();
    assert!(error.to_string().contains("token 300"), "{error}");
    let cx = Cx::default();
    cx.cancel.cancel();
    let error = model.forward(&[1, 2], &cx).unwrap_err();
    assert!(matches!(error, ModelError::Cancelled));
}

/// What a config leaves out is what its class assumes, which is not what the published model has.
#[test]
fn sizes_are_read_as_the_class_reads_them() {
    let weights = weights(vec![embedding(&formula(), Dtype::F32)]);
    let detect = |json| TextEncoderConfig::detect(&weights, json);
    let stated =
        json!({"num_attention_heads": 6, "rms_norm_eps": 1e-6, "rope_scaling": {"type": "mrope"}});
    assert_eq!(detect(Some(&stated)).unwrap(), CONFIG);
    let nested =
        json!({"text_config": {"num_attention_heads": 6, "rope_parameters": {"rope_theta": 5e4}}});
    let nested = detect(Some(&nested)).unwrap();
    assert_eq!((nested.rms_norm_eps, nested.rope_theta), (1e-5, 5e4));
    let error = detect(None).unwrap_err();
    assert!(error.to_string().contains("heads of 128"), "{error}");
}
