//! A conversion that is killed, or runs out of disk, shows nothing under its final name unless it is whole.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use common::disk::Mounted;
use common::kill::Moments;
use tempfile::TempDir;

const KILLS: u32 = 50;

fn convert(target: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_qwen-nvfp4"));
    command
        .args(["convert", "tiny", "--policy", "v3", "--assume-unscaled"])
        .args(["--method", "amax", "--quiet", "-o"])
        .arg(target)
        .env_remove("RUST_LOG")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect()
}

/// SIGKILL at 50 random moments of the time that a conversion takes. `KILL_SEED=N` repeats those of a failure.
#[test]
fn a_killed_conversion_leaves_a_whole_file_or_none() {
    let dir = TempDir::new().unwrap();
    let good = dir.path().join("good.safetensors");
    let start = Instant::now();
    let output = convert(&good).output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    let whole = start.elapsed();
    let good = fs::read(&good).unwrap();

    let folder = dir.path().join("out");
    fs::create_dir(&folder).unwrap();
    let target = folder.join("v3.safetensors");
    let (mut finished, mut partials) = (0, 0);
    let mut moments = Moments::new();
    let seed = moments.seed;
    for i in 0..KILLS {
        let mut child = convert(&target).spawn().unwrap();
        let moment = moments.next(whole);
        let case = format!("kill {i} after {moment:?} of {whole:?}, KILL_SEED={seed}");
        std::thread::sleep(moment);
        child.kill().unwrap();
        child.wait().unwrap();
        if target.exists() {
            assert!(
                fs::read(&target).unwrap() == good,
                "{case}: the file is not whole"
            );
            fs::remove_file(&target).unwrap();
            finished += 1;
        }
        // What the run before left is gone once another has begun to write: never more than two.
        let left = names(&folder);
        assert!(left.len() <= 2, "{case}: {left:?}");
        for name in &left {
            let partial = name.starts_with(".v3.safetensors.") && name.ends_with(".partial");
            assert!(partial, "{case}: {name}");
        }
        partials += left.len();
    }
    println!(
        "{KILLS} kills, KILL_SEED={seed}: {finished} after the file had its name, partial files seen {partials}"
    );
    let output = convert(&target).output().unwrap();
    assert!(
        output.status.success(),
        "KILL_SEED={seed}: {}",
        stderr(&output)
    );
    assert_eq!(names(&folder), ["v3.safetensors"], "KILL_SEED={seed}");
    assert!(fs::read(&target).unwrap() == good, "KILL_SEED={seed}");
}

/// Ctrl-C: 130, and nothing is left.
#[test]
fn an_interrupted_conversion_leaves_nothing() {
    let dir = TempDir::new().unwrap();
    let target = dir.path().join("v3.safetensors");
    for signal in ["-INT", "-TERM"] {
        let child = convert(&target).args(["--threads", "1"]).spawn().unwrap();
        let start = Instant::now();
        while names(dir.path()).is_empty() {
            assert!(start.elapsed().as_secs() < 60, "it never began to write");
            std::thread::sleep(Duration::from_millis(1));
        }
        let id = child.id().to_string();
        let sent = Command::new("kill").args([signal, &id]).status().unwrap();
        let output = child.wait_with_output().unwrap();
        if output.status.success() {
            // It was faster than the signal.
            println!("{signal}: done before it came");
            fs::remove_file(&target).unwrap();
            continue;
        }
        assert!(sent.success());
        assert_eq!(output.status.code(), Some(130), "{}", stderr(&output));
        assert!(names(dir.path()).is_empty(), "{:?}", names(dir.path()));
    }
}

#[test]
fn a_full_disk_is_found_before_the_work() {
    let dir = TempDir::new().unwrap();
    let mounted = match Mounted::tmpfs(dir.path(), "1m") {
        Ok(mounted) => mounted,
        Err(reason) => {
            println!(
                "skipped: a tmpfs cannot be mounted here ({})",
                reason.trim()
            );
            return;
        }
    };
    let output = convert(&mounted.0.join("v3.safetensors")).output().unwrap();
    let message = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{message}");
    for part in ["v3.safetensors", "needs 12", "free some"] {
        assert!(message.contains(part), "{message}");
    }
    assert!(names(mounted.0).is_empty(), "{:?}", names(mounted.0));
}
