//! Shared memory of one block.

use std::collections::BTreeMap;
use std::ops::Range;

use super::barriers::Mbarrier;
use super::copies::Copies;
use super::order::{Order, Stamp, WARPS};
use super::view::each;
use super::{Checks, LaneFault};
use crate::Lanes;
use crate::fault::Cause;

/// Shared memory of one block, at addresses from 0.
#[derive(Debug)]
pub struct Shared {
    pub(super) data: Vec<u8>,
    /// Who wrote each byte last.
    pub(super) writers: Vec<Stamp>,
    /// Which warps have read each byte since it was written.
    readers: Vec<u32>,
    /// When: a stamp for each warp and byte, warp by warp; valid where `readers` has the warp's bit.
    reads: Vec<Stamp>,
    pub(super) order: Order,
    pub(super) copies: Vec<Copies>,
    pub(super) mbarriers: BTreeMap<u32, Mbarrier>,
    checks: Checks,
}

impl Shared {
    /// `bytes` of static and dynamic memory together, of a block of `threads` (at most 1024).
    pub fn new(bytes: usize, threads: u32, checks: Checks) -> Self {
        let warps = (threads.div_ceil(32) as usize).clamp(1, WARPS);
        Self {
            data: vec![0; bytes],
            writers: vec![Stamp::NOBODY; bytes],
            readers: vec![0; bytes],
            reads: vec![Stamp::NOBODY; bytes * warps],
            order: Order::new(),
            copies: vec![Copies::default(); threads as usize],
            mbarriers: BTreeMap::new(),
            checks,
        }
    }

    /// As new, for the next block of the same launch: cheaper than [`Shared::new`].
    pub fn reset(&mut self) {
        self.writers.fill(Stamp::NOBODY);
        self.readers.fill(0);
        self.order = Order::new();
        self.copies
            .iter_mut()
            .for_each(|copies| *copies = Copies::default());
        self.mbarriers.clear();
    }

    /// Static and dynamic bytes together.
    pub fn len(&self) -> usize {
        self.data.len()
    }

    /// Whether the block has no shared memory.
    pub fn is_empty(&self) -> bool {
        self.data.is_empty()
    }

    fn races(&self) -> bool {
        self.checks.shared_races && !self.order.over
    }

    /// The first byte's index of an access in bounds.
    #[inline]
    pub(super) fn place(
        &self,
        access: &'static str,
        address: u32,
        bytes: usize,
    ) -> Result<usize, Cause> {
        let at = address as usize;
        if at + bytes <= self.data.len() {
            return Ok(at);
        }
        let nearest = format!("the block has {} bytes of shared memory", self.data.len());
        Err(Cause::OutOfBounds {
            access,
            bytes,
            address: u64::from(address),
            nearest,
        })
    }

    #[inline]
    pub(super) fn aligned(
        &self,
        access: &'static str,
        address: u32,
        bytes: usize,
    ) -> Result<usize, Cause> {
        if !address.is_multiple_of(bytes as u32) {
            return Err(Cause::Misaligned {
                access,
                bytes,
                address: u64::from(address),
            });
        }
        self.place(access, address, bytes)
    }

    /// Whether `thread` may read a byte with this stamp.
    fn may_read(&self, thread: u32, at: usize, stamp: Stamp) -> Result<(), Cause> {
        let address = at as u64;
        if stamp == Stamp::NOBODY {
            let fault = Cause::Uninitialised {
                space: "shared",
                address,
            };
            return if self.checks.uninitialised_shared {
                Err(fault)
            } else {
                Ok(())
            };
        }
        if !self.races() {
            return Ok(());
        }
        if stamp.is_pending() {
            let missing = "the wait of the thread that copied, or for the mbarrier's phase";
            return Err(Cause::NotYetVisible { address, missing });
        }
        if self.order.after(thread as usize / 32, stamp) {
            return Ok(());
        }
        if stamp.is_asynchronous() {
            return Err(Cause::NotYetVisible {
                address,
                missing: "a barrier after the wait, or the mbarrier's phase",
            });
        }
        Err(race(at, stamp, "wrote", thread, "read"))
    }

