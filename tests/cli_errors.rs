//! What goes wrong with arguments and files: exit codes, messages that say what to do, and nothing left behind.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::fs;

use common::cli::{files, run, stderr, stdout, tiny};
use common::disk::Mounted;
use tempfile::TempDir;

#[test]
fn wrong_arguments_are_named_before_any_work() {
    let dir = TempDir::new().unwrap();
    for (args, part) in [
        (
            &["generate", "x", "--size", "100x64"][..],
            "nearest are 96 and 112",
        ),
        (&["generate", "x", "--size", "64"], "WIDTHxHEIGHT"),
        (&["generate", "x", "--size", "0x64"], "multiples of 16"),
        (&["generate", "x", "--steps", "0"], "0 steps"),
        (&["generate", "x", "--steps", "-3"], "--steps"),
        (&["generate", "x", "--steps", "many"], "many"),
        (&["generate", "x", "--cfg", "nan"], "guidance"),
        (&["generate", "x", "--cfg", "-1"], "guidance"),
        (&["generate", "x", "--sampler", "magic"], "euler_ancestral"),
        (&["generate", "x", "--schedule", "magic"], "beta"),
        (&["generate", "x", "--sigmas", "0.5,0.7"], "sigmas"),
        (&["generate", "x", "--batch", "0"], "--batch"),
        (&["generate", "x", "--threads", "0"], "--threads"),
        (&["generate", "x", "--threads", "60000"], "1..=1024"),
        (&["generate", "x", "--device", "tpu"], "cuda"),
        (&["generate", "x", "--lora", "a:nan"], "--lora"),
        (&["generate", "x", "--prompts", "p.txt"], "--prompts"),
        (&["generate", "x", "-o", "."], "folder"),
        (&["paint"], "paint"),
        (&[], "Usage"),
    ] {
        let output = run(&dir, args);
        assert_eq!(
            output.status.code(),
            Some(2),
            "{args:?}: {}",
            stderr(&output)
        );
        let message = stderr(&output).to_lowercase();
        assert!(
            message.contains(&part.to_lowercase()),
            "{args:?}: `{part}` is not in: {message}"
        );
        assert!(output.stdout.is_empty(), "{args:?}");
    }
    assert!(files(dir.path()).is_empty(), "{:?}", files(dir.path()));
}

#[test]
fn failures_leave_no_picture() {
    let dir = TempDir::new().unwrap();
    fs::write(dir.path().join("file"), "not a folder").unwrap();
    fs::write(dir.path().join("text.safetensors"), "not a model").unwrap();
    for (args, part) in [
        (
            &["--model", "missing.safetensors"][..],
            "missing.safetensors",
        ),
        (&["--model", "text.safetensors"], "text.safetensors"),
        (&["--lora", "missing.safetensors"], "missing.safetensors"),
        (&["--latents", "missing.safetensors"], "missing.safetensors"),
        (&["-o", "file/out.png"], "file"),
        (&["--device", "cuda"], "cuda"),
    ] {
        let output = run(&dir, &[&["generate", "x"], args].concat());
        assert_eq!(
            output.status.code(),
            Some(1),
            "{args:?}: {}",
            stderr(&output)
        );
        assert!(
            stderr(&output).contains(part),
            "{args:?}: {}",
            stderr(&output)
        );
    }
    assert_eq!(files(dir.path()), ["file", "text.safetensors"]);
}

/// A report that cannot be written is found before the work, not after it.
#[test]
fn a_conversion_tries_its_report_first() {
    let dir = TempDir::new().unwrap();
    fs::write(dir.path().join("file"), "not a folder").unwrap();
    let convert = |report: &str| {
        let mut args = vec!["convert", "tiny", "--policy", "v3", "--assume-unscaled"];
        args.extend(["-o", "v3.safetensors", "--report", report]);
        run(&dir, &args)
    };
    for (report, code) in [("file/report.json", 1), (".", 2)] {
        let output = convert(report);
        assert_eq!(output.status.code(), Some(code), "{}", stderr(&output));
        assert_eq!(files(dir.path()), ["file"], "{report}");
    }
    let output = convert("new/report.json");
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!(files(dir.path()), ["file", "new", "v3.safetensors"]);
}

/// Runs, expects the exit code and all words on standard error, nothing on standard output, and no new file.
fn refused(dir: &TempDir, line: &str, code: i32, words: &[&str]) {
    let before = files(dir.path());
    let output = run(dir, &line.split(' ').collect::<Vec<_>>());
    let message = stderr(&output);
    assert_eq!(output.status.code(), Some(code), "{line}: {message}");
    assert_eq!(stdout(&output), "", "{line}");
    for word in words {
        assert!(
            message.contains(word),
            "{line}: `{word}` is not in: {message}"
        );
    }
    assert_eq!(files(dir.path()), before, "{line}");
}

