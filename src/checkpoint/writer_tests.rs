#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;
use std::process::Command;

use safetensors::Dtype;
use tempfile::TempDir;

use super::*;
use crate::checkpoint::NewTensor;

fn layout(tensors: &[(&str, Dtype, &[usize])]) -> Layout {
    let tensors = tensors.iter().map(|(name, dtype, shape)| NewTensor {
        name: (*name).to_owned(),
        dtype: *dtype,
        shape: shape.to_vec(),
    });
    Layout::of(tensors.collect(), &BTreeMap::new()).unwrap()
}

/// `a` [3] U8 and `b` [2] F32.
fn small() -> Layout {
    layout(&[("a", Dtype::U8, &[3]), ("b", Dtype::F32, &[2])])
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    let mut names: Vec<_> = entries
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

fn create(path: &Path, overwrite: bool) -> Result<Writer, WriteError> {
    Writer::create(path, small(), overwrite)
}

fn fill(writer: &Writer) {
    writer.write_at(1, 4, &[5, 6, 7, 8]).unwrap();
    writer.write_at(0, 0, &[9, 9, 9]).unwrap();
    writer.write_at(1, 0, &[1, 2, 3, 4]).unwrap();
}

#[test]
fn a_file_written_out_of_order_is_the_references() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("out.safetensors");
    let writer = create(&path, false).unwrap();
    fill(&writer);
    assert!(!path.exists(), "not before it is whole");
    writer.finish().unwrap();
    let view = |dtype, shape: &[usize], bytes| {
        safetensors::tensor::TensorView::new(dtype, shape.to_vec(), bytes).unwrap()
    };
    let tensors = [
        ("a", view(Dtype::U8, &[3], &[9, 9, 9])),
        ("b", view(Dtype::F32, &[2], &[1, 2, 3, 4, 5, 6, 7, 8])),
    ];
    let expected = safetensors::serialize(tensors, None).unwrap();
    assert_eq!(fs::read(&path).unwrap(), expected);
    assert_eq!(names(dir.path()), ["out.safetensors"]);
}

#[test]
fn many_threads_and_empty_tensors() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("out.safetensors");
    let many: Vec<(String, [usize; 2])> = (0..50).map(|i| (format!("t{i}"), [i, 1000])).collect();
    let tensors: Vec<_> = many
        .iter()
        .map(|(n, s)| (n.as_str(), Dtype::U8, s.as_slice()))
        .collect();
    let writer = Writer::create(&path, layout(&tensors), false).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let writer = &writer;
            scope.spawn(move || {
                for i in (thread..50).step_by(4) {
                    for row in 0..i {
                        writer
                            .write_at(i, 1000 * row as u64, &[i as u8; 1000])
                            .unwrap();
                    }
                }
            });
        }
    });
    writer.finish().unwrap();
    let bytes = fs::read(&path).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    for i in 0..50 {
        let tensor = file.tensor(&format!("t{i}")).unwrap();
        assert_eq!(tensor.data(), vec![i as u8; 1000 * i]);
    }
}

#[test]
fn nothing_is_finished_before_all_bytes_have_come() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("out.safetensors");
    let writer = create(&path, false).unwrap();
    writer.write_at(0, 0, &[1, 2, 3]).unwrap();
    writer.write_at(1, 0, &[1; 7]).unwrap();
    for (tensor, offset, length) in [(0, 1, 3), (1, 9, 0), (1, u64::MAX, 2)] {
        let error = writer
            .write_at(tensor, offset, &vec![0; length])
            .unwrap_err();
        assert!(matches!(error, WriteError::OutOfTensor { .. }), "{error}");
    }
    let error = writer.finish().unwrap_err();
    let WriteError::Incomplete {
        tensor,
        written,
        expected,
        ..
    } = &error
    else {
        panic!("{error}");
    };
    assert_eq!((tensor.as_str(), *written, *expected), ("b", 7, 8));
    assert_eq!(names(dir.path()), [""; 0], "the temporary file is removed");
    // A byte that came twice is as wrong as one that is missing.
    let writer = create(&path, false).unwrap();
    fill(&writer);
    writer.write_at(0, 0, &[0]).unwrap();
    assert!(matches!(
        writer.finish(),
        Err(WriteError::Incomplete { .. })
    ));
}

#[test]
fn an_existing_output_stays_unless_it_is_to_be_replaced() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("out.safetensors");
    fs::write(&path, "old").unwrap();
    let error = create(&path, false).err().unwrap().to_string();
    assert!(error.contains("--force"), "{error}");
    // A run that fails leaves it alone.
    let writer = create(&path, true).unwrap();
    writer.write_at(0, 0, &[1]).unwrap();
    assert!(writer.finish().is_err());
    drop(create(&path, true).unwrap());
    assert_eq!(fs::read_to_string(&path).unwrap(), "old");
    // One that has appeared meanwhile, too.
    let other = dir.path().join("other.safetensors");
    let writer = create(&other, false).unwrap();
    fill(&writer);
    fs::write(&other, "new").unwrap();
    assert!(matches!(writer.finish(), Err(WriteError::Exists(_))));
    assert_eq!(fs::read_to_string(&other).unwrap(), "new");

    let writer = create(&path, true).unwrap();
    fill(&writer);
    writer.finish().unwrap();
    assert_eq!(fs::metadata(&path).unwrap().len(), small().file_len());
    assert_eq!(names(dir.path()), ["other.safetensors", "out.safetensors"]);
}

