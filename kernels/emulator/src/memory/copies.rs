//! `cp.async`: what is on its way into shared memory, and when it has arrived.

use std::collections::VecDeque;

use super::Shared;
use super::order::Stamp;
use crate::fault::Cause;

/// The `cp.async` of one thread that it has not waited for.
#[derive(Debug, Clone, Default)]
pub(super) struct Copies {
    /// First byte and length of each, in order.
    ranges: VecDeque<(u32, u32)>,
    /// How many of them each committed group holds; those that follow are not committed.
    groups: VecDeque<usize>,
    open: usize,
}

impl Shared {
    /// `cp.async`: `bytes` (already loaded; zeros where they are filled in) are on their way to `address`, and nobody
    /// may read or write there before [`Shared::wait_group`] by this thread.
    ///
    /// # Errors
    /// Bounds, alignment, a race with those who still read there.
    pub fn copy_async(&mut self, thread: u32, address: u32, bytes: &[u8]) -> Result<(), Cause> {
        let at = self.aligned("cp.async", address, bytes.len())?;
        self.fill_async((thread, Stamp::pending(thread)), at, bytes)?;
        if let Some(copies) = self.copies.get_mut(thread as usize) {
            copies.ranges.push_back((address, bytes.len() as u32));
            copies.open += 1;
        }
        Ok(())
    }

    /// What is on its way by `pending` has arrived there, and is `stamp`'s from now on.
    pub(super) fn land(&mut self, ranges: &[(u32, u32)], pending: Stamp, stamp: Stamp) {
        for (address, bytes) in ranges {
            let range = *address as usize..(*address + *bytes) as usize;
            self.writers[range]
                .iter_mut()
                .filter(|writer| **writer == pending)
                .for_each(|writer| *writer = stamp);
        }
    }

    /// The first `count` copies of the thread have arrived.
    fn arrive(&mut self, thread: u32, count: usize) {
        let (pending, stamp) = (Stamp::pending(thread), self.stamp(thread).asynchronous());
        for _ in 0..count {
            let copies = self.copies.get_mut(thread as usize);
            if let Some(range) = copies.and_then(|copies| copies.ranges.pop_front()) {
                self.land(&[range], pending, stamp);
            }
        }
    }

    /// `cp.async.commit_group`.
    pub fn commit_group(&mut self, thread: u32) {
        if let Some(copies) = self.copies.get_mut(thread as usize) {
            copies.groups.push_back(std::mem::take(&mut copies.open));
        }
    }

    /// `cp.async.wait_group pending`: all but the latest `pending` groups of the thread have arrived.
    pub fn wait_group(&mut self, thread: u32, pending: usize) {
        while let Some(copies) = self.copies.get_mut(thread as usize)
            && copies.groups.len() > pending
        {
            let count = copies.groups.pop_front().unwrap_or_default();
            self.arrive(thread, count);
        }
    }

    /// `cp.async.wait_all`: all of the thread's copies have arrived, committed or not.
    pub fn wait_all(&mut self, thread: u32) {
        self.wait_group(thread, 0);
        let open = self.copies.get_mut(thread as usize);
        let open = open.map(|copies| std::mem::take(&mut copies.open));
        self.arrive(thread, open.unwrap_or_default());
    }

    /// Everything that the thread copies and has not waited for.
    pub(super) fn on_their_way(&self, thread: u32) -> Vec<(u32, u32)> {
        let copies = self.copies.get(thread as usize);
        copies
            .map(|copies| copies.ranges.iter().copied().collect())
            .unwrap_or_default()
    }
}
