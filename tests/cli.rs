//! The program as scripts and people meet it: files, JSON, help.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use common::cli::{PROMPT, done, files, program, run, stderr, stdout, tiny};
use serde_json::Value;
use tempfile::TempDir;

fn picture(path: PathBuf) -> (image::RgbImage, String) {
    let decoder = png::Decoder::new(std::io::BufReader::new(fs::File::open(&path).unwrap()));
    let info = decoder.read_info().unwrap();
    let latin = &info.info().uncompressed_latin1_text;
    let utf8 = &info.info().utf8_text;
    let text = latin
        .iter()
        .map(|chunk| (chunk.keyword.clone(), chunk.text.clone()))
        .chain(
            utf8.iter()
                .map(|chunk| (chunk.keyword.clone(), chunk.get_text().unwrap())),
        )
        .find_map(|(keyword, text)| (keyword == "parameters").then_some(text))
        .unwrap();
    (image::open(&path).unwrap().to_rgb8(), text)
}

#[test]
fn a_picture_says_how_it_was_made() {
    let dir = TempDir::new().unwrap();
    let output = done(
        &dir,
        &[
            "generate",
            PROMPT,
            "--cfg",
            "1.5",
            "--negative",
            "a ring",
            "--seed",
            "7",
            "--steps",
            "2",
        ],
    );
    assert_eq!(stdout(&output), "out.png\n");
    let (pixels, text) = picture(dir.path().join("out.png"));
    assert_eq!(pixels.dimensions(), (64, 64));
    let (prompt, rest) = text.split_once('\n').unwrap();
    assert_eq!(prompt, PROMPT);
    assert!(rest.starts_with("Negative prompt: a ring\nSteps: 2, Sampler: euler, Schedule type: flow, CFG scale: 1.5, Seed: 7, Size: 64x64, Model: tiny, Model hash: "), "{rest}");
    for key in ["Policy: ", "Version: qwen-nvfp4 "] {
        assert!(rest.contains(key), "{rest}");
    }
    done(
        &dir,
        &[
            "generate",
            "ein schönes 星 ☆",
            "--steps",
            "1",
            "-o",
            "unicode.png",
            "-q",
        ],
    );
    let (_, text) = picture(dir.path().join("unicode.png"));
    assert!(text.starts_with("ein schönes 星 ☆\nSteps: 1"), "{text}");
}

/// The hash is what the A1111 web UI computes: of the tensors without the header, 12 digits.
#[test]
fn a_picture_names_its_adapters_with_their_hashes() {
    let dir = TempDir::new().unwrap();
    let models = tiny().parent().unwrap().to_owned();
    let [base, lora] = [
        "qwen-tiny-base-aio-fp8.safetensors",
        "qwen-tiny-palette-lora.safetensors",
    ]
    .map(|name| models.join(name).display().to_string());
    let renamed = dir.path().join("wow: \"so\", bold.safetensors");
    fs::copy(&lora, &renamed).unwrap();
    let renamed = format!("{}:0.5", renamed.display());
    done(
        &dir,
        &[
            "generate", PROMPT, "--steps", "1", "--model", &base, "--lora", &lora, "--lora",
            &renamed,
        ],
    );
    let (_, text) = picture(dir.path().join("out.png"));
    let expected = concat!(
        "Lora: qwen-tiny-palette-lora:1 wow: \"so\", bold:0.5, ",
        r#"Lora hashes: "qwen-tiny-palette-lora: 0b06b906e502, wow: \"so\", bold: 0b06b906e502", Policy: "#,
    );
    assert!(text.contains(expected), "{text}");
}

#[test]
fn json_is_one_document_and_nothing_else() {
    let dir = TempDir::new().unwrap();
    let output = done(
        &dir,
        &[
            "generate", PROMPT, "--json", "--steps", "3", "--batch", "2", "--seed", "5",
        ],
    );
    let report: Value = serde_json::from_str(&stdout(&output)).unwrap();
    let images = report["images"].as_array().unwrap();
    assert_eq!(images.len(), 2);
    for (k, image) in images.iter().enumerate() {
        assert_eq!(image["path"], format!("out-00{k}.png"));
        assert_eq!(image["seed"], 5 + k);
        assert_eq!(
            (image["width"].as_u64(), image["height"].as_u64()),
            (Some(64), Some(64))
        );
    }
    let timings = &report["timings"];
    assert_eq!(timings["steps_s"].as_array().unwrap().len(), 3);
    let total = timings["total_s"].as_f64().unwrap();
    for part in ["load_s", "text_encode_s", "decode_s"] {
        let seconds = timings[part].as_f64().unwrap();
        assert!(seconds > 0.0 && seconds < total, "{part}");
    }
    assert_eq!(report["device"], "cpu");
    for kernel in ["float8_e4m3fn", "nvfp4", "attention"] {
        assert!(report["kernels"].get(kernel).is_some(), "{kernel}");
    }
    if cfg!(target_os = "linux") {
        assert!(report["peak_rss_bytes"].as_u64().unwrap() > 1 << 20);
    }
}

#[test]
fn the_same_words_give_the_same_bytes_on_any_number_of_threads() {
    let dir = TempDir::new().unwrap();
    let bytes = |name: &str, extra: &[&str]| {
        let mut args = vec![
            "generate",
            PROMPT,
            "--sampler",
            "euler_ancestral",
            "-o",
            name,
            "-q",
        ];
        args.extend(extra);
        let output = done(&dir, &args);
        assert_eq!(
            (stdout(&output), stderr(&output)),
            (String::new(), String::new()),
            "-q is quiet"
        );
        fs::read(dir.path().join(name)).unwrap()
    };
    let first = bytes("a.png", &[]);
    assert_eq!(first, bytes("b.png", &[]));
    assert_eq!(first, bytes("c.png", &["--threads", "1"]));
    assert_eq!(first, bytes("d.png", &["--threads", "3"]));
    assert_ne!(first, bytes("e.png", &["--seed", "12"]));
}

