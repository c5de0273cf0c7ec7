//! A new safetensors file, written in any order by many threads, and there only when it is whole.
//!
//! The bytes go to a temporary file beside the output, whose space is reserved before any work is done. When
//! every byte has come, the file is synced and renamed. A run that fails leaves the output as it was; one that
//! is killed leaves its temporary file, which the next run to the same output removes: the lock on it is gone.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use super::Layout;
use super::disk;
use super::write_error::WriteError;

/// How often a temporary file is made anew when another run removed it before it was locked.
const ATTEMPTS: u32 = 16;
/// Characters of the output's name that the temporary file's name takes over.
const NAME_CHARACTERS: usize = 48;

/// A file that is being written.
pub struct Writer {
    path: PathBuf,
    overwrite: bool,
    layout: Layout,
    /// Bytes that have come, by tensor.
    written: Vec<AtomicU64>,
    temp: Temp,
}

impl Writer {
    /// Reserves the space beside `path` and writes the header. `path` itself is not touched.
    ///
    /// # Errors
    /// [`WriteError`]: the output exists and `overwrite` is false, its folder cannot be written, the disk is full.
    pub fn create(path: &Path, layout: Layout, overwrite: bool) -> Result<Self, WriteError> {
        check_target(path, overwrite)?;
        let folder = folder_of(path);
        fs::create_dir_all(folder).map_err(|e| WriteError::of(path, 0, None, e))?;
        remove_stale(path);
        let temp = Temp::create(path)?;
        let needed = layout.file_len();
        let free = disk::free_space(&temp.file);
        let full = || WriteError::DiskFull {
            path: path.to_owned(),
            needed,
            free,
        };
        if free.is_some_and(|free| free < needed) {
            return Err(full());
        }
        let failed = |source| WriteError::of(path, needed, free, source);
        disk::reserve(&temp.file, needed).map_err(failed)?;
        temp.file.write_all_at(layout.header(), 0).map_err(failed)?;
        Ok(Self {
            path: path.to_owned(),
            overwrite,
            written: (0..layout.tensors()).map(|_| AtomicU64::new(0)).collect(),
            layout,
            temp,
        })
    }

    /// Writes `bytes` of `tensor` (its index in the layout), from byte `offset` of the tensor on. Any thread may
    /// write any part, each part once.
    ///
    /// # Errors
    /// [`WriteError::OutOfTensor`] where the tensor has no such bytes, else what the file system says.
    ///
    /// # Panics
    /// Where the layout has no such tensor.
    pub fn write_at(&self, tensor: usize, offset: u64, bytes: &[u8]) -> Result<(), WriteError> {
        let length = bytes.len() as u64;
        let (begin, end) = self.layout.place(tensor);
        if offset
            .checked_add(length)
            .is_none_or(|stop| stop > end - begin)
        {
            return Err(WriteError::OutOfTensor {
                path: self.path.clone(),
                tensor: self.layout.name(tensor).to_owned(),
                offset,
                length,
            });
        }
        self.temp
            .file
            .write_all_at(bytes, begin + offset)
            .map_err(|source| {
                let free = disk::free_space(&self.temp.file);
                WriteError::of(&self.path, self.layout.file_len(), free, source)
            })?;
        self.written[tensor].fetch_add(length, Ordering::Relaxed);
        Ok(())
    }

    /// Makes the file durable and gives it its name.
    ///
    /// # Errors
    /// [`WriteError::Incomplete`] where bytes are missing, [`WriteError::Exists`] where a file of this name has
    /// appeared and must not be overwritten. The temporary file is removed.
    pub fn finish(mut self) -> Result<(), WriteError> {
        for (tensor, written) in self.written.iter().enumerate() {
            let written = written.load(Ordering::Relaxed);
            let (begin, end) = self.layout.place(tensor);
            if written != end - begin {
                return Err(WriteError::Incomplete {
                    path: self.path.clone(),
                    tensor: self.layout.name(tensor).to_owned(),
                    written,
                    expected: end - begin,
                });
            }
        }
        let failed = |source| WriteError::of(&self.path, self.layout.file_len(), None, source);
        self.temp.file.sync_all().map_err(failed)?;
        match self.overwrite {
            true => fs::rename(&self.temp.path, &self.path),
            false => disk::rename_new(&self.temp.path, &self.path),
        }
        .map_err(|source| match source.kind() {
            io::ErrorKind::AlreadyExists => WriteError::Exists(self.path.clone()),
            io::ErrorKind::IsADirectory => WriteError::Folder(self.path.clone()),
            _ => failed(source),
        })?;
        self.temp.renamed = true;
        disk::sync_folder(folder_of(&self.path)).map_err(failed)
    }
}

