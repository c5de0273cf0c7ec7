//! `sensitivity` on the command line: what is ranked is what a conversion does, what is suggested can be converted, and what
//! cannot be measured is refused.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::fs;
use std::path::Path;

use common::cli::{PROMPT, done, files, run, stderr, stdout};
use qwen_nvfp4::bench::sensitivity::groups::policy_json;
use qwen_nvfp4::bench::teacher::{Teacher, velocity_errors};
use qwen_nvfp4::checkpoint::ModelSource;
use qwen_nvfp4::context::Cx;
use qwen_nvfp4::pipeline::Engine;
use qwen_nvfp4::pipeline::request::{Request, Settings};
use serde_json::Value;
use tempfile::TempDir;

/// Two steps at a size of four tokens.
const QUICK: [&str; 5] = ["sensitivity", "--steps", "2", "--size", "32x32"];

fn with_prompts(prompts: &[&str]) -> TempDir {
    let dir = TempDir::new().unwrap();
    fs::write(dir.path().join("prompts.txt"), prompts.join("\n")).unwrap();
    dir
}

fn two() -> TempDir {
    with_prompts(&[
        PROMPT,
        "a small green ring on the left on a striped pink background",
    ])
}

fn measured(dir: &TempDir, args: &[&str]) -> Value {
    let more = ["--prompts", "prompts.txt", "--json"];
    let output = done(dir, &[&QUICK[..], &more, args].concat());
    serde_json::from_str(&stdout(&output)).unwrap()
}

#[test]
fn a_policy_is_found_that_can_be_converted() {
    let dir = two();
    let args = ["--by", "type", "--suggest", "--budget", "0.8", "-o", "out"];
    let found = measured(&dir, &args);
    // Nothing of the conversions is left.
    let names = ["sensitivity.json", "sensitivity.md", "suggested.json"];
    assert_eq!(files(&dir.path().join("out")), names);
    let file = fs::read_to_string(dir.path().join("out/sensitivity.json")).unwrap();
    assert_eq!(serde_json::from_str::<Value>(&file).unwrap(), found);

    let groups = found["groups"].as_array().unwrap();
    assert_eq!(groups.len(), 14);
    let added = groups.iter().map(|g| g["added"].as_f64().unwrap());
    assert!(added.is_sorted_by(|a, b| a >= b));
    let layers = groups.iter().map(|g| g["layers"].as_u64().unwrap());
    // 12 blocks of 14, less the last one's add_q_proj, to_add_out and txt_mlp, which never run.
    assert_eq!(layers.sum::<u64>(), 12 * 14 - 4);
    let error = |v: &Value| v["velocity_rel_err"].as_f64().unwrap();
    assert!(0.0 < error(&found["fp8"]) && error(&found["fp8"]) < error(&found["v3"]));

    let suggestion = &found["suggestion"];
    let [chosen, limit, v3] = ["on_first", "limit", "v3_on_first"].map(|k| suggestion[k].as_f64());
    assert!(chosen <= limit && limit == v3.map(|v3| 0.8 * v3));
    assert_eq!(suggestion["budget_kept"], true);
    assert!(suggestion["checked"]["beats_v3"].is_boolean());
    let report = fs::read_to_string(dir.path().join("out/sensitivity.md")).unwrap();
    for group in groups {
        assert!(report.contains(group["name"].as_str().unwrap()));
    }
    assert!(report.contains("beats v3") || report.contains("not beat v3"));

    let policy = "out/suggested.json";
    let plan = [
        "convert",
        "tiny",
        "--assume-unscaled",
        "--policy",
        policy,
        "--dry-run",
        "--json",
    ];
    let plan: Value = serde_json::from_str(&stdout(&done(&dir, &plan))).unwrap();
    assert_eq!(plan["counts"]["nvfp4"], suggestion["nvfp4_layers"]);

    let again = run(
        &dir,
        &[&QUICK[..], &["--prompts", "prompts.txt", "-o", "out"]].concat(),
    );
    assert_eq!(again.status.code(), Some(1));
    assert!(stderr(&again).contains("--force"), "{}", stderr(&again));
}

/// Times aside, and what they depend on.
fn without_times(found: &mut Value) {
    match found {
        Value::Object(map) => {
            map.retain(|key, _| {
                !key.ends_with("_s") && !["command", "environment"].contains(&key.as_str())
            });
            map.values_mut().for_each(without_times);
        }
        Value::Array(values) => values.iter_mut().for_each(without_times),
        _ => {}
    }
}

