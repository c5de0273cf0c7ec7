//! Text that people give as a file: prompts, policies, calibrations.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use super::Failure;

/// Longest text that is read. A million prompts have about 100 MB, the longest calibration that is known 2 MB.
const LONGEST: u64 = 512 << 20;

/// Lines of a prompt file.
const MOST_PROMPTS: usize = 1_000_000;
/// What to do about a file of prompts that is none.
const WANTED: &str = "give --prompts a UTF-8 text file with one prompt a line";

/// The prompts of a text, one a line.
pub(super) fn lines(text: &str) -> Vec<String> {
    let lines = text.lines().map(|l| l.trim_end().to_owned());
    lines.filter(|l| !l.is_empty()).collect()
}

/// The prompts of a file.
///
/// # Errors
/// Those of [`read`]; none, or too many.
pub(super) fn prompts(path: &Path) -> Result<Vec<String>, Failure> {
    let prompts = lines(&read(path, WANTED)?);
    match prompts.len() {
        1..=MOST_PROMPTS => Ok(prompts),
        n => Err(Failure::Usage(format!(
            "{} has {n} prompts, one to a million are read; {WANTED}",
            path.display()
        ))),
    }
}

/// The text of `path`, without a byte order mark. `wanted` says what the user should give instead, as a command:
/// "give --prompts a text file".
///
/// # Errors
/// A file that cannot be read, is too long, or is not UTF-8.
pub(super) fn read(path: &Path, wanted: &str) -> Result<String, Failure> {
    let refuse = |reason: String| {
        let message = format!("{}: {reason}; {wanted}", path.display());
        Failure::Work(anyhow::anyhow!(message))
    };
    if path.is_dir() {
        return Err(refuse("it is a folder".to_owned()));
    }
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|file| file.take(LONGEST + 1).read_to_end(&mut bytes));
    read.map_err(|e| refuse(format!("it cannot be read ({e})")))?;
    if bytes.len() as u64 > LONGEST {
        return Err(refuse(format!("it is longer than {} MB", LONGEST >> 20)));
    }
    let text = String::from_utf8(bytes).map_err(|e| {
        let good = &e.as_bytes()[..e.utf8_error().valid_up_to()];
        let line = good.iter().filter(|byte| **byte == b'\n').count() + 1;
        refuse(format!("it is not UTF-8 text (line {line})"))
    })?;
    match text.strip_prefix('\u{feff}') {
        Some(rest) => Ok(rest.to_owned()),
        None => Ok(text),
    }
}
