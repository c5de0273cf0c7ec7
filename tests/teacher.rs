//! Teacher-forced measures: the baseline is off itself by nothing, and sums that are kept are those of inputs that were stored.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use candle_core::Tensor;
use qwen_nvfp4::bench::layer_errors::LayerErrors;
use qwen_nvfp4::bench::teacher::{Lesson, Teacher, velocity_errors};
use qwen_nvfp4::checkpoint::{ModelSource, Weights};
use qwen_nvfp4::context::{Cancel, Cx, Observer};
use qwen_nvfp4::ops::Linear;
use qwen_nvfp4::pipeline::request::{Request, Settings};
use qwen_nvfp4::pipeline::{Engine, Silent};
use qwen_nvfp4::quantize::plan::Options;
use qwen_nvfp4::quantize::{Monitor, Plan, Policy, Source, execute};

fn baseline() -> Engine {
    Engine::load(&ModelSource::Embedded).unwrap()
}

/// Two steps at a size of four tokens.
fn request(engine: &Engine, cfg: f64) -> Request {
    Request {
        prompts: vec!["a large red star on the left on a plain blue background".to_owned()],
        negatives: None,
        seeds: vec![5],
        settings: Settings {
            width: 32,
            height: 32,
            steps: 2,
            cfg,
            ..engine.defaults()
        },
        latents: None,
    }
}

fn v3(dir: &Path) -> Engine {
    let model: PathBuf = dir.join("v3.safetensors");
    let (source, policy) = (Source::embedded().unwrap(), Policy::built_in("v3"));
    let options = Options {
        assume_unscaled: true,
        ..Options::default()
    };
    let plan = Plan::new(&source, &policy.unwrap().unwrap(), None, &options).unwrap();
    let monitor = Monitor {
        cancel: Cancel::default(),
        done: &|_| {},
    };
    execute(&plan, &source, (&model, false), &monitor).unwrap();
    let files = ModelSource::Files {
        model,
        text_encoder: None,
        vae: None,
    };
    Engine::load(&files).unwrap()
}

/// Stores every input, as only a test may.
#[derive(Default)]
struct Tap(Mutex<BTreeMap<String, Vec<Tensor>>>);

impl Observer for Tap {
    fn linear_input(&self, layer: &str, input: &Tensor) {
        let mut inputs = self.0.lock().unwrap();
        inputs
            .entry(layer.to_owned())
            .or_default()
            .push(input.clone());
    }
}

#[test]
fn the_baseline_is_off_itself_by_nothing() {
    let (engine, cx) = (baseline(), Cx::default());
    for cfg in [1.0, 2.5] {
        let lesson = Teacher::watch(&engine, &request(&engine, cfg), &cx).unwrap();
        assert_eq!(lesson.evaluations.len(), 2);
        assert_eq!(lesson.negative.is_some(), cfg != 1.0);
        for evaluation in &lesson.evaluations {
            let values = |t: &Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            let unguided = values(&evaluation.conditional) == values(&evaluation.guided);
            assert_eq!(unguided, cfg == 1.0);
        }
        assert!(lesson.evaluations[0].sigma == 1.0 && lesson.evaluations[1].sigma < 1.0);
        let errors = velocity_errors(&lesson, engine.transformer(), &cx).unwrap();
        assert_eq!(errors, [0.0, 0.0]);
        let own = &engine.checkpoint().transformer;
        let layers = LayerErrors::measure(&engine, &lesson, &[own], &cx).unwrap();
        assert!(layers[0].db().values().all(Option::is_none));
        let cells = layers[0].by_third();
        assert!(cells.len() == 14 && cells.values().flatten().all(Option::is_none));
    }
}

#[test]
fn what_is_summed_is_what_stored_inputs_give() {
    let dir = tempfile::tempdir().unwrap();
    let (engine, variant, cx) = (baseline(), v3(dir.path()), Cx::default());
    let request = request(&engine, 1.0);
    let lesson = Teacher::watch(&engine, &request, &cx).unwrap();
    let weights = [&engine, &variant].map(|e| &e.checkpoint().transformer);
    let found = LayerErrors::measure(&engine, &lesson, &weights, &cx).unwrap();
    assert!(found[0].db().values().all(Option::is_none));

    let tap = Arc::new(Tap::default());
    let watched = cx.observed_by(tap.clone());
    engine.denoise(&request, &watched, &mut Silent).unwrap();
    let inputs = tap.0.lock().unwrap();
    let of_transformer = |layer: &&String| weights[0].contains(&format!("{layer}.weight"));
    let layers: Vec<&String> = inputs.keys().filter(of_transformer).collect();
    assert_eq!(layers.len(), 170);
    assert!(layers.iter().all(|l| found[1].sums.contains_key(*l)));
    for layer in layers {
        check_layer(layer, &inputs[layer], weights, &found[1]);
    }
    check_calls(&lesson, &inputs);
}

fn check_layer(layer: &str, inputs: &[Tensor], weights: [&Weights; 2], found: &LayerErrors) {
    let shape = weights[0].shape(&format!("{layer}.weight")).unwrap();
    let linears = weights.map(|w| Linear::load(&w.pp(layer), shape[0], shape[1], false).unwrap());
    let (mut signal, mut noise) = (0.0, 0.0);
    for x in inputs {
        let [base, other] = [0, 1].map(|i| {
            let y = linears[i].forward(x, &Cx::default()).unwrap();
            y.flatten_all().unwrap().to_vec1::<f32>().unwrap()
        });
        for (b, o) in base.iter().zip(&other) {
            signal += f64::from(*b).powi(2);
            noise += (f64::from(*b) - f64::from(*o)).powi(2);
        }
    }
    let sums = found.sums[layer];
    assert!((sums.signal / signal - 1.0).abs() < 1e-12, "{layer}");
    assert!((sums.noise / noise - 1.0).abs() < 1e-12, "{layer}");
}

/// The lesson's count of calls is that of the inputs.
fn check_calls(lesson: &Lesson, inputs: &BTreeMap<String, Vec<Tensor>>) {
    for (layer, calls) in &lesson.calls {
        assert_eq!(calls.values().sum::<u64>() as usize, inputs[layer].len());
        for [m, k] in calls.keys() {
            let numbers = inputs[layer].iter().map(Tensor::elem_count);
            assert!(numbers.into_iter().any(|n| n == m * k), "{layer}");
        }
    }
}

#[test]
fn one_picture_at_a_time() {
    let engine = baseline();
    let one = request(&engine, 1.0);
    let two = Request {
        prompts: vec![String::new(); 2],
        seeds: vec![0, 1],
        ..one
    };
    let refused = Teacher::watch(&engine, &two, &Cx::default());
    let message = refused.err().unwrap().to_string();
    assert!(message.contains("2 prompts"), "{message}");
}
