//! What file systems offer beyond `std::fs`: space reserved ahead, a rename that replaces nothing. Where a system has no
//! such call, the nearest that is safe.

use std::fs::{self, File};
use std::io;
use std::path::Path;

/// Bytes that a file in the same file system may still take, where the system tells.
pub(super) fn free_space(file: &File) -> Option<u64> {
    let stat = rustix::fs::fstatvfs(file).ok()?;
    stat.f_bavail.checked_mul(stat.f_frsize)
}

/// Makes `file` `length` bytes long with its blocks allocated, so that no later write can find the disk full.
/// File systems that cannot allocate get the length alone.
pub(super) fn reserve(file: &File, length: u64) -> io::Result<()> {
    #[cfg(target_os = "linux")]
    {
        use rustix::fs::{FallocateFlags, fallocate};
        use rustix::io::Errno;
        loop {
            match fallocate(file, FallocateFlags::empty(), 0, length) {
                Ok(()) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => break,
                Err(other) => return Err(other.into()),
            }
        }
    }
    file.set_len(length)
}

/// Renames `from` to `to` unless `to` exists.
///
/// # Errors
/// [`io::ErrorKind::AlreadyExists`] where it does.
pub(super) fn rename_new(from: &Path, to: &Path) -> io::Result<()> {
    #[cfg(target_os = "linux")]
    {
        use rustix::fs::{CWD, RenameFlags, renameat_with};
        use rustix::io::Errno;
        match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
            Ok(()) => return Ok(()),
            Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {}
            Err(other) => return Err(other.into()),
        }
    }
    // A hard link is never made over an existing name.
    match fs::hard_link(from, to) {
        Ok(()) => fs::remove_file(from),
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Err(e),
        // A file system without links (FAT): an instant remains in which another file can appear.
        Err(_) if fs::symlink_metadata(to).is_err() => fs::rename(from, to),
        Err(_) => Err(io::ErrorKind::AlreadyExists.into()),
    }
}

/// Makes the names in `folder` durable, where folders can be synced.
pub(super) fn sync_folder(folder: &Path) -> io::Result<()> {
    match File::open(folder)?.sync_all() {
        Err(e)
            if matches!(
                e.kind(),
                io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported
            ) =>
        {
            Ok(())
        }
        other => other,
    }
}
