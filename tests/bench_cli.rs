//! `bench` on the command line: two prompts end to end, killed and gone on with, with rows that fail.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::fs;
use std::path::Path;
use std::time::Instant;

use common::cli::{done, program, run, stderr, stdout};
use common::kill::until_done;
use serde_json::Value;
use tempfile::TempDir;

fn results(dir: &TempDir, folder: &str) -> Value {
    let path = dir.path().join(folder).join("results.json");
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

/// Without what only the machine decides.
fn without_timings(mut results: Value) -> Value {
    for key in ["environment", "command"] {
        results[key] = Value::Null;
    }
    for row in results["variants"].as_object_mut().unwrap().values_mut() {
        let row = row.as_object_mut().unwrap();
        row.retain(|key, _| {
            !key.ends_with("_s")
                && !key.starts_with("speedup")
                && key != "peak_rss_bytes"
                && key != "kernels"
        });
        for picture in row["pictures"].as_array_mut().unwrap() {
            picture["seconds"] = Value::Null;
        }
    }
    results
}

#[test]
fn two_prompts_end_to_end() {
    let dir = TempDir::new().unwrap();
    let output = done(&dir, &["bench", "--limit", "2", "-o", "out", "--json"]);
    let results = results(&dir, "out");
    assert_eq!(
        serde_json::from_str::<Value>(&stdout(&output)).unwrap(),
        results
    );
    assert_eq!(results["baseline"], "fp8");
    assert_eq!(results["order"][0], "fp8");
    let variants = results["variants"].as_object().unwrap();
    assert_eq!(variants.len(), 11);
    for (name, row) in variants {
        assert_eq!(row["error"], Value::Null, "{name}");
        assert_eq!(row["images"], 2, "{name}");
        let number = |key: &str| row[key].as_f64().unwrap();
        for key in [
            "total_s",
            "avg_s",
            "median_s",
            "p95_s",
            "cold_start_s",
            "speedup",
            "file_bytes",
            "peak_rss_bytes",
        ] {
            assert!(number(key) > 0.0, "{name}: {key}");
        }
        let parts = row["parts_s"].as_object().unwrap();
        let sum: f64 = parts.values().map(|s| s.as_f64().unwrap()).sum();
        assert!(
            (sum / number("avg_s") - 1.0).abs() < 0.2,
            "{name}: parts {sum}, picture {}",
            number("avg_s")
        );
        for picture in row["pictures"].as_array().unwrap() {
            let file = dir
                .path()
                .join("out")
                .join(picture["file"].as_str().unwrap());
            let pixels = image::open(file).unwrap().into_rgb8();
            assert_eq!(pixels.dimensions(), (64, 64));
        }
        assert_eq!(
            row["quality"]["psnr_db"].is_number(),
            name != "fp8",
            "{name}"
        );
        assert!(row["quality"]["prompt_accuracy"].is_number(), "{name}");
    }
    // 168 linears of the blocks; the text encoder has 27 that ComfyUI keeps in FP8.
    let layers = |row: &str| {
        (
            variants[row]["layers"]["nvfp4"].as_u64().unwrap(),
            variants[row]["layers"]["float8_e4m3fn"].as_u64().unwrap(),
        )
    };
    assert_eq!(
        (layers("v3"), layers("v4"), layers("v5")),
        ((72, 75), (48, 99), (36, 111))
    );
    // Static and dynamic scales are different arithmetic, and so are the calibrations.
    let hash = |row: &str| variants[row]["pictures"][0]["sha256"].clone();
    let hashes: std::collections::BTreeSet<String> =
        ["fp8", "v1", "v2", "v3", "v3-dynamic", "v4", "v5"]
            .iter()
            .map(|r| hash(r).to_string())
            .collect();
    assert_eq!(hashes.len(), 7);
    for file in ["report.md", "report.html"] {
        assert!(dir.path().join("out").join(file).is_file(), "{file}");
    }
    // The cheaper arithmetic is the less exact one.
    let error = |row: &str| {
        variants[row]["quality"]["velocity_rel_err"]
            .as_f64()
            .unwrap()
    };
    assert!(
        error("fp8-w8a8") < error("v5")
            && error("v5") < error("v3")
            && error("v3") < error("all-nvfp4")
    );
    assert!(!results["findings"].as_array().unwrap().is_empty());
    // Another look needs --resume or --force.
    let again = run(&dir, &["bench", "--limit", "2", "-o", "out"]);
    assert_eq!(again.status.code(), Some(2));
    assert!(stderr(&again).contains("--resume"), "{}", stderr(&again));
}

const ROWS: [&str; 6] = ["bench", "--limit", "6", "--variants", "v1,v3", "-q"];

#[test]
fn results_depend_neither_on_threads_nor_on_interruptions() {
    let dir = TempDir::new().unwrap();
    let start = Instant::now();
    done(
        &dir,
        &[&ROWS[..], &["-o", "whole", "--threads", "2"]].concat(),
    );
    let whole = start.elapsed();
    let expected = without_timings(results(&dir, "whole"));
    done(
        &dir,
        &[&ROWS[..], &["-o", "one", "--threads", "1"]].concat(),
    );
    assert_eq!(without_timings(results(&dir, "one")), expected);

    let seed = until_done(whole, || {
        let mut command = program();
        command
            .args(ROWS)
            .args(["-o", "killed", "--resume", "--threads", "2"])
            .current_dir(dir.path());
        command
    });
    assert_eq!(
        without_timings(results(&dir, "killed")),
        expected,
        "seed {seed}"
    );
    // A journal of something else is not gone on with.
    let other = run(
        &dir,
        &[
            "bench",
            "--limit",
            "5",
            "--variants",
            "v1,v3",
            "-o",
            "killed",
            "--resume",
        ],
    );
    assert_eq!(other.status.code(), Some(1));
    assert!(stderr(&other).contains("--force"), "{}", stderr(&other));
}

#[test]
fn a_row_that_fails_does_not_stop_the_others() {
    let dir = TempDir::new().unwrap();
    let rows = r#"{"baseline": "mine", "variants": {
        "good": {"policy": "v5"},
        "no-policy": {"policy": "nowhere.json"},
        "no-calibration": {"policy": "v3", "calib": "nowhere.json"},
        "broken": {"policy": "broken.json"}
    }}"#;
    fs::write(dir.path().join("rows.json"), rows).unwrap();
    fs::write(
        dir.path().join("broken.json"),
        r#"{"block_names": [""], "rules": [{"policy": "nvfp4", "match": ["img_in"]}]}"#,
    )
    .unwrap();
    let output = run(
        &dir,
        &[
            "bench",
            "--limit",
            "1",
            "--variants",
            "rows.json",
            "-o",
            "out",
        ],
    );
    let message = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{message}");
    assert!(
        message.contains("3 rows failed") && message.contains("no-calibration"),
        "{message}"
    );
    let results = results(&dir, "out");
    assert_eq!(results["baseline"], "mine");
    for (row, images, word) in [
        ("mine", 1, ""),
        ("good", 1, ""),
        ("no-policy", 0, "nowhere.json"),
        ("no-calibration", 0, "nowhere.json"),
        ("broken", 0, "img_in"),
    ] {
        let of = &results["variants"][row];
        assert_eq!(of["images"], images, "{row}");
        match word {
            "" => assert_eq!(of["error"], Value::Null),
            _ => assert!(of["error"].as_str().unwrap().contains(word), "{of}"),
        }
    }
}