    #[inline]
    pub(super) fn check_read(&self, thread: u32, at: usize, bytes: usize) -> Result<(), Cause> {
        let writers = &self.writers[at..at + bytes];
        // Mostly one store has written all of them.
        if let [first, ..] = writers
            && all(writers, *first)
        {
            return self.may_read(thread, at, *first);
        }
        let mut each = writers.iter().enumerate();
        each.try_for_each(|(i, writer)| self.may_read(thread, at + i, *writer))
    }

    #[inline]
    fn note_read(&mut self, thread: u32, at: usize, bytes: usize) {
        if self.checks.shared_races {
            let warp = thread as usize / 32;
            let stamp = Stamp::new(thread, self.order.now(warp));
            self.readers[at..at + bytes]
                .iter_mut()
                .for_each(|readers| *readers |= 1 << warp);
            let first = warp * self.data.len() + at;
            self.reads[first..first + bytes].fill(stamp);
        }
    }

    /// Checks a write of `by.0` at `at` and notes it. `did` says it in words. `plain` holds the bytes of a plain store: one
    /// that changes nothing may meet another warp's, as when threads beyond an edge repeat the last row.
    fn note_write(
        &mut self,
        by: (u32, Stamp),
        did: &'static str,
        range: Range<usize>,
        plain: &[u8],
    ) -> Result<(), Cause> {
        let (thread, stamp) = by;
        if self.races() && !self.undisturbed(thread, range.clone()) {
            let warp = thread as usize / 32;
            for byte in range.clone() {
                let last = self.writers[byte];
                if last.is_pending() {
                    return Err(race(byte, last, "copies asynchronously", thread, did));
                }
                let both_atomic = last.is_atomic() && stamp.is_atomic();
                if last != Stamp::NOBODY && !both_atomic && !self.order.after(warp, last) {
                    let repeats = !last.is_atomic()
                        && plain.get(byte - range.start) == Some(&self.data[byte]);
                    if !repeats {
                        return Err(race(byte, last, "wrote", thread, did));
                    }
                }
                let mut others = self.readers[byte] & !(1 << warp);
                while others != 0 {
                    let other = others.trailing_zeros() as usize;
                    let read = self.reads[other * self.data.len() + byte];
                    if !self.order.after(warp, read) {
                        return Err(race(byte, read, "read", thread, did));
                    }
                    others &= others - 1;
                }
            }
        }
        self.readers[range.clone()].fill(0);
        self.writers[range].fill(stamp);
        Ok(())
    }

    /// Whether a write of these bytes comes after all else there, as told at a glance: what touched one of them touched all.
    #[inline]
    fn undisturbed(&self, thread: u32, range: Range<usize>) -> bool {
        let (writers, readers) = (&self.writers[range.clone()], &self.readers[range.clone()]);
        let ([writer, ..], [reader, ..]) = (writers, readers) else {
            return true;
        };
        let warp = thread as usize / 32;
        let known =
            *writer == Stamp::NOBODY || (!writer.is_pending() && self.order.after(warp, *writer));
        if !known || !all(writers, *writer) || !all(readers, *reader) {
            return false;
        }
        let mut others = *reader & !(1 << warp);
        while others != 0 {
            let first = others.trailing_zeros() as usize * self.data.len();
            let reads = &self.reads[first + range.start..first + range.end];
            if !self.order.after(warp, reads[0]) || !all(reads, reads[0]) {
                return false;
            }
            others &= others - 1;
        }
        true
    }

