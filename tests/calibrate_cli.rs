//! `calibrate` on the command line: whatever interrupts or divides it, the file is the same; what cannot be right is refused.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::fs;
use std::path::Path;
use std::time::Instant;

use common::cli::{QUICK, calibrate, done, files, program, read, refused, stdout};
use common::kill::until_done;
use tempfile::TempDir;

#[test]
fn shards_add_up_to_the_whole_in_any_order() {
    let dir = TempDir::new().unwrap();
    let more = ["--samples", "7", "--cfg", "1,2.5", "--seed", "3"];
    calibrate(&dir, &[&more[..], &["-o", "whole.json"]].concat());
    for (first, names) in [(0, ["a0", "a1", "a2"]), (1, ["b1", "b2", "b3"])] {
        for (i, name) in names.iter().enumerate() {
            let shard = format!("{}/3", i + first);
            let threads = (i + 1).to_string();
            let last = ["--shard", &shard, "--threads", &threads, "-o", name];
            calibrate(&dir, &[&more[..], &last].concat());
        }
        let [a, b, c] = names;
        done(
            &dir,
            &[
                "calibrate",
                "merge",
                c,
                a,
                b,
                "-o",
                "merged.json",
                "--force",
            ],
        );
        assert!(
            read(&dir, "merged.json") == read(&dir, "whole.json"),
            "counted from {first}"
        );
    }
    // A sample must not count twice.
    let twice = ["calibrate", "merge", "a0", "b3", "-o", "m.json"];
    refused(&dir, 1, &["b3", "sample 0", "twice"], &twice);
    // Another plan makes another part.
    calibrate(
        &dir,
        &["--samples", "2", "--seed", "50", "-o", "other.json"],
    );
    done(
        &dir,
        &["calibrate", "merge", "a0", "other.json", "-o", "1.json"],
    );
    done(
        &dir,
        &["calibrate", "merge", "other.json", "a0", "-o", "2.json"],
    );
    assert!(read(&dir, "1.json") == read(&dir, "2.json"));
    let text = String::from_utf8(read(&dir, "1.json")).unwrap();
    assert!(text.contains(r#""samples":5"#), "{}", &text[..1500]);
}

/// SIGKILL at random moments, then `--resume`, again and again.
#[test]
fn a_killed_run_goes_on_to_the_same_file() {
    let dir = TempDir::new().unwrap();
    let line = ["--samples", "60"];
    let start = Instant::now();
    calibrate(&dir, &[&line[..], &["-o", "whole.json"]].concat());
    let whole = start.elapsed();
    let seed = until_done(whole, || {
        let mut command = program();
        command
            .arg("calibrate")
            .args(QUICK)
            .args(line)
            .args(["--resume", "--quiet", "-o", "again.json"])
            .current_dir(dir.path());
        command
    });
    assert!(
        read(&dir, "again.json") == read(&dir, "whole.json"),
        "seed {seed}"
    );
    assert_eq!(
        files(dir.path()),
        ["again.json", "whole.json"],
        "seed {seed}"
    );
    // More of the same.
    calibrate(&dir, &["--samples", "64", "-o", "more.json"]);
    calibrate(&dir, &["--samples", "64", "--resume", "-o", "again.json"]);
    assert!(read(&dir, "again.json") == read(&dir, "more.json"));
    // And nothing more to do.
    calibrate(&dir, &["--samples", "64", "--resume", "-o", "again.json"]);
    assert!(read(&dir, "again.json") == read(&dir, "more.json"));
}

#[test]
fn time_can_be_bounded() {
    let dir = TempDir::new().unwrap();
    let line = [
        "--samples",
        "100000",
        "--max-minutes",
        "0.005",
        "-o",
        "a.json",
        "--json",
    ];
    let output = done(&dir, &[&["calibrate"], &QUICK[..], &line].concat());
    let summary: serde_json::Value = serde_json::from_str(&stdout(&output)).unwrap();
    let (samples, missing) = (
        summary["samples"].as_u64().unwrap(),
        summary["missing"].as_u64().unwrap(),
    );
    assert!(samples > 0 && samples + missing == 100_000, "{summary}");
    assert_eq!(files(dir.path()), ["a.json", "a.json.partial"]);
    let asked = (samples + 2).to_string();
    calibrate(&dir, &["--samples", &asked, "--resume", "-o", "a.json"]);
    assert_eq!(files(dir.path()), ["a.json"]);
    calibrate(&dir, &["--samples", &asked, "-o", "b.json"]);
    assert!(read(&dir, "a.json") == read(&dir, "b.json"));
}

#[test]
fn what_is_there_is_never_lost() {
    let dir = TempDir::new().unwrap();
    calibrate(&dir, &["--samples", "2", "-o", "a.json"]);
    let before = read(&dir, "a.json");
    let base = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("models/tiny/qwen-tiny-base-aio-fp8.safetensors");
    let base = base.to_str().unwrap();
    fs::write(
        dir.path().join("one.txt"),
        "a small white ring in the center on a plain gray background\n",
    )
    .unwrap();
    let again = |more: &[&str], words: &[&str]| {
        let line = [
            &["calibrate"],
            &QUICK[..],
            &["--samples", "2", "-o", "a.json"],
            more,
        ]
        .concat();
        refused(&dir, 2, words, &line);
        assert!(read(&dir, "a.json") == before);
    };
    again(&[], &["a.json", "--resume", "--force"]);
    again(&["--resume", "--seed", "1"], &["another seed", "--force"]);
    again(
        &["--resume", "--prompts", "one.txt"],
        &["another set of prompts"],
    );
    again(&["--resume", "--cfg", "2"], &["guidance"]);
    again(&["--resume", "--model", base], &["another model"]);
    again(
        &["--resume", "--activations", "dynamic"],
        &["quantize activations"],
    );
    again(&["--resume", "--shard", "1/2"], &["sample 0", "--shard"]);
    again(
        &["--resume", "--samples", "1"],
        &["cannot be used multiple times"],
    );
    let fewer = [
        &["calibrate"],
        &QUICK[..],
        &["--samples", "1", "-o", "a.json", "--resume"],
    ]
    .concat();
    refused(&dir, 2, &["sample 1", "--samples"], &fewer);
    // A state that was cut short stays for whoever wants to look at it.
    for cut in [0, 1, 200, before.len() / 2, before.len() - 2] {
        fs::write(dir.path().join("a.json.partial"), &before[..cut]).unwrap();
        let line = [
            &["calibrate"],
            &QUICK[..],
            &["--samples", "3", "-o", "a.json", "--resume"],
        ]
        .concat();
        refused(&dir, 1, &["a.json.partial", "cut short"], &line);
        assert_eq!(read(&dir, "a.json.partial").len(), cut);
        assert!(read(&dir, "a.json") == before);
    }
    fs::remove_file(dir.path().join("a.json.partial")).unwrap();
    // Bytes that are not UTF-8, and a count that was changed.
    fs::write(dir.path().join("bad.json"), b"{\xff").unwrap();
    refused(
        &dir,
        1,
        &["bad.json"],
        &["calibrate", "merge", "bad.json", "-o", "m.json"],
    );
    let text = String::from_utf8(before.clone()).unwrap();
    let at = text.rfind(r#""amax":"#).unwrap() + 7;
    let harmed = format!("{}9{}", &text[..at], &text[at..]);
    fs::write(dir.path().join("bad.json"), harmed).unwrap();
    refused(
        &dir,
        1,
        &["bad.json", "damaged"],
        &["calibrate", "merge", "bad.json", "-o", "m.json"],
    );
    assert!(!dir.path().join("m.json").exists());
}

#[test]
fn wrong_input_is_refused_before_the_work() {
    let dir = TempDir::new().unwrap();
    fs::write(dir.path().join("empty.txt"), "\n  \n").unwrap();
    fs::write(dir.path().join("latin.txt"), b"caf\xe9\n").unwrap();
    fs::write(dir.path().join("plan.json"), r#"{"prompts": ["empty.txt"], "sizes": [[64, 64]], "steps": [2], "cfg": [1], "samples": 2}"#).unwrap();
    fs::write(
        dir.path().join("typo.json"),
        r#"{"prompts": [], "size": []}"#,
    )
    .unwrap();
    for (code, words, args) in [
        (
            2,
            &["empty.txt", "0 prompts"][..],
            &["--prompts", "empty.txt"][..],
        ),
        (
            1,
            &["latin.txt", "not UTF-8", "line 1"],
            &["--prompts", "latin.txt"],
        ),
        (1, &["nowhere.txt"], &["--prompts", "nowhere.txt"]),
        (2, &["empty.txt", "0 prompts"], &["--plan", "plan.json"]),
        (2, &["typo.json", "size"], &["--plan", "typo.json"]),
        (2, &["multiples of 16"], &["--sizes", "100x64"]),
        (2, &["0 steps"], &["--steps", "0"]),
        (2, &["guidance"], &["--cfg", "-1"]),
        (2, &["shard"], &["--shard", "3/2"]),
        (2, &["shard"], &["--shard", "half"]),
        (2, &["minutes"], &["--max-minutes", "0"]),
        (2, &["--samples"], &["--samples", "0"]),
        (
            1,
            &["nowhere.safetensors"],
            &["--observe-on", "nowhere.safetensors"],
        ),
        (2, &["folder"], &["-o", "./"]),
    ] {
        let mut line = [&["calibrate"], args].concat();
        if !args.contains(&"-o") {
            line.extend(["-o", "a.json"]);
        }
        refused(&dir, code, words, &line);
        assert!(!dir.path().join("a.json").exists());
    }
    refused(&dir, 2, &["--output"], &["calibrate"]);
}

/// The numbers of a NaN weight reach no file, and the message names the layer.
#[test]
fn a_damaged_model_is_named() {
    let dir = TempDir::new().unwrap();
    let mut bytes = fs::read(common::cli::tiny()).unwrap();
    let header = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
    let name = "model.diffusion_model.transformer_blocks.3.img_mlp.net.0.proj.weight";
    let (from, _) = header.1.info(name).unwrap().data_offsets;
    bytes[header.0 + 8 + from + 11] = 0x7f;
    fs::write(dir.path().join("nan.safetensors"), bytes).unwrap();
    let line = [
        &["calibrate", "--model", "nan.safetensors"],
        &QUICK[..],
        &["--samples", "2", "-o", "a.json"],
    ]
    .concat();
    refused(
        &dir,
        1,
        &[
            "sample 0",
            "step 1",
            "transformer_blocks.3.img_mlp.net.0.proj",
            "inspect",
        ],
        &line,
    );
    assert_eq!(files(dir.path()), ["nan.safetensors"]);
}

/// A plan file draws; the same file and seed draw the same.
#[test]
fn plans_are_reproducible() {
    let dir = TempDir::new().unwrap();
    fs::write(dir.path().join("p.txt"), "a large red star in the center on a plain blue background\na small white ring at the top on a striped gray background\n").unwrap();
    fs::write(dir.path().join("plan.json"), r#"{"prompts": ["p.txt"], "sizes": [[32, 32], [48, 32]], "steps": [1, 2], "cfg": [1, 3], "samples": 5}"#).unwrap();
    for name in ["a.json", "b.json"] {
        done(&dir, &["calibrate", "--plan", "plan.json", "-o", name]);
    }
    assert!(read(&dir, "a.json") == read(&dir, "b.json"));
    let file: serde_json::Value = serde_json::from_slice(&read(&dir, "a.json")).unwrap();
    let part = &file["run"]["parts"][0];
    assert_eq!(part["plan"], "drawn");
    assert_eq!(part["done"], serde_json::json!([[0, 4]]));
    assert_eq!(part["sizes"], serde_json::json!(["32x32", "48x32"]));
}
