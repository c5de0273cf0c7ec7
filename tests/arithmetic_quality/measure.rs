//! The baseline's generations, and how far a converted model is off them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use candle_core::{Device, Tensor};
use qwen_nvfp4::bench::teacher::{self, Lesson, Powers, Teacher};
use qwen_nvfp4::checkpoint::{Activations, Checkpoint, ModelSource, Weights};
use qwen_nvfp4::context::{Cx, Observer};
use qwen_nvfp4::model::config::TransformerConfig;
use qwen_nvfp4::model::transformer::QwenImageTransformer;
use qwen_nvfp4::ops::{self, Linear};
use qwen_nvfp4::pipeline::request::Request;
use qwen_nvfp4::pipeline::{Engine, Silent};
use qwen_nvfp4::quantize::calibration::{Calibration, Range};

const PROMPTS: [&str; 3] = [
    "a large red star above a small blue circle on a plain yellow background",
    "a small green square on a striped purple background",
    "a large white triangle below a large orange circle on a plain black background",
];

/// What a generation of the baseline showed.
#[derive(Default)]
struct Seen {
    /// Of every linear, in the order of calls.
    inputs: BTreeMap<String, Vec<Tensor>>,
    /// Output widths.
    widths: BTreeMap<String, usize>,
}

#[derive(Default)]
struct Tap(Mutex<Seen>);

impl Observer for Tap {
    fn linear_input(&self, layer: &str, input: &Tensor) {
        let mut seen = self.0.lock().unwrap();
        seen.inputs
            .entry(layer.to_owned())
            .or_default()
            .push(input.clone());
    }

    fn linear_output(&self, layer: &str, output: &Tensor) {
        let width = *output.dims().last().unwrap();
        self.0
            .lock()
            .unwrap()
            .widths
            .insert(layer.to_owned(), width);
    }
}

/// The plain all-in-one: weights FP8, activations F32.
pub struct Baseline {
    pub checkpoint: Checkpoint,
    /// A generation per prompt: latents and velocities, and what comes in to layers.
    lessons: Vec<Lesson>,
    seen: Vec<Seen>,
    /// What each layer makes of each of its inputs. Without biases, which are no part of the product.
    products: BTreeMap<String, Vec<Tensor>>,
}

impl Baseline {
    pub fn new() -> Self {
        let engine = Engine::load(&files(&tiny())).unwrap();
        let settings = engine.defaults();
        assert_eq!((settings.steps, settings.cfg), (8, 1.0));
        let request = |prompt: &&str| Request {
            prompts: vec![(*prompt).to_owned()],
            negatives: None,
            seeds: vec![0],
            settings: settings.clone(),
            latents: None,
        };
        let teach = |prompt| Teacher::watch(&engine, &request(prompt), &Cx::default()).unwrap();
        let run = |prompt| {
            let tap = Arc::new(Tap::default());
            let request = request(prompt);
            let cx = Cx::default().observed_by(tap.clone());
            engine.generate(&request, &cx, &mut Silent).unwrap();
            std::mem::take(&mut *tap.0.lock().unwrap())
        };
        let mut baseline = Self {
            lessons: PROMPTS.iter().map(teach).collect(),
            seen: PROMPTS.iter().map(run).collect(),
            checkpoint: Checkpoint::open(&files(&tiny()), &Device::Cpu).unwrap(),
            products: BTreeMap::new(),
        };
        let products = baseline.layers().map(|layer| {
            let linear = baseline.linear(layer, &baseline.checkpoint.transformer);
            let cx = Cx::default();
            let inputs = baseline.inputs(layer).into_iter();
            let outputs = inputs.map(|x| linear.forward(x, &cx).unwrap());
            (layer.to_owned(), outputs.collect())
        });
        baseline.products = products.collect();
        baseline
    }

    /// `layer` of `weights` without its bias.
    fn linear(&self, layer: &str, weights: &Weights) -> Linear {
        let k = *self.inputs(layer)[0].dims().last().unwrap();
        Linear::load(&weights.pp(layer), self.seen[0].widths[layer], k, false).unwrap()
    }

    /// The transformer's linears that run.
    fn layers(&self) -> impl Iterator<Item = &str> {
        let names = self.seen[0].widths.keys().map(String::as_str);
        names.filter(|name| {
            let weight = format!("{name}.weight");
            self.checkpoint.transformer.contains(&weight)
        })
    }

    /// Every number that came in to `layer`.
    fn inputs(&self, layer: &str) -> Vec<&Tensor> {
        self.seen.iter().flat_map(|s| &s.inputs[layer]).collect()
    }

