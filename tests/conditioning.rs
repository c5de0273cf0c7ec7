//! What the noise level decides is computed once per schedule: not once per step, nor once per prompt.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use candle_core::{Device, Tensor};
use qwen_nvfp4::checkpoint::{Checkpoint, ModelSource};
use qwen_nvfp4::context::{Cx, Observer};
use qwen_nvfp4::model::config::TransformerConfig;
use qwen_nvfp4::model::transformer::{Conditioning, Input, QwenImageTransformer};
use qwen_nvfp4::pipeline::request::{Request, Settings};
use qwen_nvfp4::pipeline::sampler::Sampler;
use qwen_nvfp4::pipeline::{Engine, Silent};

/// Rows that each linear layer was given, call by call.
#[derive(Default)]
struct Calls(Mutex<BTreeMap<String, Vec<usize>>>);

impl Calls {
    fn of(&self, layer: &str) -> Vec<usize> {
        let calls = self.0.lock().unwrap();
        calls.get(layer).cloned().unwrap_or_default()
    }
}

impl Observer for Calls {
    fn linear_input(&self, layer: &str, input: &Tensor) {
        let rows = input.elem_count() / input.dims().last().unwrap();
        let mut calls = self.0.lock().unwrap();
        calls.entry(layer.to_owned()).or_default().push(rows);
    }
}

/// Two prompts at 32x32 through the tiny model.
fn calls(engine: &Engine, sampler: Sampler, steps: usize, cfg: f64) -> Arc<Calls> {
    let calls = Arc::new(Calls::default());
    let request = Request {
        prompts: vec!["a red star".to_owned(), "a blue circle".to_owned()],
        negatives: None,
        seeds: vec![0, 1],
        settings: Settings {
            width: 32,
            height: 32,
            steps,
            cfg,
            sampler,
            ..engine.defaults()
        },
        latents: None,
    };
    let cx = Cx::default().observed_by(calls.clone());
    engine.generate(&request, &cx, &mut Silent).unwrap();
    calls
}

#[test]
fn steps_guidance_and_batches_share_it() {
    let engine = Engine::load(&ModelSource::Embedded).unwrap();
    let conditioning = [
        "time_text_embed.timestep_embedder.linear_1",
        "time_text_embed.timestep_embedder.linear_2",
        "transformer_blocks.0.img_mod.1",
        "transformer_blocks.0.txt_mod.1",
        "transformer_blocks.11.img_mod.1",
        "norm_out.linear",
    ];
    // (sampler, steps, guidance, evaluations, rows of each time the levels are conditioned)
    let cases: [(Sampler, usize, f64, usize, &[usize]); 5] = [
        (Sampler::Euler, 4, 1.0, 4, &[4]),
        (Sampler::Euler, 4, 3.0, 8, &[4]),
        (Sampler::Heun, 4, 3.0, 14, &[4]),
        // It starts a little below the schedule's first level, which is then never asked for.
        (Sampler::ErSde, 4, 1.0, 4, &[1, 3]),
        // More than are kept at once.
        (Sampler::Euler, 70, 1.0, 70, &[64, 6]),
    ];
    for (sampler, steps, cfg, evaluations, rows) in cases {
        let about = format!("{} {steps} {cfg}", sampler.name());
        let calls = calls(&engine, sampler, steps, cfg);
        assert_eq!(calls.of("proj_out").len(), evaluations, "{about}");
        for layer in conditioning {
            assert_eq!(calls.of(layer), rows, "{about}: {layer}");
        }
    }
}

/// A level has the same values whatever levels it was made with, but for the last bits: a product of one row
/// sums in another order than one of many.
#[test]
fn levels_do_not_see_each_other() {
    let checkpoint = Checkpoint::open(&ModelSource::Embedded, &Device::Cpu).unwrap();
    let weights = &checkpoint.transformer;
    let config =
        TransformerConfig::detect(weights, checkpoint.configs.transformer.as_ref()).unwrap();
    let model = QwenImageTransformer::load(weights, &config).unwrap();
    let cx = Cx::default();
    let levels: Vec<f32> = (1..=40).map(|i| i as f32 / 40.0).collect();
    let numbers = |shape: (usize, usize, usize), start: f64| {
        let n = (shape.0 * shape.1 * shape.2) as f64;
        Tensor::arange(start, start + n, &Device::Cpu)
            .and_then(|t| t.sin()?.to_dtype(candle_core::DType::F32)?.reshape(shape))
            .unwrap()
    };
    let velocity = |conditioning: Conditioning| -> Vec<f32> {
        let input = Input {
            img: numbers((2, 4, 64), 0.0),
            txt: numbers((2, 5, config.joint_attention_dim), 7.0),
            txt_lengths: vec![5, 3],
            conditioning,
            grid: (2, 2),
        };
        let velocity = model.forward(&input, &cx).unwrap();
        velocity.flatten_all().unwrap().to_vec1().unwrap()
    };
    let together = model.conditioning(&levels, &cx).unwrap();
    assert_eq!(together.len(), levels.len());
    for i in [0, 17, 39] {
        let alone = model.conditioning(&[levels[i]], &cx).unwrap().remove(0);
        let (alone, together) = (velocity(alone), velocity(together[i].clone()));
        let equal = alone.iter().zip(&together).filter(|(a, b)| a == b).count();
        println!("level {}: {equal} of {} equal", levels[i], alone.len());
        for (a, b) in alone.iter().zip(&together) {
            assert!((a - b).abs() < 1e-5 * (1.0 + b.abs()), "{a} {b}");
        }
    }
}
