//! What the engine's observer records is what hooks on diffusers' modules see, and it fits into fixed memory.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use candle_core::{Device, Tensor};
use qwen_nvfp4::calibrate::Watch;
use qwen_nvfp4::checkpoint::ModelSource;
use qwen_nvfp4::context::{Cx, Observer};
use qwen_nvfp4::numerics::tally::{Blocks, Elements};
use qwen_nvfp4::pipeline::request::{Request, Settings};
use qwen_nvfp4::pipeline::{Engine, Silent};
use qwen_nvfp4::quantize::calibration::Capture;
use safetensors::SafeTensors;
use serde::Deserialize;

const FIXTURE: &[u8] = include_bytes!("fixtures/calibration/calibration.safetensors");
/// Rounding of two implementations in F32; the same hooks in F64 are off by 4.4e-6.
const ROUNDING: f64 = 5e-5;

#[derive(Deserialize)]
struct Run {
    prompt: String,
    seed: u64,
    true_cfg_scale: f64,
}

/// The largest magnitude of each layer's input by noise level, beside a [`Watch`].
struct ByLevel {
    watch: Arc<Watch>,
    levels: Mutex<Vec<f32>>,
    seen: Mutex<BTreeMap<(String, u32), f32>>,
}

impl Observer for ByLevel {
    fn noise_levels(&self, sigmas: &[f32]) {
        self.watch.noise_levels(sigmas);
        *self.levels.lock().unwrap() = sigmas.to_vec();
    }

    fn linear_input(&self, layer: &str, input: &Tensor) {
        self.watch.linear_input(layer, input);
        let levels = self.levels.lock().unwrap();
        let x = input.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let rows = x.len() / levels.len().max(1);
        for (x, sigma) in x.chunks(rows.max(1)).zip(levels.iter()) {
            let amax = x.iter().fold(0f32, |m, x| m.max(x.abs()));
            let mut seen = self.seen.lock().unwrap();
            let slot = seen.entry((layer.to_owned(), sigma.to_bits())).or_default();
            *slot = slot.max(amax);
        }
    }
}

fn floats(file: &SafeTensors<'_>, name: &str) -> Vec<f32> {
    let bytes = file.tensor(name).unwrap().data().to_vec();
    bytemuck::pod_collect_to_vec(&bytes)
}

fn integers(file: &SafeTensors<'_>, name: &str) -> Vec<i64> {
    let bytes = file.tensor(name).unwrap().data().to_vec();
    bytemuck::pod_collect_to_vec(&bytes)
}

fn off(got: f32, expected: f32) -> f64 {
    (f64::from(got) - f64::from(expected)).abs() / f64::from(expected)
}