    /// The activations' largest magnitudes, or those that all but a thousandth stay below.
    pub fn calibration(&self, stat: &str) -> Calibration {
        let amax = self.layers().map(|layer| {
            let mut all: Vec<f32> = self
                .inputs(layer)
                .into_iter()
                .flat_map(values)
                .map(f32::abs)
                .collect();
            all.sort_unstable_by(f32::total_cmp);
            let at = match stat {
                "max" => all.len() - 1,
                _ => all.len() * 999 / 1000,
            };
            (layer.to_owned(), all[at])
        });
        let amax = amax.filter(|(layer, _)| layer.starts_with("transformer_blocks."));
        let range = |(layer, amax)| (layer, Range::plain(amax).unwrap());
        Calibration {
            name: "of the baseline".to_owned(),
            stat: stat.to_owned(),
            model: None,
            never_ran: Default::default(),
            ranges: amax.map(range).collect(),
        }
    }
}

pub fn tiny() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("models/tiny/qwen-tiny-aio-fp8.safetensors")
}

fn files(model: &Path) -> ModelSource {
    ModelSource::Files {
        model: model.to_owned(),
        text_encoder: None,
        vae: None,
    }
}

fn values(x: &Tensor) -> Vec<f32> {
    x.flatten_all().unwrap().to_vec1().unwrap()
}

/// A converted model under one way to quantize activations.
pub struct Quality {
    pub name: String,
    /// Output SQNR in dB of the layers that run in NVFP4, in FP8, and with NVFP4 weights and F32 activations.
    pub nvfp4: Vec<f64>,
    pub fp8: Vec<f64>,
    pub widened: Vec<f64>,
    /// |v - v_base| / |v_base| by step, the mean of the prompts.
    pub velocity: Vec<f64>,
}

pub fn mean(values: impl IntoIterator<Item = f64>) -> f64 {
    let values: Vec<f64> = values.into_iter().collect();
    values.iter().sum::<f64>() / values.len() as f64
}

fn least(values: &[f64]) -> f64 {
    values.iter().copied().fold(f64::INFINITY, f64::min)
}

impl Quality {
    pub fn of(name: &str, model: &Path, activations: Activations, baseline: &Baseline) -> Self {
        let mut checkpoint = Checkpoint::open(&files(model), &Device::Cpu).unwrap();
        checkpoint.quantize_activations(activations);
        let mut quality = Self {
            name: format!("{name} {activations:?}").to_lowercase(),
            nvfp4: Vec::new(),
            fp8: Vec::new(),
            widened: Vec::new(),
            velocity: velocity_errors(&checkpoint, baseline),
        };
        for (layer, products) in &baseline.products {
            let linear = baseline.linear(layer, &checkpoint.transformer);
            let of_format = match linear.input() {
                ops::Input::Nvfp4(_) => &mut quality.nvfp4,
                ops::Input::Fp8(_) => &mut quality.fp8,
                ops::Input::F32 => &mut quality.widened,
            };
            let cx = Cx::default();
            let pairs = baseline.inputs(layer).into_iter().zip(products);
            let sums = pairs.fold(Powers::default(), |sums, (x, theirs)| {
                sums.plus(Powers::of(theirs, &linear.forward(x, &cx).unwrap()).unwrap())
            });
            // FP8 weights are the baseline's own bytes.
            if let Some(db) = sums.db() {
                of_format.push(db);
            }
        }
        quality
    }

    pub fn error(&self) -> f64 {
        mean(self.velocity.iter().copied())
    }

    pub fn row(&self) -> String {
        let layers = |of: &[f64]| match of.is_empty() {
            true => "| 0 | | ".to_owned(),
            false => {
                let (mean, least) = (mean(of.iter().copied()), least(of));
                format!("| {} | {mean:.1} | {least:.1} ", of.len())
            }
        };
        let steps = self.velocity.iter().map(|v| format!("{v:.4}"));
        let steps = steps.collect::<Vec<_>>().join(" ");
        format!(
            "| {} {}{}{}| {:.4} | {steps} |",
            self.name,
            layers(&self.nvfp4),
            layers(&self.fp8),
            layers(&self.widened),
            self.error()
        )
    }
}

/// By step, the mean of the prompts.
pub fn velocity_errors(checkpoint: &Checkpoint, baseline: &Baseline) -> Vec<f64> {
    let json = checkpoint.configs.transformer.as_ref();
    let config = TransformerConfig::detect(&checkpoint.transformer, json).unwrap();
    let transformer = QwenImageTransformer::load(&checkpoint.transformer, &config).unwrap();
    let of = |lesson| teacher::velocity_errors(lesson, &transformer, &Cx::default()).unwrap();
    let errors: Vec<Vec<f64>> = baseline.lessons.iter().map(of).collect();
    let steps = 0..errors[0].len();
    steps
        .map(|step| mean(errors.iter().map(|e| e[step])))
        .collect()
}
