//! What people and scripts see: the progress bar, the memory figure, numbered files.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::Failure;
use crate::checkpoint::without_path;

/// Whether colours are wanted on standard error (<https://no-color.org>).
pub(super) fn colours() -> bool {
    std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty()) && std::io::stderr().is_terminal()
}

/// A bar of steps on standard error, if that is a terminal and `wanted`.
pub(super) fn progress_bar(wanted: bool) -> ProgressBar {
    let bar = ProgressBar::new(0);
    let shown = wanted && std::io::stderr().is_terminal();
    bar.set_draw_target(match shown {
        true => ProgressDrawTarget::stderr(),
        false => ProgressDrawTarget::hidden(),
    });
    let style = ProgressStyle::with_template("{prefix}{bar:32} step {pos}/{len}  {msg}  ETA {eta}");
    if let Ok(style) = style {
        bar.set_style(style);
    }
    bar
}

/// A bar of bytes on standard error, if that is a terminal and `wanted`.
pub(super) fn byte_bar(total: u64, wanted: bool) -> ProgressBar {
    let bar = progress_bar(wanted);
    bar.set_length(total);
    let style = ProgressStyle::with_template(
        "{bar:32} {bytes}/{total_bytes}  {bytes_per_sec}  ETA {eta}  {msg}",
    );
    if let Ok(style) = style {
        bar.set_style(style);
    }
    bar
}

/// Bytes in the unit in which download pages give them.
pub(super) fn bytes(n: u64) -> String {
    match n as f64 {
        b if b >= 1e9 => format!("{:.2} GB", b / 1e9),
        b if b >= 1e6 => format!("{:.1} MB", b / 1e6),
        b => format!("{:.1} kB", b / 1e3),
    }
}

/// The command as it was given, but for what only says how to treat an earlier run's files.
pub(super) fn command() -> String {
    let words = std::env::args_os().skip(1);
    let words = words.map(|word| word.to_string_lossy().into_owned());
    let words = words.filter(|word| word != "--resume" && word != "--force");
    let quoted = words.map(|word| match word.contains(' ') {
        true => format!("'{word}'"),
        false => word,
    });
    let all: Vec<String> = std::iter::once("qwen-nvfp4".to_owned())
        .chain(quoted)
        .collect();
    all.join(" ")
}

/// A duration for people: `12 ms`, `3.4 s`, `2 min 5 s`.
pub(super) fn seconds(s: f64) -> String {
    match Duration::from_secs_f64(s.max(0.0)) {
        d if d.as_millis() < 1000 => format!("{} ms", d.as_millis()),
        d if d.as_secs() < 60 => format!("{s:.1} s"),
        d => format!("{} min {} s", d.as_secs() / 60, d.as_secs() % 60),
    }
}

/// The path of picture `index` of `count`: the path itself if there is one, else `name-000.png`.
pub(super) fn numbered(path: &Path, index: usize, count: usize) -> PathBuf {
    if count == 1 {
        return path.to_owned();
    }
    let stem = path
        .file_stem()
        .map_or_else(String::new, |s| s.to_string_lossy().into_owned());
    let extension = path
        .extension()
        .map_or_else(|| "png".into(), |e| e.to_string_lossy());
    let digits = (count - 1).to_string().len().max(3);
    path.with_file_name(format!("{stem}-{index:0digits$}.{extension}"))
}

/// The most memory that this process has had resident, in bytes, where the system tells.
pub(super) fn peak_rss() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

/// Refuses a file that could not be written after the work; `flag` is where another one is chosen. Makes nothing.
pub(super) fn check_target(path: &Path, flag: &str) -> Result<(), Failure> {
    let ends_like_a_folder = path.as_os_str().as_encoded_bytes().ends_with(b"/");
    if path.is_dir() || ends_like_a_folder || path.file_name().is_none() {
        let message = format!(
            "{} is a folder; give {flag} the name of a file in it",
            path.display()
        );
        return Err(Failure::Usage(message));
    }
    if path.metadata().is_ok_and(|kind| !kind.is_file()) {
        let message = format!(
            "{} is no ordinary file, and it would be replaced; give {flag} the name of a file",
            path.display()
        );
        return Err(Failure::Usage(message));
    }
    check_folder(path.parent().unwrap_or(Path::new("")), flag)
}

/// Refuses an output (with its flag) that would replace an input or another output.
pub(super) fn check_distinct(outputs: &[(&Path, &str)], inputs: &[&Path]) -> Result<(), Failure> {
    let inputs: Vec<PathBuf> = inputs.iter().copied().map(place).collect();
    for (i, (path, flag)) in outputs.iter().enumerate() {
        let here = place(path);
        let what = match outputs[..i].iter().find(|(other, _)| place(other) == here) {
            Some((_, other)) => format!("given with {other} too"),
            None if inputs.contains(&here) => "an input".to_owned(),
            None => continue,
        };
        let message = format!("{} is {what}; give another {flag}", path.display());
        return Err(Failure::Usage(message));
    }
    Ok(())
}

/// Where a file lies or will lie, links followed as far as there is something.
fn place(path: &Path) -> PathBuf {
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty());
    let folder = folder.unwrap_or(Path::new(".")).canonicalize();
    path.canonicalize()
        .unwrap_or_else(|_| match (folder, path.file_name()) {
            (Ok(folder), Some(name)) => folder.join(name),
            _ => path.to_owned(),
        })
}

/// Refuses a folder that could neither be made nor written into.
pub(super) fn check_folder(folder: &Path, flag: &str) -> Result<(), Failure> {
    let there = folder.ancestors().find(|p| p.symlink_metadata().is_ok());
    let there = there.unwrap_or(Path::new("."));
    let refuse = |reason: String| {
        let message = format!("{}: {reason}; choose another {flag}", there.display());
        Err(Failure::Work(anyhow::anyhow!(message)))
    };
    match there.is_dir() {
        false => refuse("it is no folder, so no file can be made in it".to_owned()),
        true => match tempfile::tempfile_in(there).map_err(without_path) {
            Ok(_) => Ok(()),
            Err(e) => refuse(format!("no file can be made in this folder ({e})")),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn several_pictures_are_numbered() {
        let path = Path::new("a/out.png");
        assert_eq!(numbered(path, 0, 1), Path::new("a/out.png"));
        assert_eq!(numbered(path, 7, 12), Path::new("a/out-007.png"));
        assert_eq!(numbered(path, 7, 12_000), Path::new("a/out-00007.png"));
        assert_eq!(numbered(Path::new("x"), 1, 2), Path::new("x-001.png"));
    }
}
