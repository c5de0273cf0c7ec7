//! Global memory as the blocks of one launch see it.

use std::sync::Arc;

use super::allocation::Allocation;
use super::blocks::{Access, Blocks};
use super::global::find;
use super::{Checks, Global, LaneFault};
use crate::Lanes;
use crate::fault::Cause;

/// Global memory as the blocks of one launch see it. All of them share one. What the host frees meanwhile stays until
/// the launch ends.
#[derive(Debug)]
pub struct View<'a> {
    global: &'a Global,
    live: Arc<Vec<Arc<Allocation>>>,
    uninitialised: bool,
    blocks: Option<Blocks>,
}

/// A warp's place in a [`View`]: whose it is, and the allocation it touched last.
#[derive(Debug, Clone, Copy)]
pub struct Cursor {
    block: u32,
    /// Accesses from now on are strong (`.volatile`, `.relaxed`, `.acquire`, `.release`): they do not race.
    pub strong: bool,
    index: usize,
}

impl Cursor {
    /// Of a warp of block `block` (linear index).
    pub fn new(block: u32) -> Self {
        Self {
            block,
            strong: false,
            index: 0,
        }
    }
}

impl<'a> View<'a> {
    pub(super) fn new(
        global: &'a Global,
        live: Arc<Vec<Arc<Allocation>>>,
        checks: Checks,
        blocks: usize,
    ) -> Self {
        let blocks = (checks.global_races && blocks > 1).then(|| Blocks::new(live.len(), blocks));
        Self {
            global,
            live,
            uninitialised: checks.uninitialised,
            blocks,
        }
    }

    /// The allocation and the offset in it of an access that is in bounds.
    #[inline]
    fn place(
        &self,
        cursor: &mut Cursor,
        access: &'static str,
        address: u64,
        bytes: usize,
    ) -> Result<(&Allocation, usize), Cause> {
        if let Some(allocation) = self.live.get(cursor.index)
            && let Some(offset) = allocation.offset(address, bytes)
        {
            return Ok((allocation, offset));
        }
        let found = find(&self.live, address);
        if let Some(index) = found
            && let Some(offset) = self.live[index].offset(address, bytes)
        {
            cursor.index = index;
            return Ok((&self.live[index], offset));
        }
        Err(self.global.out_of_bounds(access, address, bytes))
    }

    #[inline]
    fn aligned(
        &self,
        cursor: &mut Cursor,
        access: &'static str,
        address: u64,
        bytes: usize,
    ) -> Result<(&Allocation, usize), Cause> {
        if !address.is_multiple_of(bytes as u64) {
            return Err(Cause::Misaligned {
                access,
                bytes,
                address,
            });
        }
        self.place(cursor, access, address, bytes)
    }

    /// Checks a read that is in bounds, and notes it.
    #[inline]
    fn reads(
        &self,
        cursor: &Cursor,
        allocation: &Allocation,
        offset: usize,
        bytes: usize,
    ) -> Result<(), Cause> {
        if self.uninitialised
            && let Some(byte) = allocation.unwritten(offset, bytes)
        {
            let address = allocation.base + (offset + byte) as u64;
            return Err(Cause::Uninitialised {
                space: "global",
                address,
            });
        }
        if cursor.strong {
            Ok(())
        } else {
            self.touch(cursor, allocation, (offset, bytes), Access::Read)
        }
    }

    #[inline]
    fn writes(
        &self,
        cursor: &Cursor,
        allocation: &Allocation,
        offset: usize,
        bytes: usize,
    ) -> Result<(), Cause> {
        let access = if cursor.strong {
            Access::StrongWrite
        } else {
            Access::Write
        };
        self.touch(cursor, allocation, (offset, bytes), access)
    }

