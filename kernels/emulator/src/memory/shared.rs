//! Shared memory.

use super::{Checks, LaneFault};
use crate::Lanes;
use crate::fault::Cause;

/// Shared memory of one block, at addresses from 0.
#[derive(Debug)]
pub struct Shared {}

impl Shared {
    /// `bytes` of static and dynamic memory together, of a block of `threads`.
    pub fn new(bytes: usize, threads: u32, checks: Checks) -> Self { todo!() }
    /// Static and dynamic bytes together.
    pub fn len(&self) -> usize { todo!() }

    /// Loads `width` (1, 2, 4, 8 or 16) bytes in each lane of `mask`; other lanes of `out` stay as they are.
    ///
    /// # Errors
    /// Bounds, alignment, bytes that nobody wrote or that are still on their way, races.
    pub fn load_warp(
        &mut self,
        warp: u32,
        mask: u32,
        addresses: &[u32; 32],
        width: usize,
        out: &mut [Lanes],
    ) -> Result<(), LaneFault> { todo!() }

    /// Stores `width` bytes from each lane of `mask`. Lanes that write different values to one byte race.
    ///
    /// # Errors
    /// Bounds, alignment, races.
    pub fn store_warp(
        &mut self,
        warp: u32,
        mask: u32,
        addresses: &[u32; 32],
        width: usize,
        values: &[Lanes],
    ) -> Result<(), LaneFault> { todo!() }

    /// Loads `out.len()` bytes (1, 2, 4, 8 or 16) for one thread (linear index).
    ///
    /// # Errors
    /// As [`Shared::load_warp`].
    pub fn load(&mut self, thread: u32, address: u32, out: &mut [u8]) -> Result<(), Cause> { todo!() }

    /// Stores `bytes.len()` bytes for one thread.
    ///
    /// # Errors
    /// As [`Shared::store_warp`].
    pub fn store(&mut self, thread: u32, address: u32, bytes: &[u8]) -> Result<(), Cause> { todo!() }

    /// Replaces the 2, 4 or 8 bytes by `update` of them; the old value.
    ///
    /// # Errors
    /// As a load and a store; atomics do not race with each other.
    pub fn atomic(
        &mut self,
        thread: u32,
        address: u32,
        width: usize,
        update: &mut dyn FnMut(u64) -> u64,
    ) -> Result<u64, Cause> { todo!() }

    /// A completed barrier: all accesses before it of the warps in `arrived` (a bit each; those of `bar.arrive` too)
    /// come before all later ones of the warps in `waited`. `bar.sync 0` passes all warps twice.
    pub fn barrier(&mut self, arrived: u32, waited: u32) { todo!() }

    /// `cp.async`: `bytes` (already loaded; zeros where they are filled in) are on their way to `address`, and nobody may
    /// read or write there before [`Shared::wait_group`] by this thread.
    ///
    /// # Errors
    /// Bounds, alignment, a race with those who still read there.
    pub fn copy_async(&mut self, thread: u32, address: u32, bytes: &[u8]) -> Result<(), Cause> { todo!() }
    /// `cp.async.commit_group`.
    pub fn commit_group(&mut self, thread: u32) { todo!() }
    /// `cp.async.wait_group pending`: all but the latest `pending` groups of the thread have arrived.
    pub fn wait_group(&mut self, thread: u32, pending: usize) { todo!() }
    /// `cp.async.wait_all`: all of the thread's copies have arrived, committed or not.
    pub fn wait_all(&mut self, thread: u32) { todo!() }

    /// `mbarrier.init`.
    ///
    /// # Errors
    /// Bounds, alignment, races.
    pub fn mbarrier_init(&mut self, thread: u32, address: u32, count: u32) -> Result<(), Cause> { todo!() }
    /// `mbarrier.inval`.
    ///
    /// # Errors
    /// No mbarrier there.
    pub fn mbarrier_inval(&mut self, thread: u32, address: u32) -> Result<(), Cause> { todo!() }
    /// `mbarrier.arrive` (`count` arrivals, after `expect` more bytes of `expect_tx`): the state to wait with.
    ///
    /// # Errors
    /// No mbarrier there.
    pub fn mbarrier_arrive(&mut self, thread: u32, address: u32, count: u32, expect: u32) -> Result<u64, Cause> { todo!() }
    /// `mbarrier.expect_tx`, without arriving.
    ///
    /// # Errors
    /// No mbarrier there.
    pub fn mbarrier_expect(&mut self, thread: u32, address: u32, bytes: u32) -> Result<(), Cause> { todo!() }
    /// `cp.async.mbarrier.arrive[.noinc]`: arrives once all earlier `cp.async` of the thread have arrived (at once, here).
    ///
    /// # Errors
    /// No mbarrier there.
    pub fn mbarrier_arrive_copies(&mut self, thread: u32, address: u32, noinc: bool) -> Result<(), Cause> { todo!() }
    /// `mbarrier.test_wait` with the state of an arrival: whether that phase is over. If so, what came before it is seen.
    ///
    /// # Errors
    /// No mbarrier there.
    pub fn mbarrier_test(&mut self, thread: u32, address: u32, state: u64) -> Result<bool, Cause> { todo!() }
    /// `mbarrier.test_wait.parity`: whether the phase of that parity (0 or 1) is over.
    ///
    /// # Errors
    /// No mbarrier there.
    pub fn mbarrier_test_parity(&mut self, thread: u32, address: u32, parity: u32) -> Result<bool, Cause> { todo!() }
    /// `cp.async.bulk` into shared memory: `bytes` are on their way, and `complete_tx` at the mbarrier says that they came.
    /// They are seen by those who wait for the phase.
    ///
    /// # Errors
    /// No mbarrier there; bounds, alignment, a race with those who still read there.
    pub fn bulk_async(&mut self, thread: u32, address: u32, bytes: &[u8], mbarrier: u32) -> Result<(), Cause> { todo!() }
}
