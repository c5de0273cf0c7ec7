//! What is done with calibrations: conversion, flat files, captures of ComfyUI, and the committed ones.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::fs;
use std::path::Path;

use common::cli::{QUICK, calibrate, done, read, refused, stderr};
use tempfile::TempDir;

#[test]
fn conversion_takes_the_right_file_only() {
    let dir = TempDir::new().unwrap();
    calibrate(&dir, &["--samples", "3", "-o", "tiny.json"]);
    let base = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("models/tiny/qwen-tiny-base-aio-fp8.safetensors");
    calibrate(
        &dir,
        &[
            "--samples",
            "3",
            "--model",
            base.to_str().unwrap(),
            "-o",
            "base.json",
        ],
    );
    let convert = |more: &[&'static str]| {
        [
            &[
                "convert",
                "tiny",
                "--policy",
                "v3",
                "--assume-unscaled",
                "-o",
                "v3.safetensors",
            ],
            more,
        ]
        .concat()
    };
    // Another model's ranges are used on request only.
    refused(
        &dir,
        1,
        &["base.json", "qwen-tiny-base", "--foreign-calib"],
        &convert(&["--calib", "base.json"]),
    );
    done(&dir, &convert(&["--calib", "base.json", "--foreign-calib"]));
    // A layer set that differs.
    let text = String::from_utf8(read(&dir, "tiny.json")).unwrap();
    let without: Vec<&str> = text
        .lines()
        .filter(|l| !l.starts_with(r#""transformer_blocks.2.attn.to_q":"#))
        .collect();
    fs::write(dir.path().join("less.json"), without.join("\n")).unwrap();
    refused(
        &dir,
        1,
        &[
            "less.json",
            "transformer_blocks.2.attn.to_q",
            "another model",
        ],
        &convert(&["--calib", "less.json", "--force"]),
    );
    fs::write(
        dir.path().join("more.json"),
        text.replace(
            "transformer_blocks.2.attn.to_q",
            "transformer_blocks.99.attn.to_q",
        ),
    )
    .unwrap();
    refused(
        &dir,
        1,
        &[
            "more.json",
            "transformer_blocks.99.attn.to_q",
            "another model",
        ],
        &convert(&["--calib", "more.json", "--force"]),
    );
    refused(
        &dir,
        1,
        &["tiny.json", "no statistic"],
        &convert(&["--calib", "tiny.json", "--calib-stat", "mean", "--force"]),
    );

    // max does no harm, p99 does.
    let quiet = done(&dir, &convert(&["--calib", "tiny.json", "--force"]));
    assert!(!stderr(&quiet).contains("harms"), "{}", stderr(&quiet));
    let loud = done(
        &dir,
        &convert(&["--calib", "tiny.json", "--calib-stat", "p99", "--force"]),
    );
    assert!(
        stderr(&loud).contains("harms") && stderr(&loud).contains("clipped"),
        "{}",
        stderr(&loud)
    );

    // input_scale = amax / 2688 or amax / 448, of the statistic for that format.
    let v3 = |stat: &'static str| {
        done(
            &dir,
            &convert(&["--calib", "tiny.json", "--calib-stat", stat, "--force"]),
        );
        let bytes = read(&dir, "v3.safetensors");
        let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        ["attn.to_q", "img_mod.1"].map(|layer| {
            let name = format!("model.diffusion_model.transformer_blocks.4.{layer}.input_scale");
            f32::from_le_bytes(file.tensor(&name).unwrap().data().try_into().unwrap())
        })
    };
    let listed: serde_json::Value = serde_json::from_str(&text).unwrap();
    for stat in ["max", "p99.99", "mse", "headroom", "run-p99.9"] {
        let entry = |layer: &str, format: &str| {
            let layer = format!("transformer_blocks.4.{layer}");
            listed["layers"][&layer]["statistics"][stat][format]["amax"]
                .as_f64()
                .unwrap()
        };
        let expected = [
            entry("attn.to_q", "nvfp4") / 2688.0,
            entry("img_mod.1", "fp8") / 448.0,
        ];
        for (got, expected) in v3(stat).into_iter().zip(expected) {
            assert!(
                (f64::from(got) / expected - 1.0).abs() < 1e-6,
                "{stat}: {got} {expected}"
            );
        }
    }
    // The converted model can be observed in turn; the file says both.
    let line = [
        &["calibrate", "--observe-on", "v3.safetensors"],
        &QUICK[..],
        &["--samples", "2", "-o", "on.json"],
    ]
    .concat();
    done(&dir, &line);
    let on: serde_json::Value = serde_json::from_slice(&read(&dir, "on.json")).unwrap();
    assert_eq!(on["model"], listed["model"]);
    assert_eq!(on["observed"]["name"], "v3");
    assert_ne!(on["observed"]["fingerprint"], on["model"]["fingerprint"]);
    done(&dir, &convert(&["--calib", "on.json", "--force"]));
    refused(
        &dir,
        1,
        &["on.json", "observed"],
        &["calibrate", "merge", "tiny.json", "on.json", "-o", "m.json"],
    );
}

#[test]
fn flat_files_and_captures() {
    let dir = TempDir::new().unwrap();
    calibrate(&dir, &["--samples", "2", "-o", "a.json"]);
    done(
        &dir,
        &[
            "calibrate",
            "export",
            "a.json",
            "-o",
            "flat.json",
            "--stat",
            "p99.9",
        ],
    );
    let flat: serde_json::Value = serde_json::from_slice(&read(&dir, "flat.json")).unwrap();
    let listed: serde_json::Value = serde_json::from_slice(&read(&dir, "a.json")).unwrap();
    let layers = listed["layers"].as_object().unwrap();
    assert_eq!(flat.as_object().unwrap().len(), layers.len());
    assert!(
        layers
            .iter()
            .all(|(name, entry)| flat[name] == entry["percentiles"]["p99.9"])
    );
    let export = [
        "calibrate",
        "export",
        "a.json",
        "-o",
        "b.json",
        "--stat",
        "mse",
    ];
    refused(&dir, 2, &["--format"], &export);
    done(&dir, &[&export[..], &["--format", "fp8"]].concat());

    let sums = r#"{"layers": {"a.img_mod.1_bin0": {"amax": 20.3, "p99_9": 9, "count": 1}, "a.attn.to_q_bin0": {"amax": 300.11, "p99_9": 90, "count": 96.0}}}"#;
    fs::write(dir.path().join("CALIB_DATA.json"), sums).unwrap();
    let import = ["calibrate", "import", "CALIB_DATA.json", "-o", "in.json"];
    refused(&dir, 1, &["CALIB_DATA.json", "sums", "--calls"], &import);
    let output = done(&dir, &[&import[..], &["--calls", "20"]].concat());
    assert!(stderr(&output).contains("sums"), "{}", stderr(&output));
    let means: serde_json::Value = serde_json::from_slice(&read(&dir, "in.json")).unwrap();
    assert!((means["layers"]["a.attn.to_q"]["amax"].as_f64().unwrap() - 15.0055).abs() < 1e-4);
    let maxima = sums
        .replace(r#""count": 1}"#, r#""count": 12}"#)
        .replace("96.0", "12")
        .replace("20.3", "20.25")
        .replace("300.11", "300");
    fs::write(dir.path().join("CALIB_DATA.json"), maxima).unwrap();
    refused(&dir, 2, &["in.json", "--force"], &import);
    let output = done(&dir, &[&import[..], &["--force"]].concat());
    assert!(stderr(&output).contains("maxima"), "{}", stderr(&output));
    done(
        &dir,
        &[
            "calibrate",
            "export",
            "in.json",
            "-o",
            "flat2.json",
            "--stat",
            "p99.9",
        ],
    );
    refused(
        &dir,
        1,
        &["p99.99", "it has max, p99.9"],
        &[
            "calibrate",
            "export",
            "in.json",
            "-o",
            "flat3.json",
            "--stat",
            "p99.99",
        ],
    );
}

/// What `calibs/README.md` says made a file makes it again, up to the rounding of other machines' kernels.
#[test]
fn committed_calibrations_are_what_their_commands_make() {
    let dir = TempDir::new().unwrap();
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let listed = fs::read_to_string(root.join("calibs/README.md")).unwrap();
    let base = root.join("models/tiny/qwen-tiny-base-aio-fp8.safetensors");
    let base = base.to_str().unwrap();
    for (name, args) in [
        ("tiny-v2.json", &["--samples", "10"][..]),
        ("tiny-base.json", &["--model", base, "--samples", "10"]),
        ("tiny-p999.json", &["--samples", "53"]),
    ] {
        let samples = args.last().unwrap();
        let command = format!("--samples {samples} -o calibs/{name}");
        assert!(listed.contains(&command), "{command}");
        done(&dir, &[&["calibrate"], args, &["-o", name]].concat());
        let [made, there] = [dir.path().join(name), root.join("calibs").join(name)].map(|path| {
            serde_json::from_slice::<serde_json::Value>(&fs::read(path).unwrap()).unwrap()
        });
        for key in ["model", "observed", "run", "never_ran", "version"] {
            assert_eq!(made[key], there[key], "{name}: {key}");
        }
        let layers = there["layers"].as_object().unwrap();
        assert_eq!(layers.len(), 170);
        for (layer, entry) in layers {
            let amax = |of: &serde_json::Value| of["amax"].as_f64().unwrap();
            let ratio = amax(&made["layers"][layer]) / amax(entry);
            assert!((ratio - 1.0).abs() < 1e-4, "{name}: {layer} {ratio}");
        }
    }
    // 512 samples take too long here; what made them is in the file.
    let text = fs::read(root.join("calibs/tiny-512.json")).unwrap();
    let file: serde_json::Value = serde_json::from_slice(&text).unwrap();
    let part = &file["run"]["parts"][0];
    assert_eq!(
        (&file["run"]["samples"], &part["seed"]),
        (&512.into(), &1000.into())
    );
    assert_eq!(
        (&part["plan"], &part["prompts"]),
        (&"drawn".into(), &512.into())
    );
}