/// Checks that a file may be made at `path`.
fn check_target(path: &Path, overwrite: bool) -> Result<(), WriteError> {
    let Ok(link) = fs::symlink_metadata(path) else {
        return Ok(());
    };
    // A link is replaced, not followed: what it points to may belong to a cache.
    let kind = fs::metadata(path).unwrap_or(link);
    match (kind.is_dir(), overwrite) {
        (true, _) => Err(WriteError::Folder(path.to_owned())),
        (false, false) => Err(WriteError::Exists(path.to_owned())),
        (false, true) if kind.is_file() || kind.is_symlink() => Ok(()),
        (false, true) => Err(WriteError::Special(path.to_owned())),
    }
}

/// The folder in which `path` lies.
pub(super) fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if folder != Path::new("") => folder,
        _ => Path::new("."),
    }
}

/// What the names of temporary files for `path` begin with.
fn temp_prefix(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let name: String = name.chars().take(NAME_CHARACTERS).collect();
    format!(".{name}.")
}

const TEMP_SUFFIX: &str = ".partial";

/// Removes what earlier runs to the same output left behind: temporary files on which nobody holds the lock.
fn remove_stale(path: &Path) {
    let prefix = temp_prefix(path);
    let is_temp = |name: OsString| {
        let middle = name
            .to_str()
            .and_then(|name| name.strip_prefix(&prefix)?.strip_suffix(TEMP_SUFFIX));
        middle.is_some_and(|m| !m.is_empty() && m.bytes().all(|b| b.is_ascii_digit() || b == b'-'))
    };
    let Ok(entries) = fs::read_dir(folder_of(path)) else {
        return;
    };
    for entry in entries.flatten().filter(|e| is_temp(e.file_name())) {
        // Not more than an attempt: a file that stays takes space, no more.
        let stale = entry.file_type().is_ok_and(|kind| kind.is_file());
        if let (true, Ok(file)) = (stale, OpenOptions::new().write(true).open(entry.path()))
            && file.try_lock().is_ok()
        {
            tracing::warn!(
                "removing {}, left by an earlier run",
                entry.path().display()
            );
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// A locked temporary file, removed when dropped unless it was renamed.
struct Temp {
    path: PathBuf,
    file: File,
    renamed: bool,
}

impl Temp {
    fn create(output: &Path) -> Result<Self, WriteError> {
        let failed = |source| WriteError::of(output, 0, None, source);
        if output.file_name().is_none() {
            return Err(WriteError::Folder(output.to_owned()));
        }
        let (prefix, pid) = (temp_prefix(output), std::process::id());
        for attempt in 0..ATTEMPTS {
            let name = format!("{prefix}{pid}-{attempt}{TEMP_SUFFIX}");
            let path = output.with_file_name(name);
            let file = match OpenOptions::new()
                .read(true)
                .write(true)
                .create_new(true)
                .open(&path)
            {
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => continue,
                opened => opened.map_err(failed)?,
            };
            match file.try_lock() {
                // Another run may have taken the file for a stale one just before the lock.
                Ok(()) if !path.exists() => continue,
                Err(TryLockError::WouldBlock) => continue,
                // A file system without locks: nobody else can lock it either, so it counts as live.
                Ok(()) | Err(TryLockError::Error(_)) => {}
            }
            return Ok(Self {
                path,
                file,
                renamed: false,
            });
        }
        Err(failed(io::ErrorKind::AlreadyExists.into()))
    }
}

impl Drop for Temp {
    fn drop(&mut self) {
        if !self.renamed {
            let _ = fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
#[path = "writer_tests.rs"]
mod tests;
