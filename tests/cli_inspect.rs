//! `inspect` as scripts meet it: exit codes and JSON.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::fs;

use common::cli::{done, run, stderr, stdout, tiny, v3};
use serde_json::Value;
use tempfile::TempDir;

#[test]
fn inspect_tells_sound_files_from_faulty_ones() {
    let dir = TempDir::new().unwrap();
    let tiny = tiny();
    let report: Value = serde_json::from_str(&stdout(&done(
        &dir,
        &["inspect", tiny.to_str().unwrap(), "--json"],
    )))
    .unwrap();
    for component in ["transformer", "text_encoder", "vae"] {
        assert!(
            report["components"].get(component).is_some(),
            "{component}: {report}"
        );
    }
    assert_eq!(report["faults"].as_array().unwrap().len(), 0);
    let whole = fs::read(&tiny).unwrap();
    fs::write(
        dir.path().join("cut.safetensors"),
        &whole[..whole.len() - 1000],
    )
    .unwrap();
    let output = run(&dir, &["inspect", "cut.safetensors", "--json"]);
    assert_eq!(output.status.code(), Some(3), "{}", stderr(&output));
    let report: Value = serde_json::from_str(&stdout(&output)).unwrap();
    assert!(!report["faults"].as_array().unwrap().is_empty());
}

/// Advice is no fault: what `convert` writes without calibration could be better, and works.
#[test]
fn inspect_gives_advice_without_failing() {
    let dir = TempDir::new().unwrap();
    let convert = "convert tiny --policy v3 --assume-unscaled --marker both -o made.safetensors";
    done(&dir, &convert.split(' ').collect::<Vec<_>>());
    let report = stdout(&done(&dir, &["inspect", "made.safetensors", "--json"]));
    let report: Value = serde_json::from_str(&report).unwrap();
    assert_eq!(report["faults"].as_array().unwrap().len(), 0);
    assert_eq!(report["advice"][0]["kind"], "no_input_scale");
    assert!(
        report["advice"][0]["message"].is_string() && report["advice"][0]["tensor"].is_string()
    );
    let text = stdout(&done(&dir, &["inspect", "made.safetensors", "--deep"]));
    let [faults, advice] = ["no faults", "advice:"].map(|part| text.find(part).unwrap());
    assert!(faults < advice, "{text}");
}

/// Without --deep the weights of a large file are not read.
#[test]
fn inspect_reads_weights_when_it_is_asked_to() {
    let dir = TempDir::new().unwrap();
    let mut bytes = fs::read(tiny()).unwrap();
    let weight = "model.diffusion_model.proj_out.weight";
    let (length, header) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
    let at = 8 + length + header.info(weight).unwrap().data_offsets.0;
    bytes[at + 3] = 0x7f;
    fs::write(dir.path().join("nan.safetensors"), bytes).unwrap();
    done(&dir, &["inspect", "nan.safetensors"]);
    let output = run(&dir, &["inspect", "nan.safetensors", "--deep", "--json"]);
    assert_eq!(output.status.code(), Some(3), "{}", stderr(&output));
    let report: Value = serde_json::from_str(&stdout(&output)).unwrap();
    assert_eq!(report["faults"][0]["kind"], "nan_weight");
    assert_eq!(report["faults"][0]["tensor"], weight);
    done(&dir, &["inspect", "tiny", "--deep"]);
}

#[test]
fn doctor_finds_every_kernel_sound() {
    let dir = TempDir::new().unwrap();
    let report: Value = serde_json::from_str(&stdout(&done(&dir, &["doctor", "--json"]))).unwrap();
    assert_eq!(report["faults"], 0);
    let checks = report["checks"].as_array().unwrap();
    assert!(checks.len() >= 9);
    assert!(checks.iter().all(|check| check["sound"] == true));
    let text = stdout(&done(&dir, &["doctor"]));
    assert!(
        text.contains("NVFP4 linear") && !text.contains("FAULT"),
        "{text}"
    );
}

#[test]
fn activations_are_quantized_as_the_user_says_and_reports_tell() {
    let dir = TempDir::new().unwrap();
    v3(&dir);
    let mut pictures = Vec::new();
    for how in ["static", "dynamic", "none"] {
        let output = done(
            &dir,
            &[
                "generate",
                "a large red star",
                "--model",
                "v3.safetensors",
                "--activations",
                how,
                "--json",
                "--steps",
                "2",
                "-o",
                "x.png",
            ],
        );
        let report: Value = serde_json::from_str(&stdout(&output)).unwrap();
        let nvfp4 = report["kernels"]["nvfp4"].as_str().unwrap();
        assert_eq!(nvfp4.contains("W4A4"), how != "none", "{nvfp4}");
        let png = std::fs::read(dir.path().join("x.png")).unwrap();
        let said = format!("Activations: {how}");
        let says = png.windows(said.len()).any(|w| w == said.as_bytes());
        assert_eq!(says, how != "static");
        pictures.push(png);
    }
    assert!(pictures[0] != pictures[2] && pictures[1] != pictures[2]);
}
