//! Why a file could not be written, and what to do about it.

use std::io;
use std::path::{Path, PathBuf};

/// A file that could not be written. The output is as it was before.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// A set of tensors that makes no file.
    #[error("cannot lay out tensor `{tensor}`: {reason}")]
    Layout {
        /// The tensor.
        tensor: String,
        /// What is wrong.
        reason: String,
    },
    /// The output exists already.
    #[error("{0} exists already; give another -o, or --force to replace it")]
    Exists(PathBuf),
    /// The output is a folder.
    #[error("{0} is a folder; give -o the name of a file, e.g. {0}/model.safetensors")]
    Folder(PathBuf),
    /// The output is a device, a pipe or a socket.
    #[error(
        "{0} is no ordinary file, and it would be replaced, not written to; give the output the name of a file"
    )]
    Special(PathBuf),
    /// The output's folder cannot be written.
    #[error("{path} cannot be created: {source}; give an -o in a folder that you may write to")]
    ReadOnly {
        /// The output.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// There is not enough space.
    #[error("{path} needs {}{}; free some space, or give an -o on another disk", size(*needed), said(*free))]
    DiskFull {
        /// The output.
        path: PathBuf,
        /// Length of the whole file in bytes.
        needed: u64,
        /// Bytes that its file system has left, where it tells.
        free: Option<u64>,
    },
    /// The file system or a limit forbids a file of this length.
    #[error("{path} would be {} long, more than its file system or `ulimit -f` allows; give an -o on another disk", size(*needed))]
    TooLarge {
        /// The output.
        path: PathBuf,
        /// Length of the whole file in bytes.
        needed: u64,
    },
    /// Bytes for a place that the tensor does not have: the caller's arithmetic is wrong.
    #[error(
        "{path}: tensor `{tensor}` has no {length} bytes at {offset}; this is a fault of this program, please report it"
    )]
    OutOfTensor {
        /// The output.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// Where the bytes were meant to begin in the tensor.
        offset: u64,
        /// How many there were.
        length: u64,
    },
    /// The file was finished before all bytes had come, or some came twice.
    #[error(
        "{path}: {written} of {expected} bytes of tensor `{tensor}` were written; this is a fault of this program, please report it"
    )]
    Incomplete {
        /// The output.
        path: PathBuf,
        /// The first tensor whose bytes do not add up.
        tensor: String,
        /// Bytes that came.
        written: u64,
        /// Bytes that it has.
        expected: u64,
    },
    /// Everything else.
    #[error("cannot write {path}: {source}")]
    Io {
        /// The output.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
}

/// What there is instead of the space needed.
fn said(free: Option<u64>) -> String {
    free.map_or_else(
        || " and the disk (or your quota on it) has not that many left".to_owned(),
        |free| format!(", its disk has {} left", size(free)),
    )
}

/// Bytes in the unit in which disks are sold.
fn size(bytes: u64) -> String {
    match bytes as f64 {
        b if b >= 1e9 => format!("{:.2} GB", b / 1e9),
        b if b >= 1e6 => format!("{:.1} MB", b / 1e6),
        b => format!("{:.1} kB", b / 1e3),
    }
}

impl WriteError {
    /// The error for what the system said on the way to a file of `needed` bytes.
    pub(super) fn of(path: &Path, needed: u64, free: Option<u64>, source: io::Error) -> Self {
        let path = path.to_owned();
        match source.kind() {
            io::ErrorKind::StorageFull => Self::DiskFull { path, needed, free },
            // The disk may have space for others.
            io::ErrorKind::QuotaExceeded => Self::DiskFull {
                path,
                needed,
                free: None,
            },
            io::ErrorKind::FileTooLarge => Self::TooLarge { path, needed },
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
                Self::ReadOnly { path, source }
            }
            _ => Self::Io { path, source },
        }
    }
}
