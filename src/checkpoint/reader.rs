//! Bulk reads of a file that is also mapped: by position, so that a file which somebody cuts or replaces meanwhile is
//! an error. A map of it would end the process.

use std::fs::{File, Metadata};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use super::{CheckpointError, TensorView};

/// What tells a file from another one, or from itself after a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    device: u64,
    inode: u64,
    len: u64,
    modified: (i64, i64),
}

impl Identity {
    pub fn of(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            len: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
        }
    }
}

/// A file opened for reading by position; embedded bytes are read where they are.
pub struct Reader {
    path: PathBuf,
    /// None for bytes of the program itself.
    file: Option<(File, Identity)>,
}

impl Reader {
    /// Opens `path` again; `known` is what it was when it was mapped.
    pub(super) fn open(path: &Path, known: Option<Identity>) -> Result<Self, CheckpointError> {
        let Some(known) = known else {
            return Ok(Self {
                path: path.to_owned(),
                file: None,
            });
        };
        let file = File::open(path).map_err(|source| CheckpointError::Io {
            path: path.to_owned(),
            source,
        })?;
        let reader = Self {
            path: path.to_owned(),
            file: Some((file, known)),
        };
        reader.check_unchanged()?;
        Ok(reader)
    }

    /// Reads `buf.len()` bytes of `view` from its byte `offset` on.
    ///
    /// # Errors
    /// [`CheckpointError::Changed`] where the file has become shorter, [`CheckpointError::Io`] where the disk fails.
    ///
    /// # Panics
    /// Where the range lies outside of the tensor: the caller's arithmetic is wrong.
    pub fn read_at(
        &self,
        view: &TensorView,
        offset: usize,
        buf: &mut [u8],
    ) -> Result<(), CheckpointError> {
        let Some((file, _)) = &self.file else {
            buf.copy_from_slice(&view.bytes()[offset..offset + buf.len()]);
            return Ok(());
        };
        assert!(
            offset + buf.len() <= view.byte_len(),
            "a range outside of the tensor"
        );
        let at = (view.offset() + offset) as u64;
        file.read_exact_at(buf, at)
            .map_err(|source| match source.kind() {
                std::io::ErrorKind::UnexpectedEof => self.changed(),
                _ => CheckpointError::Io {
                    path: self.path.clone(),
                    source,
                },
            })
    }

    /// Whether the file is still the one that was opened first.
    ///
    /// # Errors
    /// [`CheckpointError::Changed`] where it is not.
    pub fn check_unchanged(&self) -> Result<(), CheckpointError> {
        let Some((file, known)) = &self.file else {
            return Ok(());
        };
        match file.metadata() {
            Ok(now) if Identity::of(&now) == *known => Ok(()),
            _ => Err(self.changed()),
        }
    }

    fn changed(&self) -> CheckpointError {
        CheckpointError::Changed {
            path: self.path.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::fs::{self, OpenOptions};
    use std::time::{Duration, SystemTime};

    use safetensors::Dtype;
    use safetensors::tensor::TensorView as Plain;

    use super::*;
    use crate::checkpoint::SafetensorsFile;

    fn bytes() -> Vec<u8> {
        let numbers: Vec<u8> = (0..100).collect();
        let view = Plain::new(Dtype::U8, vec![100], &numbers).unwrap();
        safetensors::serialize([("a", view)], None).unwrap()
    }

    #[test]
    fn reads_by_position_equal_the_map() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.safetensors");
        fs::write(&path, bytes()).unwrap();
        let embedded = SafetensorsFile::from_static("memory", bytes().leak()).unwrap();
        for file in [SafetensorsFile::open(&path).unwrap(), embedded] {
            let (view, reader) = (file.view("a").unwrap(), file.reader().unwrap());
            let mut buf = [0; 7];
            reader.read_at(&view, 93, &mut buf).unwrap();
            assert_eq!(buf, view.bytes()[93..]);
            reader.check_unchanged().unwrap();
        }
    }

    #[test]
    fn a_file_that_is_cut_replaced_or_rewritten_meanwhile() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.safetensors");
        let changed = |result: Result<(), CheckpointError>| {
            let error = result.unwrap_err();
            assert!(matches!(error, CheckpointError::Changed { .. }), "{error}");
            assert!(error.to_string().contains("x.safetensors"), "{error}");
        };
        let open = || {
            fs::write(&path, bytes()).unwrap();
            let file = SafetensorsFile::open(&path).unwrap();
            let reader = file.reader().unwrap();
            (file.view("a").unwrap(), file, reader)
        };

        let (view, _file, reader) = open();
        let handle = OpenOptions::new().write(true).open(&path).unwrap();
        handle.set_len(50).unwrap();
        changed(reader.read_at(&view, 0, &mut [0; 100]));
        changed(reader.check_unchanged());

        let (_, file, reader) = open();
        let handle = OpenOptions::new().write(true).open(&path).unwrap();
        let later = SystemTime::now() + Duration::from_secs(1);
        handle.write_all_at(&[7], 99).unwrap();
        handle.set_modified(later).unwrap();
        changed(reader.check_unchanged());
        changed(file.reader().map(drop));

        // Another file under the same name: what was opened stays what it was.
        let (view, file, reader) = open();
        fs::remove_file(&path).unwrap();
        fs::write(&path, bytes()).unwrap();
        let mut buf = [0; 100];
        reader.read_at(&view, 0, &mut buf).unwrap();
        assert_eq!(buf, view.bytes());
        changed(file.reader().map(drop));
    }
}
