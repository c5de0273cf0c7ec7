//! Noise levels equal diffusers' and ComfyUI's; samplers make of a toy model what ComfyUI's make of it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;

use candle_core::Tensor;
use qwen_nvfp4::model::config::SchedulerConfig;
use qwen_nvfp4::pipeline::PipelineError;
use qwen_nvfp4::pipeline::latents::LatentShape;
use qwen_nvfp4::pipeline::sampler::{Sampler, Walk};
use qwen_nvfp4::pipeline::schedule::{Schedule, ScheduleKind};
use serde::Deserialize;

#[derive(Deserialize)]
struct Levels {
    kind: String,
    steps: usize,
    shift: Option<f64>,
    tokens: usize,
    terminal: Option<f64>,
    sigmas: Vec<f32>,
}

#[derive(Deserialize)]
struct Case {
    sampler: String,
    kind: String,
    shift: Option<f64>,
    steps: usize,
    seed: u64,
    out: Vec<f32>,
}

fn kind(name: &str) -> ScheduleKind {
    ScheduleKind::NAMES
        .iter()
        .find(|(n, _)| *n == name)
        .unwrap()
        .1
}

#[test]
fn schedules_equal_diffusers_and_comfyui() {
    let cases: Vec<Levels> =
        serde_json::from_str(include_str!("fixtures/sampling/schedules.json")).unwrap();
    let mut worst = BTreeMap::<&str, f32>::new();
    for case in &cases {
        let config = SchedulerConfig {
            shift_terminal: case.terminal,
            ..SchedulerConfig::default()
        };
        let got = Schedule::new(
            kind(&case.kind),
            case.steps,
            case.shift,
            &config,
            case.tokens,
        )
        .unwrap();
        let about = format!(
            "{} {} steps, shift {:?}, {} tokens",
            case.kind, case.steps, case.shift, case.tokens
        );
        assert_eq!(got.sigmas.len(), case.sigmas.len(), "{about}");
        for (a, b) in got.sigmas.iter().zip(&case.sigmas) {
            let entry = worst.entry(&case.kind).or_default();
            *entry = entry.max((a - b).abs());
            let limit = match case.kind.as_str() {
                "flow" | "simple" | "beta" => 0.0,
                // ComfyUI may end just above 0, which is as good as 0 to it; ours ends in 0.
                "normal" if (1e-9..1e-5).contains(b) => 1e-5,
                // torch.linspace rounds by the width of the machine's vectors.
                _ => 2e-7,
            };
            assert!((a - b).abs() <= limit, "{about}: {a} instead of {b}");
        }
    }
    println!("{} schedules, largest differences {worst:?}", cases.len());
}

#[test]
fn explicit_levels_must_fall() {
    for bad in [
        &[][..],
        &[0.0],
        &[1.0, 1.0],
        &[0.5, 0.7],
        &[1.5, 0.2],
        &[0.5, -0.1],
        &[f32::NAN],
    ] {
        assert!(Schedule::explicit(bad.to_vec()).is_err(), "{bad:?}");
    }
    let good = Schedule::explicit(vec![1.0, 0.5, 0.0]).unwrap();
    assert_eq!(good, Schedule::explicit(vec![1.0, 0.5]).unwrap());
    assert_eq!(
        (good.sigmas.as_slice(), good.steps()),
        (&[1.0, 0.5, 0.0][..], 2)
    );
}

#[test]
fn no_steps_and_bad_shifts_are_refused() {
    let config = SchedulerConfig::default();
    for (steps, shift) in [
        (0, None),
        (4, Some(0.0)),
        (4, Some(f64::NAN)),
        (4, Some(-1.0)),
    ] {
        let error = Schedule::new(ScheduleKind::Simple, steps, shift, &config, 16).unwrap_err();
        assert!(matches!(error, PipelineError::Request(_)), "{error}");
    }
}

struct Toy;

impl Walk for Toy {
    fn velocity(&mut self, x: &Tensor, sigma: f32) -> Result<Tensor, PipelineError> {
        let curve = (x.tanh()? * 0.5)?;
        Ok(((curve + (x * (0.3 * f64::from(sigma)))?)? - 0.2)?)
    }
}

#[test]
fn samplers_equal_comfyui() {
    let cases: Vec<Case> =
        serde_json::from_str(include_str!("fixtures/sampling/samplers.json")).unwrap();
    let shape = LatentShape {
        channels: 16,
        height: 4,
        width: 6,
    };
    let mut worst = BTreeMap::<&str, f32>::new();
    for case in &cases {
        let sampler = Sampler::NAMES
            .iter()
            .find(|(n, _)| *n == case.sampler)
            .unwrap()
            .1;
        let schedule = Schedule::new(
            kind(&case.kind),
            case.steps,
            case.shift,
            &SchedulerConfig::default(),
            0,
        )
        .unwrap();
        let x = shape.noise(&[case.seed]).unwrap();
        let out = sampler.run(x, &schedule, &[case.seed], &mut Toy).unwrap();
        let out: Vec<f32> = out.flatten_all().unwrap().to_vec1().unwrap();
        let rms = (case.out.iter().map(|v| v * v).sum::<f32>() / case.out.len() as f32).sqrt();
        let largest = out
            .iter()
            .step_by(7)
            .zip(&case.out)
            .map(|(a, b)| (a - b).abs() / rms)
            .fold(0.0, f32::max);
        let entry = worst.entry(&case.sampler).or_default();
        *entry = entry.max(largest);
        assert!(
            largest < 5e-5,
            "{} with {} {}: {largest:e}",
            case.sampler,
            case.kind,
            case.steps
        );
    }
    assert_eq!(worst.len(), Sampler::NAMES.len());
    println!("largest difference over the rms: {worst:?}");
}
