//! Disks that are full, for tests that may mount one.

use std::path::Path;
use std::process::Command;

/// A file system of its own, unmounted with the test.
pub struct Mounted<'a>(pub &'a Path);

impl<'a> Mounted<'a> {
    /// A file system in memory, where this process may mount one.
    pub fn tmpfs(at: &'a Path, size: &str) -> Result<Self, String> {
        let output = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"])
            .arg(at)
            .output()
            .map_err(|e| e.to_string())?;
        match output.status.success() {
            true => Ok(Self(at)),
            false => Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
        }
    }
}

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.0).status();
    }
}
