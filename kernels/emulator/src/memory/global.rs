//! Global memory.

use super::{Checks, LaneFault};
use crate::Lanes;
use crate::fault::Cause;

/// All allocations of one device. Threads share it.
#[derive(Debug)]
pub struct Global {}

impl Global {
    /// A device of `total` bytes.
    pub fn new(total: u64) -> Self { todo!() }
    /// New memory, 256-byte aligned, not initialised; `None` where the device has not that much left.
    pub fn allocate(&self, bytes: u64) -> Option<u64> { todo!() }
    /// Frees what [`Global::allocate`] gave. A second free, or any other address, is a fault.
    pub fn free(&self, address: u64) -> Result<(), Cause> { todo!() }
    /// Copies to the host. Bytes that were not initialised are copied as they are: the host may hold them unread.
    pub fn read(&self, address: u64, out: &mut [u8]) -> Result<(), Cause> { todo!() }
    /// Copies from the host.
    pub fn write(&self, address: u64, bytes: &[u8]) -> Result<(), Cause> { todo!() }
    /// Repeats `pattern` (1, 2 or 4 bytes) `count` times.
    pub fn fill(&self, address: u64, pattern: &[u8], count: usize) -> Result<(), Cause> { todo!() }
    /// Copies within the device, what is not initialised staying so.
    pub fn copy(&self, to: u64, from: u64, bytes: usize) -> Result<(), Cause> { todo!() }
    /// What the blocks of one launch see.
    pub fn view(&self, checks: Checks) -> View<'_> { todo!() }
}

/// Global memory as the blocks of one launch see it. `Sync`: all of them share one.
#[derive(Debug)]
pub struct View<'a> {
    global: &'a Global,
}

/// A warp's place in a [`View`]: who it is, and the allocation it touched last.
#[derive(Debug, Clone)]
pub struct Cursor {}

impl Cursor {
    /// Of the warp whose lane 0 is thread `thread` (linear index) of block `block` (linear index).
    pub fn new(block: u32, thread: u32) -> Self { todo!() }
}

impl View<'_> {
    /// Loads `width` (1, 2, 4, 8, 16 or 32) bytes in each lane of `mask`; other lanes of `out` stay as they are.
    ///
    /// # Errors
    /// Bounds, alignment, bytes that nobody wrote, a race with another block.
    pub fn load_warp(
        &self,
        cursor: &mut Cursor,
        mask: u32,
        addresses: &[u64; 32],
        width: usize,
        out: &mut [Lanes],
    ) -> Result<(), LaneFault> { todo!() }

    /// Stores `width` bytes from each lane of `mask`. Of lanes with one address the highest wins.
    ///
    /// # Errors
    /// Bounds, alignment, a race with another block.
    pub fn store_warp(
        &self,
        cursor: &mut Cursor,
        mask: u32,
        addresses: &[u64; 32],
        width: usize,
        values: &[Lanes],
    ) -> Result<(), LaneFault> { todo!() }

    /// Loads `out.len()` bytes (a power of two up to 32) for one lane.
    ///
    /// # Errors
    /// As [`View::load_warp`].
    pub fn load(&self, cursor: &mut Cursor, lane: u32, address: u64, out: &mut [u8]) -> Result<(), LaneFault> { todo!() }

    /// Loads any number of bytes from any address: for bulk copies.
    ///
    /// # Errors
    /// As [`View::load_warp`], but for alignment.
    pub fn load_bulk(&self, cursor: &mut Cursor, lane: u32, address: u64, out: &mut [u8]) -> Result<(), LaneFault> { todo!() }

    /// Stores `bytes.len()` bytes (a power of two up to 32) for one lane.
    ///
    /// # Errors
    /// As [`View::store_warp`].
    pub fn store(&self, cursor: &mut Cursor, lane: u32, address: u64, bytes: &[u8]) -> Result<(), LaneFault> { todo!() }

    /// Replaces the 2, 4 or 8 bytes by `update` of them, atomically; the old value. `update` may run several times.
    ///
    /// # Errors
    /// Bounds, alignment, bytes that nobody wrote, a race with another block's plain access.
    pub fn atomic(
        &self,
        cursor: &mut Cursor,
        lane: u32,
        (address, width): (u64, usize),
        update: &mut dyn FnMut(u64) -> u64,
    ) -> Result<u64, LaneFault> { todo!() }

    /// The warp's block has made its writes visible: `fence`, `membar`, `.release`.
    pub fn release(&self, cursor: &Cursor) { todo!() }
    /// The warp's block sees what others released until now: `fence`, `membar`, `.acquire`, `ld.volatile`.
    pub fn acquire(&self, cursor: &Cursor) { todo!() }
}
