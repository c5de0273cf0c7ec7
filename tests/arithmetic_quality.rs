//! What the arithmetic of each policy costs: the tiny model converted, its layers and velocities against those of the
//! FP8 file that it was converted from, whose activations are F32.
//!
//! Everything is teacher-forced: layers see the inputs that the baseline's layers saw, transformers the latents that the
//! baseline's sampler reached, so that no error feeds the next. `cargo test --test arithmetic_quality -- --nocapture`
//! prints the table.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "arithmetic_quality/measure.rs"]
mod measure;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use measure::{Baseline, Quality, mean, tiny, velocity_errors};
use qwen_nvfp4::checkpoint::Activations;
use qwen_nvfp4::context::Cancel;
use qwen_nvfp4::quantize::calibration::Calibration;
use qwen_nvfp4::quantize::plan::Options;
use qwen_nvfp4::quantize::{Monitor, Plan, Policy, Source, execute};
use safetensors::SafeTensors;

/// Every linear of the blocks that is FP8 in the source, in FP8.
const FP8: &str = r#"{"block_names": ["transformer_blocks"], "rules": [{"policy": "float8_e4m3fn", "match": [""]}]}"#;

/// Policies, from no layer in NVFP4 to all of them; v1 and v2 are v3 without its calibration.
const ORDER: [&str; 5] = ["fp8", "v5", "v4", "v3", "all-nvfp4"];

/// The tiny model by a policy.
fn convert(dir: &Path, name: &str, calibration: Option<&Calibration>) -> PathBuf {
    let policy = match name {
        "fp8" => Policy::parse(name, FP8).unwrap(),
        _ => Policy::built_in(name).unwrap().unwrap(),
    };
    let source = Source::open(&tiny()).unwrap();
    let options = Options {
        assume_unscaled: true,
        ..Options::default()
    };
    let stat = calibration.map_or("", |c| c.stat.as_str());
    let path = dir.join(format!("{name}{stat}.safetensors"));
    let plan = Plan::new(&source, &policy, calibration, &options).unwrap();
    let monitor = Monitor {
        cancel: Cancel::default(),
        done: &|_| {},
    };
    execute(&plan, &source, (&path, false), &monitor).unwrap();
    path
}

/// `model` with a layer's record taken away: its activations stay F32.
fn without_record(model: &Path, layer: &str) -> PathBuf {
    let bytes = std::fs::read(model).unwrap();
    let (_, header) = SafeTensors::read_metadata(&bytes).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let record = format!("model.diffusion_model.{layer}.comfy_quant");
    let kept = file.tensors().into_iter().filter(|(n, _)| *n != record);
    let path = model.with_extension(layer);
    safetensors::serialize_to_file(kept, header.metadata().clone(), &path).unwrap();
    path
}

/// Every run of the table by its name (`v3 static`, `v3 max static`).
struct Table(BTreeMap<String, Quality>);

impl Table {
    fn of(baseline: &Baseline, dir: &Path) -> Self {
        println!(
            "| policy, activations | NVFP4 layers | SQNR dB | least | FP8 layers | SQNR dB | least | \
             NVFP4 weights, F32 activations | SQNR dB | least | velocity error | by step |"
        );
        let mut table = Self(BTreeMap::new());
        let mut add = |name: &str, path: &Path, activations| {
            let quality = Quality::of(name, path, activations, baseline);
            println!("{}", quality.row());
            table.0.insert(quality.name.clone(), quality);
        };
        let max = baseline.calibration("max");
        for name in ORDER {
            let plain = convert(dir, name, None);
            for activations in [Activations::Static, Activations::Dynamic, Activations::None] {
                add(name, &plain, activations);
            }
            let path = convert(dir, name, Some(&max));
            add(&format!("{name} max"), &path, Activations::Static);
            if name == "v3" {
                let path = convert(dir, name, Some(&baseline.calibration("p99.9")));
                add("v3 p99.9", &path, Activations::Static);
            }
            if name == "fp8" {
                let path = without_record(&plain, "img_in");
                add("fp8 but img_in", &path, Activations::Static);
            }
        }
        table
    }

    fn get(&self, name: &str) -> &Quality {
        &self.0[name]
    }

    /// The error grows with the layers in NVFP4: at every step but the last, and over all of them.
    fn check_order(&self, mode: &str) {
        for pair in ORDER.windows(2) {
            let [fewer, more] = [pair[0], pair[1]].map(|p| self.get(&format!("{p} {mode}")));
            let (a, b) = (fewer.error(), more.error());
            assert!(a < b, "{} {a:.4}, {} {b:.4}", fewer.name, more.name);
            let last = fewer.velocity.len() - 1;
            for (step, (a, b)) in fewer.velocity.iter().zip(&more.velocity).enumerate() {
                if a < b {
                    continue;
                }
                // The last noise level is 0.02: all that quantization adds to latents is taken for noise, errors are half of
                // the velocity, and no order is left in them. The step is as short, so that pictures hardly show it.
                println!(
                    "step {}: {} {a:.4}, {} {b:.4}",
                    step + 1,
                    fewer.name,
                    more.name
                );
                assert_eq!(step, last, "the order is violated before the last step");
            }
        }
    }
}