/// A group's row is what a file converted by a policy gives, whatever the number of threads.
#[test]
fn rows_are_those_of_conversions_for_any_number_of_threads() {
    let dir = with_prompts(&[PROMPT]);
    let [one, three] = ["1", "3"].map(|n| {
        let mut found = measured(&dir, &["--threads", n, "-o", n]);
        without_times(&mut found);
        found
    });
    assert!(one == three);

    let groups = one["groups"].as_array().unwrap();
    assert_eq!(groups.len(), 42);
    let group = groups.iter().find(|g| g["name"] == "attn.to_v 1/3");
    let layers = [0, 1, 2, 3].map(|n| format!("transformer_blocks.{n}.attn.to_v"));
    let v3 = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("configs/v3.json"));
    for (row, policy) in [
        (
            group.unwrap(),
            policy_json(&layers.each_ref().map(String::as_str), 12),
        ),
        (&one["fp8"], policy_json(&[], 12)),
        (&one["v3"], v3.unwrap()),
    ] {
        let by_step = row["by_step"].as_array().unwrap();
        let by_step: Vec<f64> = by_step.iter().map(|v| v.as_f64().unwrap()).collect();
        assert_eq!(by_step, errors_of(&dir, &policy));
    }
}

/// Velocity errors of the tiny model by `policy`, all of it converted and loaded.
fn errors_of(dir: &TempDir, policy: &str) -> Vec<f64> {
    fs::write(dir.path().join("p.json"), policy).unwrap();
    let convert = [
        "convert",
        "tiny",
        "--assume-unscaled",
        "--policy",
        "p.json",
        "--force",
    ];
    done(dir, &[&convert[..], &["-o", "p.safetensors"]].concat());
    let baseline = Engine::load(&ModelSource::Embedded).unwrap();
    let converted = Engine::load(&ModelSource::Files {
        model: dir.path().join("p.safetensors"),
        text_encoder: None,
        vae: None,
    });
    let request = Request {
        prompts: vec![PROMPT.to_owned()],
        negatives: None,
        seeds: vec![0],
        settings: Settings {
            width: 32,
            height: 32,
            steps: 2,
            ..baseline.defaults()
        },
        latents: None,
    };
    let cx = Cx::default();
    let lesson = Teacher::watch(&baseline, &request, &cx).unwrap();
    velocity_errors(&lesson, converted.unwrap().transformer(), &cx).unwrap()
}

#[test]
fn what_cannot_be_right_is_refused() {
    let dir = with_prompts(&[PROMPT]);
    fs::write(dir.path().join("none.txt"), "\n\n").unwrap();
    fs::write(dir.path().join("file"), "").unwrap();
    let p = ["--prompts", "prompts.txt"];
    let cases: [(i32, &str, &[&str]); 12] = [
        (2, "--prompts", &[]),
        (2, "0 prompts", &["--prompts", "none.txt"]),
        (1, "absent.txt", &["--prompts", "absent.txt"]),
        (2, "--by", &[p[0], p[1], "--by", "block"]),
        (2, "--suggest", &[p[0], p[1], "--budget", "1"]),
        (
            2,
            "a budget is",
            &[p[0], p[1], "--suggest", "--budget", "0"],
        ),
        (
            2,
            "a budget is",
            &[p[0], p[1], "--suggest", "--budget", "3h"],
        ),
        (2, "second", &[p[0], p[1], "--suggest"]),
        (1, "file", &[p[0], p[1], "-o", "file"]),
        (1, "c.json", &[p[0], p[1], "--calib", "c.json"]),
        (2, "--calib", &[p[0], p[1], "--calib-stat", "max"]),
        (
            1,
            "absent.safetensors",
            &[p[0], p[1], "--model", "absent.safetensors"],
        ),
    ];
    for (code, word, args) in cases {
        let output = run(&dir, &[&QUICK[..], args].concat());
        let message = stderr(&output);
        assert_eq!(output.status.code(), Some(code), "{args:?}: {message}");
        assert!(message.contains(word), "{args:?}: no `{word}` in {message}");
        assert!(!message.contains("panicked"), "{message}");
    }
    // No folder is made before it is known that there is work.
    assert_eq!(files(dir.path()), ["file", "none.txt", "prompts.txt"]);
}