    pub(super) fn stamp(&self, thread: u32) -> Stamp {
        Stamp::new(thread, self.order.now(thread as usize / 32))
    }

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
    ) -> Result<(), LaneFault> {
        each(mask, |lane| {
            let at = self.aligned("load", addresses[lane], width)?;
            let thread = warp * 32 + lane as u32;
            self.check_read(thread, at, width)?;
            self.note_read(thread, at, width);
            match &self.data[at..at + width] {
                [a] => out[0][lane] = u32::from(*a),
                [a, b] => out[0][lane] = u32::from(u16::from_le_bytes([*a, *b])),
                bytes => {
                    for (word, bytes) in out.iter_mut().zip(bytes.as_chunks().0) {
                        word[lane] = u32::from_le_bytes(*bytes);
                    }
                }
            }
            Ok(())
        })
    }

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
    ) -> Result<(), LaneFault> {
        each(mask, |lane| {
            let at = self.aligned("store", addresses[lane], width)?;
            let thread = warp * 32 + lane as u32;
            let mut bytes = [0; 16];
            for (word, bytes) in values.iter().zip(bytes[..width].chunks_mut(4)) {
                bytes.copy_from_slice(&word[lane].to_le_bytes()[..bytes.len()]);
            }
            self.write(thread, at, "wrote", &bytes[..width])
        })?;
        if !self.races() {
            return Ok(());
        }
        // Who finds another lane's bytes in its place was overwritten by that lane in the same instruction.
        each(mask, |lane| {
            let at = addresses[lane] as usize;
            let kept = (values.iter().zip(self.data[at..at + width].chunks(4)))
                .all(|(word, bytes)| word[lane].to_le_bytes()[..bytes.len()] == *bytes);
            let other = self.writers[at].thread();
            match kept {
                true => Ok(()),
                false => Err(race(
                    at,
                    Stamp::new(warp * 32 + lane as u32, 0),
                    "wrote",
                    other,
                    "wrote something else",
                )),
            }
        })
    }

    /// Loads `out.len()` bytes (1, 2, 4, 8 or 16) for one thread (linear index).
    ///
    /// # Errors
    /// As [`Shared::load_warp`].
    pub fn load(&mut self, thread: u32, address: u32, out: &mut [u8]) -> Result<(), Cause> {
        let at = self.aligned("load", address, out.len())?;
        self.check_read(thread, at, out.len())?;
        self.note_read(thread, at, out.len());
        out.copy_from_slice(&self.data[at..at + out.len()]);
        Ok(())
    }

    /// Stores `bytes.len()` bytes for one thread.
    ///
    /// # Errors
    /// As [`Shared::store_warp`].
    pub fn store(&mut self, thread: u32, address: u32, bytes: &[u8]) -> Result<(), Cause> {
        let at = self.aligned("store", address, bytes.len())?;
        self.write(thread, at, "wrote", bytes)
    }

    pub(super) fn write(
        &mut self,
        thread: u32,
        at: usize,
        did: &'static str,
        bytes: &[u8],
    ) -> Result<(), Cause> {
        self.note_write(
            (thread, self.stamp(thread)),
            did,
            at..at + bytes.len(),
            bytes,
        )?;
        self.data[at..at + bytes.len()].copy_from_slice(bytes);
        Ok(())
    }

    /// Replaces the 1, 2, 4 or 8 bytes by `update` of them; the old value.
    ///
    /// # Errors
    /// As a load and a store; atomics do not race with each other.
    pub fn atomic(
        &mut self,
        thread: u32,
        address: u32,
        width: usize,
        update: &mut dyn FnMut(u64) -> u64,
    ) -> Result<u64, Cause> {
        let at = self.aligned("atomic", address, width)?;
        let warp = thread as usize / 32;
        for byte in at..at + width {
            let last = self.writers[byte];
            // An atomic of another warp orders nothing, and need not come before.
            if !last.is_atomic() || self.order.after(warp, last) {
                self.may_read(thread, byte, last)?;
            }
        }
        self.note_write(
            (thread, self.stamp(thread).atomic()),
            "updated atomically",
            at..at + width,
            &[],
        )?;
        let mut old = [0; 8];
        old[..width].copy_from_slice(&self.data[at..at + width]);
        let old = u64::from_le_bytes(old);
        self.data[at..at + width].copy_from_slice(&update(old).to_le_bytes()[..width]);
        Ok(old)
    }

    pub(super) fn fill_async(
        &mut self,
        by: (u32, Stamp),
        at: usize,
        bytes: &[u8],
    ) -> Result<(), Cause> {
        self.note_write(by, "copied there asynchronously", at..at + bytes.len(), &[])?;
        self.data[at..at + bytes.len()].copy_from_slice(bytes);
        Ok(())
    }
}

/// Whether all are `one`.
#[inline]
fn all<T: Copy + PartialEq>(them: &[T], one: T) -> bool {
    // Without a branch for each, so that the vector unit does it.
    them.iter().fold(true, |equal, it| equal & (*it == one))
}

fn race(
    at: usize,
    first: Stamp,
    first_did: &'static str,
    second: u32,
    second_did: &'static str,
) -> Cause {
    Cause::Race {
        space: "shared",
        address: at as u64,
        first: first.thread(),
        first_did,
        second,
        second_did,
    }
}
