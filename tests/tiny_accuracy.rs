//! The embedded model draws what it is asked for: 100 prompts that were never trained on, 8 steps, no guidance.
//!
//! `cargo test --release --test tiny_accuracy -- --nocapture` prints the table of the model card;
//! `QWEN_NVFP4_SCORE=FILE` before it adds another tiny model's.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use qwen_nvfp4::bench::scorer::{Pixels, Scene, compare, read, table};
use qwen_nvfp4::checkpoint::ModelSource;
use qwen_nvfp4::context::Cx;
use qwen_nvfp4::pipeline::request::Request;
use qwen_nvfp4::pipeline::{Engine, Silent};

/// Everything right for so many of the 100 prompts at least.
const REQUIRED: usize = 95;

fn prompts() -> Vec<String> {
    let text = include_str!("../models/tiny/held_out_prompts.txt");
    let lines = text
        .lines()
        .filter(|l| !l.is_empty() && !l.starts_with('#'));
    lines.map(str::to_owned).collect()
}

#[test]
fn the_embedded_model_draws_held_out_prompts_right() {
    score(&ModelSource::Embedded);
}

/// Any other of the tiny models: `QWEN_NVFP4_SCORE=FILE`.
#[test]
fn a_named_model_draws_held_out_prompts_right() {
    let Some(model) = std::env::var_os("QWEN_NVFP4_SCORE") else {
        return;
    };
    score(&ModelSource::Files {
        model: model.into(),
        text_encoder: None,
        vae: None,
    });
}

fn score(source: &ModelSource) {
    let engine = Engine::load(source).unwrap();
    let settings = engine.defaults();
    assert_eq!((settings.steps, settings.cfg), (8, 1.0));
    let prompts = prompts();
    assert_eq!(prompts.len(), 100);
    let mut verdicts = Vec::new();
    for (seed, prompt) in prompts.iter().enumerate() {
        let request = Request {
            prompts: vec![prompt.clone()],
            negatives: None,
            seeds: vec![seed as u64],
            settings: settings.clone(),
            latents: None,
        };
        let generated = engine
            .generate(&request, &Cx::default(), &mut Silent)
            .unwrap();
        let picture = &generated.pictures[0];
        let scene: Scene = prompt.parse().unwrap();
        let reading = read(&Pixels {
            width: picture.width,
            height: picture.height,
            rgb: picture.rgb.clone(),
        });
        let verdict = compare(&scene, &reading);
        if !verdict.all() {
            let wrong: Vec<_> = verdict
                .fields()
                .into_iter()
                .filter(|(_, right)| !right)
                .map(|(f, _)| f)
                .collect();
            println!("seed {seed}: {prompt}: wrong {}", wrong.join(", "));
        }
        verdicts.push((scene, verdict));
    }
    println!("{}", table(&verdicts));
    let right = verdicts.iter().filter(|(_, v)| v.all()).count();
    assert!(
        right >= REQUIRED,
        "{right} of 100 entirely right, {REQUIRED} are required"
    );
}