#[test]
fn a_batch_is_its_single_pictures() {
    let dir = TempDir::new().unwrap();
    fs::write(
        dir.path().join("prompts.txt"),
        format!("{PROMPT}\n\na small green ring at the top on a gradient pink background\n"),
    )
    .unwrap();
    done(
        &dir,
        &[
            "generate",
            "--prompts",
            "prompts.txt",
            "--batch",
            "2",
            "--seed",
            "4",
            "--cfg",
            "2",
            "-o",
            "many/p.png",
        ],
    );
    assert_eq!(
        files(&dir.path().join("many")),
        ["p-000.png", "p-001.png", "p-002.png", "p-003.png"]
    );
    for (k, (prompt, seed)) in [
        (PROMPT, "4"),
        (PROMPT, "5"),
        (
            "a small green ring at the top on a gradient pink background",
            "4",
        ),
        (
            "a small green ring at the top on a gradient pink background",
            "5",
        ),
    ]
    .into_iter()
    .enumerate()
    {
        done(
            &dir,
            &[
                "generate", prompt, "--seed", seed, "--cfg", "2", "-o", "one.png",
            ],
        );
        let one = picture(dir.path().join("one.png"));
        let of_batch = picture(dir.path().join(format!("many/p-00{k}.png")));
        assert!(
            one == of_batch,
            "picture {k} differs from the one made alone: {} {}",
            one.1,
            of_batch.1
        );
    }
}

#[test]
fn latents_go_out_and_come_in() {
    let dir = TempDir::new().unwrap();
    done(
        &dir,
        &[
            "generate",
            PROMPT,
            "--steps",
            "2",
            "--save-latents",
            "end.safetensors",
            "--preview",
            "steps",
            "-o",
            "a.png",
        ],
    );
    let bytes = fs::read(dir.path().join("end.safetensors")).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let view = file.tensor("latents").unwrap();
    assert_eq!(
        (view.dtype(), view.shape()),
        (safetensors::Dtype::F32, &[1, 16, 8, 8][..])
    );
    assert_eq!(files(&dir.path().join("steps")).len(), 2);
    done(
        &dir,
        &[
            "generate",
            PROMPT,
            "--steps",
            "1",
            "--latents",
            "end.safetensors",
            "-o",
            "b.png",
        ],
    );

    let values = vec![f32::NAN; 16 * 8 * 8];
    let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
    let view =
        safetensors::tensor::TensorView::new(safetensors::Dtype::F32, vec![1, 16, 8, 8], &bytes)
            .unwrap();
    safetensors::serialize_to_file(
        [("latents", view)],
        None,
        &dir.path().join("nan.safetensors"),
    )
    .unwrap();
    let output = run(
        &dir,
        &[
            "generate",
            PROMPT,
            "--latents",
            "nan.safetensors",
            "-o",
            "c.png",
        ],
    );
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("value 0 of `latents` is NaN"));
    assert!(!dir.path().join("c.png").exists());
}

#[test]
fn empty_prompts_are_drawn_and_long_ones_say_what_was_cut() {
    let dir = TempDir::new().unwrap();
    done(&dir, &["generate", "--steps", "1", "-o", "nothing.png"]);
    done(&dir, &["generate", "", "--steps", "1", "-o", "empty.png"]);
    assert_eq!(
        fs::read(dir.path().join("nothing.png")).unwrap(),
        fs::read(dir.path().join("empty.png")).unwrap()
    );
    let long = format!("{} the very last words", "a large red star ".repeat(400));
    let output = done(&dir, &["generate", &long, "--steps", "1"]);
    assert!(
        stderr(&output).contains("cut off") && stderr(&output).contains("the very last words"),
        "{}",
        stderr(&output)
    );
}

#[test]
fn every_command_explains_itself_with_an_example() {
    let dir = TempDir::new().unwrap();
    for command in ["generate", "inspect"] {
        let help = stdout(&done(&dir, &[command, "--help"]));
        assert!(
            help.contains("Example") && help.contains(&format!("qwen-nvfp4 {command} ")),
            "{help}"
        );
    }
    assert!(stdout(&done(&dir, &["--version"])).starts_with("qwen-nvfp4 "));
}

#[test]
fn verbose_tells_the_defaults() {
    let dir = TempDir::new().unwrap();
    let output = done(&dir, &["generate", PROMPT, "-v"]);
    for part in ["64", "8", "Euler", "Flow"] {
        assert!(
            stderr(&output).contains(part),
            "{part}: {}",
            stderr(&output)
        );
    }
}

/// Ctrl-C in the middle of the work: 130, and the folder is as it was.
#[cfg(unix)]
#[test]
fn an_interrupt_leaves_no_file() {
    let dir = TempDir::new().unwrap();
    let child = program()
        .args(["generate", PROMPT, "--steps", "10000", "--preview", "steps"])
        .current_dir(dir.path())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // Once there is a preview, the steps are under way.
    let steps = dir.path().join("steps");
    let start = std::time::Instant::now();
    while !steps.is_dir() || files(&steps).is_empty() {
        assert!(start.elapsed().as_secs() < 120, "the first step never came");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    let sent = Command::new("kill")
        .args(["-INT", &child.id().to_string()])
        .status()
        .unwrap();
    assert!(sent.success());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130), "{}", stderr(&output));
    assert!(stderr(&output).contains("interrupted"));
    assert_eq!(files(dir.path()), ["steps"]);
    assert!(
        files(&steps).iter().all(|name| name.ends_with(".png")),
        "{:?}",
        files(&steps)
    );
}
