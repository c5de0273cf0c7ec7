#![allow(clippy::unwrap_used)]
use std::collections::BTreeMap;

use safetensors::Dtype;

use super::super::NewTensor;
use super::*;

fn layout() -> Layout {
    let tensor = |name: &str, dtype, n| NewTensor {
        name: name.to_owned(),
        dtype,
        shape: vec![n],
    };
    let tensors = vec![tensor("b", Dtype::U8, 5), tensor("a", Dtype::F32, 2)];
    Layout::of(tensors, &BTreeMap::from([("k".to_owned(), "v".to_owned())])).unwrap()
}

fn write(writer: &Writer) {
    writer.write_at(0, 3, &[4, 5]).unwrap();
    writer.write_at(1, 0, &[0; 8]).unwrap();
    writer.write_at(0, 0, &[1, 2, 3]).unwrap();
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(folder)
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn pieces_in_any_order_make_a_file_that_others_read() {
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().join("deep/out.safetensors");
    let writer = Writer::create(&target, layout(), false).unwrap();
    assert!(!target.exists());
    write(&writer);
    writer.finish().unwrap();
    let bytes = fs::read(&target).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(file.tensor("b").unwrap().data(), [1, 2, 3, 4, 5]);
    assert_eq!(file.tensor("a").unwrap().shape(), [2]);
    assert_eq!(names(&dir.path().join("deep")), ["out.safetensors"]);
}

#[test]
fn nothing_is_overwritten_unasked() {
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().join("out");
    fs::write(&target, "mine").unwrap();
    let error = Writer::create(&target, layout(), false).err().unwrap();
    assert!(matches!(error, WriteError::Exists { .. }) && error.to_string().contains("--force"));
    // One that appears while the file is made.
    fs::remove_file(&target).unwrap();
    let writer = Writer::create(&target, layout(), false).unwrap();
    write(&writer);
    fs::write(&target, "mine").unwrap();
    assert!(matches!(writer.finish(), Err(WriteError::Exists { .. })));
    assert_eq!(fs::read(&target).unwrap(), b"mine");
    let writer = Writer::create(&target, layout(), true).unwrap();
    write(&writer);
    assert_eq!(fs::read(&target).unwrap(), b"mine");
    writer.finish().unwrap();
    assert_ne!(fs::read(&target).unwrap(), b"mine");
    assert_eq!(names(dir.path()), ["out"]);
    assert!(matches!(
        Writer::create(dir.path(), layout(), true),
        Err(WriteError::Folder { .. })
    ));
}

#[test]
fn half_a_file_is_never_shown() {
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().join("out");
    let writer = Writer::create(&target, layout(), false).unwrap();
    writer.write_at(0, 0, &[1]).unwrap();
    assert!(writer.write_at(0, 4, &[1, 2]).is_err());
    assert!(writer.write_at(0, u64::MAX, &[1, 2]).is_err());
    assert!(matches!(
        writer.finish(),
        Err(WriteError::Incomplete { .. })
    ));
    assert_eq!(names(dir.path()), [""; 0]);
}

#[test]
fn what_a_killed_run_left_is_removed_and_a_running_one_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().join("out");
    for name in [
        ".out.1.partial",
        ".out.2.partial",
        ".other.1.partial",
        ".out.x.partial",
    ] {
        fs::write(dir.path().join(name), "half").unwrap();
    }
    let held = File::open(dir.path().join(".out.2.partial")).unwrap();
    held.lock().unwrap();
    let writer = Writer::create(&target, layout(), false).unwrap();
    write(&writer);
    writer.finish().unwrap();
    assert_eq!(
        names(dir.path()),
        [
            ".other.1.partial",
            ".out.2.partial",
            ".out.x.partial",
            "out"
        ]
    );
}

/// A disk of 64 KiB, where the test may make one.
#[test]
fn a_full_disk_is_found_before_the_work() {
    let dir = tempfile::tempdir().unwrap();
    let mount = |args: &[&str]| {
        let status = std::process::Command::new(args[0])
            .args(&args[1..])
            .status();
        status.is_ok_and(|s| s.success())
    };
    let path = dir.path().to_str().unwrap();
    if !mount(&["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", path]) {
        eprintln!("skipped: this user may not mount a file system");
        return;
    }
    let big = vec![NewTensor {
        name: "big".to_owned(),
        dtype: Dtype::U8,
        shape: vec![1 << 20],
    }];
    let layout = Layout::of(big, &BTreeMap::new()).unwrap();
    let error = Writer::create(&dir.path().join("out"), layout, false)
        .err()
        .unwrap();
    let left = names(dir.path());
    assert!(mount(&["umount", path]));
    assert!(matches!(error, WriteError::Full { .. }), "{error}");
    assert!(error.to_string().contains("free some"), "{error}");
    assert_eq!(left, [""; 0]);
}