fn write(dir: &TempDir, name: &str, bytes: &[u8]) {
    fs::write(dir.path().join(name), bytes).unwrap();
}

#[test]
fn a_file_of_another_kind_is_named_with_its_flag() {
    let dir = TempDir::new().unwrap();
    write(&dir, "a.png", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR");
    let png = "is a PNG picture; give a `.safetensors` file";
    for flag in ["--lora", "--latents"] {
        let line = format!("generate x {flag} a.png");
        refused(&dir, &line, 1, &[&format!("{flag}: a.png {png}")]);
        let line = format!("generate x {flag} .");
        refused(&dir, &line, 1, &[flag, "is a folder", "give a"]);
    }
    let model = tiny();
    for flag in ["--text-encoder", "--vae"] {
        let line = format!("generate x --model {} {flag} a.png", model.display());
        refused(&dir, &line, 1, &[&format!("{flag}: a.png {png}")]);
    }
    refused(&dir, "generate x --model a.png", 1, &[png]);
    write(&dir, "none.safetensors", b"\x08\0\0\0\0\0\0\0{}      ");
    let line = "inspect none.safetensors";
    refused(
        &dir,
        line,
        1,
        &["none.safetensors holds no tensor", "again"],
    );
    refused(
        &dir,
        "generate x --lora a.png:x",
        2,
        &["scale `x` of a.png"],
    );
    // Sound files in the wrong place.
    let line = format!("generate x --lora {}", model.display());
    refused(&dir, &line, 1, &["--lora", "is no LoRA", "give a LoRA"]);
    let line = format!("generate x --latents {}", model.display());
    refused(&dir, &line, 1, &["no tensor `latents`", "--save-latents"]);
}

#[test]
fn prompts_are_text_with_a_prompt_a_line() {
    let dir = TempDir::new().unwrap();
    write(&dir, "latin.txt", b"a star\na caf\xe9\n");
    write(&dir, "utf16.txt", b"\xff\xfea\0 \0");
    write(&dir, "empty.txt", b"\n \n");
    let next = "give --prompts a UTF-8 text file with one prompt a line";
    let utf8 = "latin.txt: it is not UTF-8 text (line 2)";
    refused(&dir, "generate --prompts latin.txt", 1, &[utf8, next]);
    let utf8 = "utf16.txt: it is not UTF-8 text (line 1)";
    refused(&dir, "generate --prompts utf16.txt", 1, &[utf8, next]);
    let empty = "empty.txt has 0 prompts";
    refused(&dir, "generate --prompts empty.txt", 2, &[empty, next]);
    let missing = "none.txt: it cannot be read (No such file";
    refused(&dir, "generate --prompts none.txt", 1, &[missing, next]);
    refused(&dir, "generate --prompts .", 1, &["is a folder", next]);

    // What Windows' editor puts in front is no part of the first prompt.
    write(&dir, "mark.txt", b"\xef\xbb\xbfa star\n");
    write(&dir, "plain.txt", b"a star\n");
    for name in ["mark", "plain"] {
        let line = format!("generate --steps 1 --prompts {name}.txt -o {name}.png");
        let output = run(&dir, &line.split(' ').collect::<Vec<_>>());
        assert!(output.status.success(), "{}", stderr(&output));
    }
    let bytes = |name: &str| fs::read(dir.path().join(name)).unwrap();
    assert_eq!(bytes("mark.png"), bytes("plain.png"));
}

#[test]
fn places_for_a_picture() {
    let dir = TempDir::new().unwrap();
    write(&dir, "file.txt", b"text");
    let no_folder = ["file.txt: it is no folder", "choose another -o"];
    refused(&dir, "generate x -o file.txt/x.png", 1, &no_folder);
    refused(&dir, "generate x -o file.txt/a/x.png", 1, &no_folder);
    let preview = ["file.txt: it is no folder", "choose another --preview"];
    refused(&dir, "generate x --preview file.txt", 1, &preview);
    refused(&dir, "generate x -o new/", 2, &["new/ is a folder", "-o"]);
    refused(
        &dir,
        "generate x -o a.JPG",
        2,
        &["PNG", "not as jpg", ".png"],
    );
    // A folder that is missing is made with the picture, and not without it.
    refused(&dir, "generate x -o new/x.png --model none", 1, &["none"]);
    let output = run(
        &dir,
        &["generate", "x", "--steps", "1", "-o", "new/a/x.png"],
    );
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!(files(&dir.path().join("new/a")), ["x.png"]);
    // Neither is anything replaced that is no file: a device, or here a socket.
    let _socket = std::os::unix::net::UnixListener::bind(dir.path().join("socket")).unwrap();
    for line in [
        "generate x -o socket",
        "generate x --save-latents socket",
        "convert tiny --policy v3 --assume-unscaled -o socket --force",
        "convert tiny --policy v3 --assume-unscaled -o a.safetensors --report socket",
    ] {
        refused(&dir, line, 2, &["socket is no ordinary file"]);
    }
    // An input is never replaced.
    write(&dir, "prompts.txt", b"a star\n");
    let line = "generate --prompts prompts.txt -o ./prompts.txt";
    refused(&dir, line, 2, &["prompts.txt is an input", "another -o"]);
    let line = "generate x --model file.txt --save-latents file.txt";
    refused(&dir, line, 2, &["is an input", "another --save-latents"]);
}

#[test]
fn sizes_beyond_the_limits_say_the_limit() {
    let dir = TempDir::new().unwrap();
    for (size, word) in [
        ("20000x64", "a width of 20000"),
        ("64x16400", "the largest is 16384"),
        ("0x64", "the smallest is 16"),
        ("64x7", "the nearest is 16"),
        ("64x100", "nearest are 96 and 112"),
        ("99999999999999999999x64", "WIDTHxHEIGHT"),
    ] {
        refused(&dir, &format!("generate x --size {size}"), 2, &[word]);
    }
}

#[test]
fn policies_that_are_none_list_those_that_are() {
    let dir = TempDir::new().unwrap();
    let next =
        "give --policy one of v1, v2, v3, v4, v5, modelopt, sglang, all-nvfp4, fp8, or a JSON file";
    write(&dir, "bad.json", b"{\"rules\": [");
    write(&dir, "list.json", b"[]");
    write(&dir, "bytes.json", b"\xff\xff");
    write(
        &dir,
        "word.json",
        br#"{"rules": [{"policy": "nvpf4", "match": ["x"]}]}"#,
    );
    for (policy, word) in [
        ("v9", "v9: it cannot be read (No such file"),
        ("bad.json", "bad.json: it is not a policy (EOF"),
        ("list.json", "list.json: it is not a policy"),
        ("bytes.json", "bytes.json: it is not UTF-8 text (line 1)"),
        (
            "word.json",
            "word.json: rule 1 says `nvpf4`; known are keep",
        ),
        (".", ".: it is a folder"),
    ] {
        let line = format!("convert tiny --assume-unscaled --dry-run --policy {policy}");
        refused(&dir, &line, 1, &[word, next]);
    }
    let line = "convert tiny --assume-unscaled --dry-run --policy v3 --calib none.json";
    let words = ["none.json: it cannot be read", "give --calib"];
    refused(&dir, line, 1, &words);

    // A file goes before the built-in policy of the same name, and says so; a folder does not.
    let line = "convert tiny --assume-unscaled --dry-run --policy v3";
    let words: Vec<&str> = line.split(' ').collect();
    write(
        &dir,
        "v3",
        br#"{"rules": [{"policy": "keep", "match": [""]}]}"#,
    );
    let output = run(&dir, &words);
    assert!(stderr(&output).contains("the file v3 is read"));
    fs::remove_file(dir.path().join("v3")).unwrap();
    fs::create_dir(dir.path().join("v3")).unwrap();
    let output = run(&dir, &words);
    assert!(output.status.success(), "{}", stderr(&output));
}

#[test]
fn a_conversion_needs_the_name_of_a_file() {
    let dir = TempDir::new().unwrap();
    fs::create_dir(dir.path().join("folder")).unwrap();
    let convert = "convert tiny --policy v3 --assume-unscaled";
    let folder = ["is a folder", "give -o the name of a file in it"];
    refused(&dir, &format!("{convert} -o folder"), 2, &folder);
    refused(&dir, &format!("{convert} -o folder --force"), 2, &folder);
    refused(&dir, convert, 2, &["-o OUTPUT", "--dry-run"]);
    let line = "convert folder/../none --policy v3 -o a.safetensors --report";
    let words = ["given with -o too", "another --report"];
    refused(&dir, &format!("{line} ./a.safetensors"), 2, &words);
    write(&dir, "none", b"");
    refused(&dir, &format!("{line} none"), 2, &["none is an input"]);
    // Arguments come before files.
    let line = "convert none.safetensors --policy v3 -o folder";
    refused(&dir, line, 2, &folder);
}

/// The picture's name and the space, not that of a temporary file.
#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_names_the_picture() {
    let dir = TempDir::new().unwrap();
    let mounted = match Mounted::tmpfs(dir.path(), "64k") {
        Ok(mounted) => mounted,
        Err(reason) => {
            println!("skipped: a tmpfs cannot be mounted here ({reason})");
            return;
        }
    };
    fs::write(mounted.0.join("filler"), vec![0; 56 << 10]).unwrap();
    let line = "generate x --steps 1 --size 128x128 -o x.png";
    let words = ["x.png needs", "its disk has", "left; free some space"];
    refused(&dir, line, 1, &words);
    let output = run(&dir, &line.split(' ').collect::<Vec<_>>());
    assert!(!stderr(&output).contains(".tmp"), "{}", stderr(&output));
}