#[test]
fn outputs_that_cannot_be() {
    let dir = TempDir::new().unwrap();
    let message = |path: &Path| create(path, true).err().unwrap().to_string();
    assert!(message(dir.path()).contains("is a folder"));
    drop(create(&dir.path().join("made/out.safetensors"), false).unwrap());
    let file = dir.path().join("file");
    fs::write(&file, "").unwrap();
    let below = message(&file.join("out.safetensors"));
    assert!(below.contains("cannot write"), "{below}");
    let device = message(Path::new("/dev/null"));
    assert!(device.contains("no ordinary file"), "{device}");
    assert_eq!(names(dir.path()), ["file", "made"]);
}

/// A name so long that nothing can be put before it.
#[test]
fn the_longest_names() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("ü".repeat(127));
    let writer = create(&path, false).unwrap();
    fill(&writer);
    writer.finish().unwrap();
    assert!(path.exists());
}

#[test]
fn what_a_killed_run_left_is_removed_and_a_live_run_is_not() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("out.safetensors");
    let stale = dir.path().join(".out.safetensors.123-0.partial");
    fs::write(&stale, "half").unwrap();
    for alike in [
        ".other.safetensors.123-0.partial",
        ".out.safetensors.x.partial",
        ".out.safetensors.123-0.partial.bak",
    ] {
        fs::write(dir.path().join(alike), "").unwrap();
    }
    let live = create(&path, false).unwrap();
    assert!(!stale.exists());
    // A second run at the same time: both write, the first to finish wins.
    let second = create(&path, false).unwrap();
    assert!(live.temp.path.exists() && second.temp.path.exists());
    fill(&live);
    fill(&second);
    live.finish().unwrap();
    assert!(matches!(second.finish(), Err(WriteError::Exists(_))));
    assert_eq!(names(dir.path()).len(), 4, "{:?}", names(dir.path()));
}

/// Runs the test `name` again in a mount namespace of its own, where `MOUNT` is a tmpfs with these options.
fn in_a_mount(name: &str, options: &str) {
    let dir = TempDir::new().unwrap();
    let script = format!(
        "mount -t tmpfs -o {options} none \"$MOUNT\" || exit 77; exec \"$0\" --exact \"$1\" --nocapture"
    );
    let test = format!("checkpoint::writer::tests::{name}");
    let run = Command::new("unshare")
        .args(["-rm", "sh", "-c", &script])
        .args([std::env::current_exe().unwrap().as_os_str(), test.as_ref()])
        .env("MOUNT", dir.path())
        .output();
    let output = match run {
        Err(e) => return println!("skipped: there is no `unshare` ({e})"),
        Ok(output) => output,
    };
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    if !output.status.success() && !text.contains("running 1 test") {
        return println!("skipped: no tmpfs may be mounted here: {text}");
    }
    assert!(
        output.status.success() && text.contains("1 passed"),
        "{text}"
    );
}

fn mount() -> Option<PathBuf> {
    std::env::var_os("MOUNT").map(PathBuf::from)
}

#[test]
fn a_full_disk_is_found_before_the_work() {
    let Some(folder) = mount() else {
        return in_a_mount("a_full_disk_is_found_before_the_work", "size=256k");
    };
    let path = folder.join("out.safetensors");
    let create = |bytes: usize| Writer::create(&path, layout(&[("a", Dtype::U8, &[bytes])]), false);
    let error = create(300_000).err().unwrap();
    let WriteError::DiskFull { needed, free, .. } = &error else {
        panic!("{error}");
    };
    assert_eq!((*needed, *free), (300_072, Some(262_144)));
    assert!(error.to_string().contains("free some space"), "{error}");
    assert_eq!(names(&folder), [""; 0]);
    // What is reserved is there: a second file finds the disk full, the first can be written to its end.
    let writer = create(200_000).unwrap();
    assert!(matches!(create(100_000), Err(WriteError::DiskFull { .. })));
    writer.write_at(0, 0, &vec![1; 200_000]).unwrap();
    writer.finish().unwrap();
}

#[test]
fn a_folder_that_cannot_be_written() {
    let Some(folder) = mount() else {
        return in_a_mount("a_folder_that_cannot_be_written", "ro");
    };
    let error = create(&folder.join("out.safetensors"), false)
        .err()
        .unwrap();
    assert!(matches!(error, WriteError::ReadOnly { .. }), "{error}");
    assert!(
        error.to_string().contains("that you may write to"),
        "{error}"
    );
}
