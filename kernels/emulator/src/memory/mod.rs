//! Global and shared memory, each with a shadow: what was allocated, what was written, who may read it by now.
//!
//! **Global.** [`Global`] holds the allocations of one device; the host allocates, frees and copies through it. A launch
//! takes a [`View`] (`global.view(checks, blocks)`), which all its blocks share.
//! Each warp has a [`Cursor`] that remembers the allocation it touched last. Addresses lie in
//! `GLOBAL_BASE .. GLOBAL_END`; everything below is free for the windows of shared and local memory.
//!
//! **Shared.** [`Shared`] is the memory of one block, at addresses from 0. Order between warps is kept as vector
//! clocks: barriers join the clocks of the warps in them, an mbarrier hands the clocks of those who arrive to those
//! who wait. Two accesses of a byte, one of them a write, that no such chain orders are a race. Lanes of one warp are
//! taken to be ordered from one instruction to the next, as if `__syncwarp` stood between all of them.
//! Two plain stores of the same value by two warps are let pass, between blocks they are not.
//!
//! **Values.** A warp's value of `width` bytes is `max(1, width / 4)` words of [`crate::Lanes`]: word `w` of lane `l` is
//! `values[w][l]`; narrower values are zero-extended. Little endian.

mod allocation;
mod barriers;
mod blocks;
mod copies;
mod global;
mod order;
mod shared;
#[cfg(test)]
mod tests;
mod view;

pub use global::Global;
pub use shared::Shared;
pub use view::{Cursor, View};

use crate::fault::Cause;

/// First address of global memory.
pub const GLOBAL_BASE: u64 = 1 << 32;
/// End of the addresses of global memory.
pub const GLOBAL_END: u64 = 1 << 46;

/// Which checks are on. Bounds and alignment always are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Checks {
    /// Reads of bytes of global memory that nobody wrote.
    pub uninitialised: bool,
    /// The same of shared memory. Kernels that compute rows beyond an edge and drop them read such bytes.
    pub uninitialised_shared: bool,
    /// Races in shared memory, with `cp.async`'s visibility.
    pub shared_races: bool,
    /// Races in global memory between the blocks of one launch.
    pub global_races: bool,
}

impl Default for Checks {
    /// All on.
    fn default() -> Self {
        Self {
            uninitialised: true,
            uninitialised_shared: true,
            shared_races: true,
            global_races: true,
        }
    }
}

/// A fault and the lane that caused it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LaneFault {
    /// Lane of the warp, the lowest that is at fault.
    pub lane: u32,
    /// What is wrong.
    pub cause: Cause,
}
