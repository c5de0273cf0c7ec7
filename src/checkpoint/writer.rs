//! Writes a safetensors file piece by piece, from many threads, and shows it under its name only when it is whole.
//!
//! Pieces go to their places in a file beside the target that is locked while it is written. A run that was killed
//! leaves such a file unlocked, and the next run for the same target removes it.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use super::Layout;

/// Ending of a file in the making; before it stand a dot, the target's name and the process id.
const PARTIAL: &str = ".partial";

/// Why a file cannot be written. Each message names the file and what to do.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// It exists, and overwriting was not asked for.
    #[error("{path} exists; choose another -o, or overwrite it with --force")]
    Exists {
        /// The target.
        path: PathBuf,
    },
    /// The target is a folder.
    #[error("{path} is a folder; name a file in it with -o")]
    Folder {
        /// The target.
        path: PathBuf,
    },
    /// The disk is full.
    #[error(
        "{path} needs {needed} bytes, its disk has {free} left; free some or choose another -o"
    )]
    Full {
        /// The target.
        path: PathBuf,
        /// Bytes of the whole file.
        needed: u64,
        /// Bytes that are free.
        free: u64,
    },
    /// Anything else that the system refuses.
    #[error("cannot write {path}: {source}; choose another -o")]
    Io {
        /// The target.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A tensor that cannot be laid out.
    #[error("cannot lay out tensor `{tensor}`: {reason}")]
    Layout {
        /// The tensor.
        tensor: String,
        /// What is wrong.
        reason: String,
    },
    /// Bytes outside of a tensor, or too few of them: the caller's arithmetic is wrong.
    #[error("{path}: {reason}; this is a mistake of the program, please report it")]
    Incomplete {
        /// The target.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
}

/// A file in the making.
pub struct Writer {
    target: PathBuf,
    partial: PathBuf,
    file: File,
    layout: Layout,
    overwrite: bool,
    written: AtomicU64,
    finished: bool,
}

impl Writer {
    /// Reserves the space of the whole file beside `target` and writes the header.
    ///
    /// # Errors
    /// A target that exists (unless `overwrite`), a folder, a disk that is too small or cannot be written.
    pub fn create(target: &Path, layout: Layout, overwrite: bool) -> Result<Self, WriteError> {
        let io = |source| WriteError::Io {
            path: target.to_owned(),
            source,
        };
        if target.is_dir() {
            return Err(WriteError::Folder {
                path: target.to_owned(),
            });
        }
        if target.symlink_metadata().is_ok() && !overwrite {
            return Err(WriteError::Exists {
                path: target.to_owned(),
            });
        }
        let (folder, name) = split(target)?;
        fs::create_dir_all(&folder).map_err(io)?;
        remove_stale(&folder, &name);
        let partial = folder.join(format!(".{name}.{}{PARTIAL}", std::process::id()));
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .open(&partial)
            .map_err(io)?;
        let writer = Self {
            target: target.to_owned(),
            partial,
            file,
            layout,
            overwrite,
            written: AtomicU64::new(0),
            finished: false,
        };
        // Another process only looks at the lock to tell a file in the making from a stale one.
        writer.file.lock().map_err(|e| writer.io(e))?;
        writer.reserve()?;
        let header = writer.layout.header();
        writer
            .file
            .write_all_at(header, 0)
            .map_err(|e| writer.io(e))?;
        Ok(writer)
    }

    /// Takes the space of the whole file now, so that a disk that is too small is found before the work.
    fn reserve(&self) -> Result<(), WriteError> {
        let len = self.layout.file_len();
        match rustix::fs::fallocate(&self.file, rustix::fs::FallocateFlags::empty(), 0, len) {
            Ok(()) => Ok(()),
            // File systems without reservation find out when they are full.
            Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => {
                self.file.set_len(len).map_err(|e| self.io(e))
            }
            Err(e) => Err(self.io(e.into())),
        }
    }

    /// Writes `bytes` at `offset` of tensor `index` (in the order in which the layout was given them). Each byte is to be
    /// written once.
    ///
    /// # Errors
    /// Bytes beyond the tensor's end, a disk that is full or fails.
    pub fn write_at(&self, index: usize, offset: u64, bytes: &[u8]) -> Result<(), WriteError> {
        let (begin, end) = self.layout.place(index);
        let len = bytes.len() as u64;
        if offset
            .checked_add(len)
            .is_none_or(|stop| stop > end - begin)
        {
            return Err(WriteError::Incomplete {
                path: self.target.clone(),
                reason: format!(
                    "bytes {offset} + {len} of tensor `{}` lie beyond its end",
                    self.layout.name(index)
                ),
            });
        }
        self.file
            .write_all_at(bytes, begin + offset)
            .map_err(|e| self.io(e))?;
        self.written.fetch_add(len, Ordering::Relaxed);
        Ok(())
    }

    /// Makes the file durable and gives it its name.
    ///
    /// # Errors
    /// Bytes that were not written, a failing disk, a target that has appeared meanwhile (unless it may be overwritten).
    pub fn finish(mut self) -> Result<(), WriteError> {
        let data = self.layout.file_len() - self.layout.header().len() as u64;
        let written = self.written.load(Ordering::Relaxed);
        if written != data {
            return Err(WriteError::Incomplete {
                path: self.target.clone(),
                reason: format!("{written} of {data} bytes were written"),
            });
        }
        self.file.sync_all().map_err(|e| self.io(e))?;
        if self.overwrite {
            fs::rename(&self.partial, &self.target).map_err(|e| self.io(e))?;
        } else {
            // A link fails where the name is taken; a rename would replace what has appeared meanwhile.
            match fs::hard_link(&self.partial, &self.target) {
                Ok(()) => fs::remove_file(&self.partial).map_err(|e| self.io(e))?,
                Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {
                    return Err(WriteError::Exists {
                        path: self.target.clone(),
                    });
                }
                // File systems without links.
                Err(_) => fs::rename(&self.partial, &self.target).map_err(|e| self.io(e))?,
            }
        }
        self.finished = true;
        let (folder, _) = split(&self.target)?;
        File::open(&folder)
            .and_then(|folder| folder.sync_all())
            .map_err(|e| self.io(e))
    }

    fn io(&self, source: std::io::Error) -> WriteError {
        match source.kind() {
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => {
                WriteError::Full {
                    path: self.target.clone(),
                    needed: self.layout.file_len(),
                    free: free(&self.partial),
                }
            }
            _ => WriteError::Io {
                path: self.target.clone(),
                source,
            },
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        if !self.finished {
            // There is nobody left to tell; the next run tries again.
            let _ = fs::remove_file(&self.partial);
        }
    }
}

/// The folder and the name of a file.
fn split(target: &Path) -> Result<(PathBuf, String), WriteError> {
    let Some(name) = target.file_name() else {
        return Err(WriteError::Folder {
            path: target.to_owned(),
        });
    };
    let folder = match target.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    Ok((folder.to_owned(), name.to_string_lossy().into_owned()))
}

/// Bytes that are free where `path` lies, 0 where the system does not tell.
fn free(path: &Path) -> u64 {
    let folder = path.parent().unwrap_or(path);
    rustix::fs::statvfs(folder).map_or(0, |s| s.f_bavail.saturating_mul(s.f_frsize))
}

/// Removes what killed runs for `name` have left in `folder`: files in the making that nobody holds a lock on.
fn remove_stale(folder: &Path, name: &str) {
    let Ok(entries) = fs::read_dir(folder) else {
        return;
    };
    let start = format!(".{name}.");
    for entry in entries.flatten() {
        let file_name = entry.file_name();
        let id = file_name
            .to_str()
            .and_then(|n| n.strip_prefix(start.as_str())?.strip_suffix(PARTIAL));
        if !id.is_some_and(|id| !id.is_empty() && id.bytes().all(|b| b.is_ascii_digit())) {
            continue;
        }
        let path = entry.path();
        let stale = File::open(&path).is_ok_and(|file| file.try_lock().is_ok());
        if stale && fs::remove_file(&path).is_ok() {
            tracing::info!("removed {}, which a killed run had left", path.display());
        }
    }
}

#[cfg(test)]
#[path = "writer_tests.rs"]
mod tests;