/// One scale of many is gone: nobody knows what it was.
#[test]
fn lost_scales_are_not_guessed() {
    let dir = TempDir::new().unwrap();
    let v3 = common::cli::v3(&dir);
    let bytes = fs::read(&v3).unwrap();
    let (_, header) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let lost = "model.diffusion_model.transformer_blocks.1.img_mod.1.weight_scale";
    let kept = file.tensors().into_iter().filter(|(name, _)| name != lost);
    let path = dir.path().join("lost.safetensors");
    safetensors::serialize_to_file(kept, header.metadata().clone(), &path).unwrap();
    let line = ["bench", "--limit", "1", "--variants", "v5", "-o", "out"];
    let output = run(
        &dir,
        &[&line[..], &["--model", "lost.safetensors"]].concat(),
    );
    let message = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{message}");
    assert!(
        message.contains("transformer_blocks.1.img_mod.1"),
        "{message}"
    );
}

#[test]
fn wrong_input_is_refused() {
    let dir = TempDir::new().unwrap();
    fs::write(
        dir.path().join("rows.json"),
        r#"{"baseline": "a", "variant": {}}"#,
    )
    .unwrap();
    fs::write(dir.path().join("file"), "").unwrap();
    for (code, words, args) in [
        (2, &["no row `v9`", "v1"][..], &["--variants", "v9"][..]),
        (1, &["rows.json", "variant"], &["--variants", "rows.json"]),
        (1, &["nowhere.txt"], &["--prompts", "nowhere.txt"]),
        (
            1,
            &["nowhere.safetensors"],
            &["--model", "nowhere.safetensors"],
        ),
        (2, &["multiples of 16"], &["--size", "100x64"]),
        (2, &["--limit"], &["--limit", "0"]),
        (1, &["file", "-o"], &["-o", "file/out"]),
    ] {
        let output = run(&dir, &[&["bench", "--limit", "1"], args].concat());
        let message = stderr(&output);
        assert_eq!(output.status.code(), Some(code), "{args:?}: {message}");
        assert!(
            words.iter().all(|w| message.contains(w)),
            "{args:?}: {message}"
        );
        assert!(!Path::new(&dir.path().join("bench-results/results.json")).exists());
    }
}

/// The F32 model's row is like any other, and every row is held against it.
#[test]
fn a_reference_is_a_second_yardstick() {
    let dir = TempDir::new().unwrap();
    done(
        &dir,
        &[
            "bench",
            "--limit",
            "2",
            "--variants",
            "v5",
            "--reference",
            "tiny",
            "--taught",
            "1",
            "-o",
            "out",
            "-q",
        ],
    );
    let results = results(&dir, "out");
    let of = |row: &str| results["variants"][row]["quality"]["against_f32"].clone();
    assert_eq!(
        (&of("fp8")["psnr_db"], &of("fp8")["ssim"]),
        (&Value::from(100.0), &Value::from(1.0))
    );
    assert_eq!(
        of("v5")["psnr_db"],
        results["variants"]["v5"]["quality"]["psnr_db"]
    );
    assert_eq!(of("f32"), serde_json::json!({}));
}
