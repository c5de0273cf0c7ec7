//! Small files that appear whole or not at all: pictures, latents, reports.

use std::fs;
use std::io::{self, Write};
use std::path::Path;

use super::WriteError;
use super::disk;
use super::writer::folder_of;

/// Writes `bytes` to a sibling of `path`, then renames it. Folders that are missing are made.
///
/// # Errors
/// [`WriteError`], which names `path` and never the sibling; then `path` is as it was.
pub fn write_whole(path: &Path, bytes: &[u8]) -> Result<(), WriteError> {
    // The rename would put a file in the place of a device.
    if fs::metadata(path).is_ok_and(|kind| !kind.is_file()) {
        return Err(match path.is_dir() {
            true => WriteError::Folder(path.to_owned()),
            false => WriteError::Special(path.to_owned()),
        });
    }
    let needed = bytes.len() as u64;
    let folder = folder_of(path);
    let failed = |free, e| WriteError::of(path, needed, free, without_path(e));
    fs::create_dir_all(folder).map_err(|e| failed(None, e))?;
    let mut file = tempfile::Builder::new()
        .prefix(".qwen-nvfp4-")
        .suffix(".tmp")
        .permissions(public_permissions())
        .tempfile_in(folder)
        .map_err(|e| failed(None, e))?;
    let free = disk::free_space(file.as_file());
    file.write_all(bytes).map_err(|e| failed(free, e))?;
    file.as_file().sync_all().map_err(|e| failed(free, e))?;
    file.persist(path).map_err(|e| failed(free, e.error))?;
    Ok(())
}

/// Replaces `path` by way of `beside`, a file in the same folder that only this process writes. Not `synced` it outlives the
/// process, but not a loss of power.
///
/// # Errors
/// [`WriteError`], which names `path`; then `path` is as it was.
pub fn replace_by_way_of(
    path: &Path,
    beside: &Path,
    bytes: &[u8],
    synced: bool,
) -> Result<(), WriteError> {
    let failed = |free, e| WriteError::of(path, bytes.len() as u64, free, e);
    let mut file = fs::File::create(beside).map_err(|e| failed(None, e))?;
    let free = disk::free_space(&file);
    let written = file.write_all(bytes).and_then(|()| match synced {
        true => file.sync_all(),
        false => Ok(()),
    });
    written
        .and_then(|()| fs::rename(beside, path))
        .map_err(|e| {
            let _ = fs::remove_file(beside);
            failed(free, e)
        })
}

/// The system's own error: `tempfile` wraps it together with the name of the temporary file, which nobody asked for.
pub(crate) fn without_path(error: io::Error) -> io::Error {
    let inner = error
        .get_ref()
        .and_then(|wrapped| wrapped.source()?.downcast_ref::<io::Error>());
    match inner.and_then(io::Error::raw_os_error) {
        Some(code) => io::Error::from_raw_os_error(code),
        None => error,
    }
}

/// What an ordinary new file has, less the umask: temporary files are private by default.
fn public_permissions() -> fs::Permissions {
    #[cfg(unix)]
    {
        std::os::unix::fs::PermissionsExt::from_mode(0o666)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn folders_are_made_and_errors_name_the_file_that_was_asked_for() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b/c.png");
        write_whole(&path, b"picture").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"picture");
        let below = path.join("d.png");
        let error = write_whole(&below, b"").unwrap_err().to_string();
        assert!(
            error.contains("c.png/d.png") && !error.contains(".qwen-nvfp4-"),
            "{error}"
        );
        let socket = dir.path().join("socket");
        let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        let error = write_whole(&socket, b"picture").unwrap_err();
        assert!(matches!(error, WriteError::Special(_)), "{error}");
        assert!(!fs::metadata(&socket).unwrap().is_file());
        let wrapped = tempfile::tempfile_in(dir.path().join("nowhere")).unwrap_err();
        let plain = without_path(wrapped);
        assert_eq!(plain.kind(), io::ErrorKind::NotFound);
        assert!(!plain.to_string().contains("nowhere"), "{plain}");
    }
}
