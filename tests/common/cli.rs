//! The program as a child process in a folder of its own.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use tempfile::TempDir;

/// A prompt that the tiny model knows.
pub const PROMPT: &str = "a large red star above a small blue circle on a plain yellow background";

pub fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_qwen-nvfp4"));
    command.env_remove("RUST_LOG").stdin(Stdio::null());
    command
}

pub fn run(dir: &TempDir, args: &[&str]) -> Output {
    program()
        .args(args)
        .current_dir(dir.path())
        .output()
        .unwrap()
}

pub fn tiny() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("models/tiny/qwen-tiny-aio-fp8.safetensors")
}

pub fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

pub fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// Runs and expects success.
pub fn done(dir: &TempDir, args: &[&str]) -> Output {
    let output = run(dir, args);
    assert!(output.status.success(), "{args:?}: {}", stderr(&output));
    output
}

/// The files of a folder, sorted.
pub fn files(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// The tiny model by policy v3, FP8 and NVFP4 activations, as `v3.safetensors` in `dir`.
pub fn v3(dir: &TempDir) -> PathBuf {
    let line = [
        "convert",
        "tiny",
        "--policy",
        "v3",
        "--assume-unscaled",
        "-o",
        "v3.safetensors",
    ];
    done(dir, &line);
    dir.path().join("v3.safetensors")
}

/// Expects a failure with this code and these words.
pub fn refused(dir: &TempDir, code: i32, words: &[&str], args: &[&str]) {
    let output = run(dir, args);
    let message = stderr(&output);
    assert_eq!(output.status.code(), Some(code), "{args:?}: {message}");
    for word in words {
        assert!(message.contains(word), "{args:?}: no `{word}` in {message}");
    }
    assert!(!message.contains("panicked"), "{message}");
}

/// A file of `dir`.
pub fn read(dir: &TempDir, name: &str) -> Vec<u8> {
    fs::read(dir.path().join(name)).unwrap()
}

/// Two steps at the smallest size that has several tokens: a sample takes some milliseconds.
pub const QUICK: [&str; 4] = ["--steps", "2", "--sizes", "32x32"];

pub fn calibrate(dir: &TempDir, args: &[&str]) {
    done(dir, &[&["calibrate"], &QUICK[..], args].concat());
}
