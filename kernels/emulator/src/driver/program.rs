//! The door to the virtual machine: a module that can be run.

use super::settings::Settings;
use crate::fault::{Cause, Fault};
use crate::memory::Global;

/// A module in the memory of the device.
#[derive(Debug)]
pub(super) struct Program {}

/// What the host must know of an entry.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub name: String,
    /// Offset and bytes of each parameter in the buffer.
    pub parameters: Vec<(usize, usize)>,
    /// Bytes of shared memory that the kernel declares.
    pub static_shared: usize,
    /// Bytes of local memory of a thread.
    pub local_bytes: usize,
    /// Most threads of a block (`.maxntid`, `.reqntid`).
    pub max_threads: Option<u32>,
}

/// A launch.
#[derive(Debug, Clone, Copy)]
pub(super) struct Launch<'a> {
    pub grid: [u32; 3],
    pub block: [u32; 3],
    pub dynamic_shared: u32,
    pub parameters: &'a [u8],
    pub settings: &'a Settings,
}

impl Program {
    pub fn load(text: &str, memory: &Global) -> Result<Self, String> {
        let _ = (text, memory);
        Ok(Self {})
    }

    /// `.target`.
    pub fn target(&self) -> &str {
        "sm_50"
    }

    /// `.version`, as 10 times the major and the minor number.
    pub fn version(&self) -> u32 {
        88
    }

    /// Name, address and bytes of each variable.
    pub fn variables(&self) -> impl Iterator<Item = (&str, u64, usize)> {
        std::iter::empty()
    }

    pub fn entry(&self, name: &str) -> Option<Entry> {
        let _ = name;
        None
    }

    pub fn run(&self, entry: &Entry, launch: &Launch<'_>, memory: &Global) -> Result<(), Fault> {
        let _ = (launch, memory);
        Err(Cause::Instruction(format!("{}: nothing runs yet", entry.name)).into())
    }
}
