//! What a benchmark has done so far, a line for each picture: a run that is killed loses at most the one in the making.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::results::Picture;

/// A picture of a row.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Entry {
    /// The row.
    pub variant: String,
    /// Which prompt.
    pub prompt: usize,
    /// Seconds by part.
    pub parts: BTreeMap<String, f64>,
    /// The picture.
    pub picture: Picture,
}

/// A process that made a row's first picture.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Cold {
    /// Seconds from start to end.
    pub seconds: f64,
    /// The most memory that it had.
    pub peak_rss_bytes: Option<u64>,
}

/// Teacher-forced figures of a row.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Taught {
    /// |v - v_baseline| / |v_baseline| by prompt and step.
    pub velocity: Vec<Vec<f64>>,
    /// Output SQNR by layer type and third of the depth.
    pub layers: BTreeMap<String, [Option<f64>; 3]>,
}

/// A line.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Line {
    /// What the run is: another run's journal is not gone on with.
    Run(String),
    /// A picture.
    Picture(Entry),
    /// A first picture, by row.
    Cold(String, Cold),
    /// Teacher-forced figures, by row.
    Taught(String, Taught),
}

/// The file, open for more.
pub struct Journal {
    file: File,
    /// What was in it.
    pub lines: Vec<Line>,
}

impl Journal {
    /// Goes on with `path`, or begins it. A last line that was cut short is dropped.
    ///
    /// # Errors
    /// A file that cannot be read or written, or is of another run (`run` says which this one is).
    pub fn open(path: &Path, run: &str) -> io::Result<Self> {
        let text = match fs::read_to_string(path) {
            Ok(text) => text,
            Err(e) if e.kind() == io::ErrorKind::NotFound => String::new(),
            Err(e) => return Err(e),
        };
        let mut whole = 0;
        let mut lines = Vec::new();
        for line in text.split_inclusive('\n') {
            let (true, Ok(read)) = (line.ends_with('\n'), serde_json::from_str(line)) else {
                break;
            };
            lines.push(read);
            whole += line.len() as u64;
        }
        let same = |line: &Line| matches!(line, Line::Run(of) if of == run);
        if lines.first().is_some_and(|first| !same(first)) {
            let message = "it is of another model, or of other prompts, rows or settings; say --force to begin anew, or give another -o";
            return Err(io::Error::other(message));
        }
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(path)?;
        file.set_len(whole)?;
        let mut journal = Self { file, lines };
        io::Seek::seek(&mut journal.file, io::SeekFrom::End(0))?;
        if journal.lines.is_empty() {
            journal.write(&Line::Run(run.to_owned()))?;
        }
        Ok(journal)
    }

    /// Adds a line.
    ///
    /// # Errors
    /// The system's.
    pub fn write(&mut self, line: &Line) -> io::Result<()> {
        let mut text = serde_json::to_string(line)?;
        text.push('\n');
        self.file.write_all(text.as_bytes())?;
        // As it will be read: decimals may cost a number its last bit, and a run that goes on is to have the same bits.
        self.lines.push(serde_json::from_str(&text)?);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_line_that_was_cut_is_written_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal.jsonl");
        let cold = |seconds| {
            let cold = Cold {
                seconds,
                peak_rss_bytes: None,
            };
            Line::Cold("v3".to_owned(), cold)
        };
        let mut journal = Journal::open(&path, "run").unwrap();
        journal.write(&cold(1.0)).unwrap();
        journal.write(&cold(2.0)).unwrap();
        drop(journal);
        let whole = fs::read(&path).unwrap();
        for cut in 0..whole.len() {
            fs::write(&path, &whole[..cut]).unwrap();
            let mut journal = Journal::open(&path, "run").unwrap();
            while journal.lines.len() < 3 {
                let next = journal.lines.len() as f64;
                journal.write(&cold(next)).unwrap();
            }
            drop(journal);
            assert_eq!(fs::read(&path).unwrap(), whole, "{cut}");
        }
        let other = Journal::open(&path, "another run").err().unwrap();
        assert!(other.to_string().contains("--force"), "{other}");
    }
}