#[test]
fn more_nvfp4_costs_more_and_no_more_than_theory_says() {
    let dir = tempfile::tempdir().unwrap();
    let baseline = Baseline::new();
    // The measure itself: the baseline is off by nothing.
    let exact = velocity_errors(&baseline.checkpoint, &baseline);
    assert!(exact.iter().all(|v| *v == 0.0), "{exact:?}");
    let table = Table::of(&baseline, dir.path());
    for mode in ["static", "dynamic", "none", "max static"] {
        table.check_order(mode);
    }

    // 72 = 12 blocks x 6; 170 linears run, all of them stored in FP8 at first.
    for (name, nvfp4) in [
        ("fp8", 0),
        ("v5", 36),
        ("v4", 48),
        ("v3", 72),
        ("all-nvfp4", 164),
    ] {
        for mode in ["static", "dynamic", "max static"] {
            let of = table.get(&format!("{name} {mode}"));
            assert_eq!(
                (of.nvfp4.len(), of.fp8.len()),
                (nvfp4, 170 - nvfp4),
                "{}",
                of.name
            );
            // Student-t(4) activations alone are 20.7 dB in NVFP4 and 31.5 dB in FP8; NVFP4 weights take as much again.
            assert!(
                of.nvfp4.iter().all(|v| (12.0..30.0).contains(v)),
                "{}: {:?}",
                of.name,
                of.nvfp4
            );
            assert!(
                of.fp8.iter().all(|v| (25.0..50.0).contains(v)),
                "{}: {:?}",
                of.name,
                of.fp8
            );
            let weights_only = table.get(&format!("{name} none"));
            assert_eq!(weights_only.nvfp4.len() + weights_only.fp8.len(), 0);
            assert_eq!(weights_only.widened.len(), nvfp4);
            assert!(of.error() > weights_only.error(), "{}", of.name);
            if nvfp4 > 0 {
                // Noise of weights and of activations adds up.
                let power = |db: f64| 10f64.powf(-db / 10.0);
                let weights = power(mean(weights_only.widened.iter().copied()));
                let expected = -10.0 * (weights + power(20.7)).log10();
                let found = mean(of.nvfp4.iter().copied());
                println!(
                    "{}: NVFP4 layers {found:.1} dB, {expected:.1} dB by theory",
                    of.name
                );
                assert!((found - expected).abs() < 3.0, "{}", of.name);
            }
        }
    }
    check_scales(&table);
}

/// How a scale is chosen hardly matters while nothing is clipped, and costs where a thousandth is.
fn check_scales(table: &Table) {
    let sqnr = |name: &str| {
        let of = table.get(name);
        [&of.nvfp4, &of.fp8].map(|v| mean(v.iter().copied()))
    };
    let [dynamic, max, clipped] = ["v3 dynamic", "v3 max static", "v3 p99.9 static"].map(sqnr);
    for format in 0..2 {
        assert!(
            (dynamic[format] - max[format]).abs() < 0.5,
            "{dynamic:?} {max:?}"
        );
        assert!(clipped[format] < max[format], "{clipped:?} {max:?}");
    }
    let [dynamic, max] = ["v3 dynamic", "v3 max static"].map(|name| table.get(name).error());
    assert!((dynamic / max - 1.0).abs() < 0.1, "{dynamic} {max}");
    // FP8 latents are off by 2.7 %, which the transformer takes for noise of its own level: the less noise there is, the
    // more that costs. With them in F32 half of the error at the end is gone.
    let [all, but_one] =
        ["fp8 static", "fp8 but img_in static"].map(|n| *table.get(n).velocity.last().unwrap());
    assert!(but_one < 0.7 * all, "{but_one} {all}");
}

/// They differ in nothing but their calibration.
#[test]
fn v1_v2_and_v3_are_alike_without_calibration() {
    let dir = tempfile::tempdir().unwrap();
    let tensors = ["v1", "v2", "v3"].map(|name| {
        let bytes = std::fs::read(convert(dir.path(), name, None)).unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let tensors = file.tensors().into_iter();
        let tensors = tensors.map(|(name, view)| (name, view.data().to_vec()));
        tensors.collect::<BTreeMap<_, _>>()
    });
    assert!(tensors[0] == tensors[1] && tensors[1] == tensors[2]);
}