#[test]
fn the_observer_sees_what_hooks_in_torch_see() {
    let (_, header) = SafeTensors::read_metadata(FIXTURE).unwrap();
    let said = header.metadata().clone().unwrap();
    let file = SafeTensors::deserialize(FIXTURE).unwrap();
    let runs: Vec<Run> = serde_json::from_str(&said["runs"]).unwrap();
    let percents: Vec<String> = serde_json::from_str(&said["percent"]).unwrap();
    let sigmas = floats(&file, "sigmas");
    let steps = sigmas.len() - 1;

    let engine = Engine::load(&ModelSource::Embedded).unwrap();
    let layers = engine.checkpoint().transformer_layers();
    let watch = Arc::new(Watch::new(layers.clone(), Capture::default()));
    let (mut by_run, mut worst) = (Vec::new(), BTreeMap::<&str, f64>::new());
    for run in &runs {
        let observer = Arc::new(ByLevel {
            watch: watch.clone(),
            levels: Mutex::default(),
            seen: Mutex::default(),
        });
        let request = Request {
            prompts: vec![run.prompt.clone()],
            negatives: None,
            seeds: vec![run.seed],
            settings: Settings {
                cfg: run.true_cfg_scale,
                negative: serde_json::from_str(&said["negative_prompt"]).unwrap(),
                ..engine.defaults()
            },
            latents: None,
        };
        let cx = Cx::default().observed_by(observer.clone());
        let made = engine.denoise(&request, &cx, &mut Silent).unwrap();
        assert_eq!(made.steps, steps);
        watch.end_sample().unwrap();
        by_run.push(std::mem::take(&mut *observer.seen.lock().unwrap()));
    }

    let names = file.names();
    let expected = names.iter().filter_map(|name| name.strip_prefix("amax/"));
    let mut note = |what, got, expected, limit: f64| {
        let off = off(got, expected);
        let slot = worst.entry(what).or_default();
        *slot = slot.max(off);
        assert!(off <= limit, "{what}: {got} {expected}");
    };
    let mut compared = 0;
    for layer in expected {
        compared += 1;
        let amax = floats(&file, &format!("amax/{layer}"));
        for (i, expected) in amax.iter().enumerate() {
            let (run, step) = (i / steps, i % steps);
            let key = (layer.to_owned(), sigmas[step].to_bits());
            note("amax by step", by_run[run][&key], *expected, ROUNDING);
        }
        watch.with_capture(|capture| {
            let tap = &capture.taps[capture.layers[layer]];
            let whole = tap.whole();
            let values = integers(&file, &format!("values/{layer}"))[0] as u64;
            assert_eq!(whole.elements.total(), values, "{layer}");
            assert_eq!(whole.blocks.total(), values / 16, "{layer}");
            let exact = floats(&file, &format!("percentiles/{layer}"));
            let of_blocks = floats(&file, &format!("block_percentiles/{layer}"));
            for (i, percent) in percents.iter().enumerate() {
                let share = percent.parse::<f64>().unwrap() / 100.0;
                let got = whole.elements.quantile(share).unwrap();
                note("percentile", got, exact[i], 0.01);
                let got = whole.blocks.quantile(share).unwrap();
                note("percentile of blocks", got, of_blocks[i], 1.0 / 32.0);
            }
            let amax = floats(&file, &format!("bin_amax/{layer}"));
            let values = integers(&file, &format!("bin_values/{layer}"));
            for (level, tally) in tap.levels.iter().enumerate() {
                let tally = tally.as_ref().unwrap();
                note("amax by sixth", tally.amax, amax[level], ROUNDING);
                assert_eq!(tally.elements.total(), values[level] as u64, "{layer}");
            }
            assert_eq!(tap.samples.values().sum::<u64>(), runs.len() as u64);
        });
    }
    // What diffusers runs and nobody reads is the only difference.
    let not_run: Vec<String> = serde_json::from_str(&said["not_in_engine"]).unwrap();
    watch.with_capture(|capture| assert_eq!(capture.layers.len(), compared));
    assert_eq!(compared + not_run.len(), layers.len());
    println!("largest relative differences over {compared} layers: {worst:#?}");
}

/// 60 blocks: 846 linears, of which 840 in blocks. The memory is that of the counts, and samples do not add to it.
#[test]
fn memory_is_fixed_at_full_size() {
    let tensor = |k: usize| Tensor::ones((3, k), candle_core::DType::F32, &Device::Cpu).unwrap();
    let groups = |i: usize| -> Vec<Vec<String>> {
        let b = |name: &str| format!("transformer_blocks.{i}.{name}");
        let each = |names: &[&str]| names.iter().map(|n| b(n)).collect::<Vec<_>>();
        vec![
            each(&["attn.to_q", "attn.to_k", "attn.to_v"]),
            each(&["attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"]),
            each(&["attn.to_out.0"]),
            each(&["attn.to_add_out"]),
            each(&["img_mlp.net.0.proj"]),
            each(&["img_mlp.net.2"]),
            each(&["txt_mlp.net.0.proj"]),
            each(&["txt_mlp.net.2"]),
        ]
    };
    let mods: Vec<String> = (0..60)
        .flat_map(|i| ["img_mod.1", "txt_mod.1"].map(|m| format!("transformer_blocks.{i}.{m}")))
        .chain(["norm_out.linear".to_owned()])
        .collect();
    let single = ["img_in", "txt_in", "proj_out"].map(|l| vec![l.to_owned()]);
    let embedder =
        ["1", "2"].map(|n| vec![format!("time_text_embed.timestep_embedder.linear_{n}")]);
    let all: Vec<Vec<String>> = [mods]
        .into_iter()
        .chain(single)
        .chain(embedder)
        .chain((0..60).flat_map(groups))
        .collect();
    let watch = Watch::new(all.concat(), Capture::default());
    let mut sizes = Vec::new();
    for _sample in 0..3 {
        for sixth in 0..6 {
            watch.noise_levels(&[1.0 - (sixth as f32 + 0.5) / 6.0]);
            for group in &all {
                let x = tensor(16);
                group.iter().for_each(|layer| watch.linear_input(layer, &x));
            }
        }
        watch.end_sample().unwrap();
        sizes.push(watch.with_capture(|capture| capture.bytes()));
    }
    let layers = watch.with_capture(|capture| capture.layers.len());
    println!("{layers} linears: {:.1} MB", sizes[0] as f64 / 1e6);
    assert_eq!(layers, 846);
    assert!(sizes[0] < 128_000_000 && sizes.iter().all(|s| *s == sizes[0]));
    assert_eq!((Elements::BINS, Blocks::BINS), (48 * 64 + 2, 48 * 16 + 2));
}