    #[inline]
    fn touch(
        &self,
        cursor: &Cursor,
        allocation: &Allocation,
        range: (usize, usize),
        access: Access,
    ) -> Result<(), Cause> {
        match &self.blocks {
            Some(blocks) => blocks.touch(
                (cursor.index, allocation.base, allocation.len),
                range,
                cursor.block,
                access,
            ),
            None => Ok(()),
        }
    }

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
    ) -> Result<(), LaneFault> {
        each(mask, |lane| {
            let (allocation, offset) = self.aligned(cursor, "load", addresses[lane], width)?;
            self.reads(cursor, allocation, offset, width)?;
            allocation.load(offset, width, |word, value| out[word][lane] = value);
            Ok(())
        })
    }

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
    ) -> Result<(), LaneFault> {
        each(mask, |lane| {
            let (allocation, offset) = self.aligned(cursor, "store", addresses[lane], width)?;
            self.writes(cursor, allocation, offset, width)?;
            allocation.store(offset, width, |word| values[word][lane]);
            Ok(())
        })
    }

    /// Loads any number of bytes from any address, for one lane: for bulk and asynchronous copies.
    ///
    /// # Errors
    /// Bounds, bytes that nobody wrote, a race with another block. Alignment is the caller's to check.
    pub fn load(&self, cursor: &mut Cursor, address: u64, out: &mut [u8]) -> Result<(), Cause> {
        let (allocation, offset) = self.place(cursor, "load", address, out.len())?;
        self.reads(cursor, allocation, offset, out.len())?;
        allocation.read(offset, out);
        Ok(())
    }

    /// Stores any number of bytes at any address, for one lane.
    ///
    /// # Errors
    /// Bounds, a race with another block. Alignment is the caller's to check.
    pub fn store(&self, cursor: &mut Cursor, address: u64, bytes: &[u8]) -> Result<(), Cause> {
        let (allocation, offset) = self.place(cursor, "store", address, bytes.len())?;
        self.writes(cursor, allocation, offset, bytes.len())?;
        allocation.write(offset, bytes);
        Ok(())
    }

    /// Replaces the 2, 4 or 8 bytes by `update` of them, atomically; the old value. `update` may run several times.
    /// It also acquires what other blocks released: kernels pair a fence with a relaxed atomic.
    ///
    /// # Errors
    /// Bounds, alignment, bytes that nobody wrote, a race with another block's plain access.
    pub fn atomic(
        &self,
        cursor: &mut Cursor,
        address: u64,
        width: usize,
        update: &mut dyn FnMut(u64) -> u64,
    ) -> Result<u64, Cause> {
        let (allocation, offset) = self.aligned(cursor, "atomic", address, width)?;
        if self.uninitialised
            && let Some(byte) = allocation.unwritten(offset, width)
        {
            return Err(Cause::Uninitialised {
                space: "global",
                address: address + byte as u64,
            });
        }
        self.touch(cursor, allocation, (offset, width), Access::StrongWrite)?;
        let old = allocation.update(offset, width, update);
        self.acquire(cursor);
        Ok(old)
    }

    /// The warp's block has made its writes visible: `fence`, `membar`, `.release`.
    pub fn release(&self, cursor: &Cursor) {
        if let Some(blocks) = &self.blocks {
            blocks.release(cursor.block);
        }
    }

    /// The warp's block sees what others released until now: `fence`, `membar`, `.acquire`.
    pub fn acquire(&self, cursor: &Cursor) {
        if let Some(blocks) = &self.blocks {
            blocks.acquire(cursor.block);
        }
    }
}

/// Runs `access` for each lane of `mask`, from the lowest, until one fails.
#[inline]
pub(super) fn each(
    mask: u32,
    mut access: impl FnMut(usize) -> Result<(), Cause>,
) -> Result<(), LaneFault> {
    let mut rest = mask;
    while rest != 0 {
        let lane = rest.trailing_zeros();
        rest &= rest - 1;
        access(lane as usize).map_err(|cause| LaneFault { lane, cause })?;
    }
    Ok(())
}
