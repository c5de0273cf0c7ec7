//! Barriers of a block; mbarrier objects in shared memory, and the bulk copies that they wait for.

use super::Shared;
use super::order::{Clock, ENGINE_THREAD, Stamp, WARPS, join};
use crate::fault::Cause;

/// Bytes and alignment of an mbarrier.
const BYTES: usize = 8;

/// One mbarrier. Its bytes in shared memory are opaque; this is what they mean.
#[derive(Debug, Clone)]
pub(super) struct Mbarrier {
    /// Arrivals of each phase.
    count: u32,
    /// Arrivals that this phase still waits for.
    pending: u32,
    /// Bytes that this phase still waits for. Below zero where they came before they were expected.
    bytes: i64,
    /// Phases that are over.
    phase: u64,
    /// What those did who arrived in this phase.
    arrived: Clock,
    /// What those did who arrived in the phases that are over.
    over: Clock,
    /// What bulk copies brought in this phase.
    copied: Vec<(u32, u32)>,
}

impl Shared {
    /// A warp arrives at barrier `id` (`bar.sync` as well as `bar.arrive`): what it did so far will be seen by those
    /// who wait there.
    pub fn barrier_arrive(&mut self, id: u32, warp: u32) {
        self.order.arrive(id as usize, warp as usize);
    }

    /// The barrier is complete: the warps of `waited` (a bit each, those in `bar.sync`) see what all that arrived did.
    pub fn barrier_complete(&mut self, id: u32, waited: u32) {
        self.order.complete(id as usize, waited);
    }

    /// `mbarrier.init`.
    ///
    /// # Errors
    /// Bounds, alignment, races.
    pub fn mbarrier_init(&mut self, thread: u32, address: u32, count: u32) -> Result<(), Cause> {
        let at = self.aligned("mbarrier.init", address, BYTES)?;
        self.write(thread, at, "initialised an mbarrier", &[0; BYTES])?;
        let (arrived, over) = ([0; WARPS + 1], [0; WARPS + 1]);
        let mbarrier = Mbarrier {
            count,
            pending: count,
            bytes: 0,
            phase: 0,
            arrived,
            over,
            copied: Vec::new(),
        };
        self.mbarriers.insert(address, mbarrier);
        Ok(())
    }

    /// `mbarrier.inval`.
    ///
    /// # Errors
    /// No mbarrier there.
    pub fn mbarrier_inval(&mut self, thread: u32, address: u32) -> Result<(), Cause> {
        self.change(thread, address, |_| ())?;
        self.mbarriers.remove(&address);
        Ok(())
    }

    /// `mbarrier.arrive` (`count` arrivals, after `expect` more bytes of `expect_tx`): the state to wait with.
    ///
    /// # Errors
    /// No mbarrier there; more arrivals than the phase waits for.
    pub fn mbarrier_arrive(
        &mut self,
        thread: u32,
        address: u32,
        count: u32,
        expect: u32,
    ) -> Result<u64, Cause> {
        let mut clock = [0; WARPS + 1];
        self.order.release(thread as usize / 32, &mut clock);
        let (phase, enough) = self.change(thread, address, |mbarrier| {
            join(&mut mbarrier.arrived, &clock);
            mbarrier.bytes += i64::from(expect);
            let left = mbarrier.pending.checked_sub(count);
            mbarrier.pending = left.unwrap_or(0);
            (mbarrier.phase, left.is_some())
        })?;
        if !enough {
            let text = format!(
                "mbarrier at shared {address:#x}: {count} arrivals are more than its phase waits for"
            );
            return Err(Cause::Instruction(text));
        }
        self.complete_phase(address);
        Ok(phase)
    }

    /// `mbarrier.expect_tx`, without arriving.
    ///
    /// # Errors
    /// No mbarrier there.
    pub fn mbarrier_expect(&mut self, thread: u32, address: u32, bytes: u32) -> Result<(), Cause> {
        self.change(thread, address, |mbarrier| {
            mbarrier.bytes += i64::from(bytes)
        })
    }

    /// `mbarrier.complete_tx`, without a copy.
    ///
    /// # Errors
    /// No mbarrier there.
    pub fn mbarrier_complete(
        &mut self,
        thread: u32,
        address: u32,
        bytes: u32,
    ) -> Result<(), Cause> {
        self.change(thread, address, |mbarrier| {
            mbarrier.bytes -= i64::from(bytes)
        })?;
        self.complete_phase(address);
        Ok(())
    }

    /// `cp.async.mbarrier.arrive[.noinc]`: arrives once all earlier `cp.async` of the thread have arrived (at once, here).
    /// What they brought is seen by those who wait for the phase, and by the thread only so.
    ///
    /// # Errors
    /// No mbarrier there.
    pub fn mbarrier_arrive_copies(
        &mut self,
        thread: u32,
        address: u32,
        noinc: bool,
    ) -> Result<(), Cause> {
        let ranges = self.on_their_way(thread);
        let mut clock = [0; WARPS + 1];
        let stamp = Stamp::new(ENGINE_THREAD, self.order.engine(&mut clock)).asynchronous();
        self.change(thread, address, |mbarrier| {
            join(&mut mbarrier.arrived, &clock);
            mbarrier.pending += u32::from(!noinc);
        })?;
        self.land(&ranges, Stamp::pending(thread), stamp);
        self.mbarrier_arrive(thread, address, 1, 0).map(|_| ())
    }

    /// `mbarrier.test_wait` with the state of an arrival: whether that phase is over. If so, what came before it is seen.
    ///
    /// # Errors
    /// No mbarrier there.
    pub fn mbarrier_test(&mut self, thread: u32, address: u32, state: u64) -> Result<bool, Cause> {
        self.test(thread, address, |phase| phase > state)
    }

    /// `mbarrier.test_wait.parity`: whether the phase of that parity (0 or 1) is over.
    ///
    /// # Errors
    /// No mbarrier there.
    pub fn mbarrier_test_parity(
        &mut self,
        thread: u32,
        address: u32,
        parity: u32,
    ) -> Result<bool, Cause> {
        self.test(thread, address, |phase| phase & 1 != u64::from(parity & 1))
    }

    /// `cp.async.bulk` into shared memory: `bytes` are on their way, and `complete_tx` at the mbarrier says that they
    /// came. They are seen by those who wait for the phase.
    ///
    /// # Errors
    /// No mbarrier there; bounds, alignment (16 bytes), a race with those who still read there.
    pub fn bulk_async(
        &mut self,
        thread: u32,
        address: u32,
        bytes: &[u8],
        mbarrier: u32,
    ) -> Result<(), Cause> {
        if !address.is_multiple_of(16) || !bytes.len().is_multiple_of(16) {
            return Err(Cause::Misaligned {
                access: "cp.async.bulk",
                bytes: bytes.len(),
                address: u64::from(address),
            });
        }
        let at = self.place("cp.async.bulk", address, bytes.len())?;
        self.fill_async((thread, Stamp::pending(ENGINE_THREAD)), at, bytes)?;
        self.change(thread, mbarrier, |barrier| {
            barrier.copied.push((address, bytes.len() as u32))
        })?;
        self.mbarrier_complete(thread, mbarrier, bytes.len() as u32)
    }

    /// Changes an mbarrier that `thread` may use: its initialisation is seen.
    fn change<T>(
        &mut self,
        thread: u32,
        address: u32,
        change: impl FnOnce(&mut Mbarrier) -> T,
    ) -> Result<T, Cause> {
        let at = self.aligned("mbarrier", address, BYTES)?;
        self.check_read(thread, at, BYTES)?;
        match self.mbarriers.get_mut(&address) {
            Some(mbarrier) => Ok(change(mbarrier)),
            None => Err(Cause::Instruction(format!(
                "no mbarrier was initialised at shared {address:#x}"
            ))),
        }
    }

    fn test(
        &mut self,
        thread: u32,
        address: u32,
        is_over: impl Fn(u64) -> bool,
    ) -> Result<bool, Cause> {
        let (phase, over) =
            self.change(thread, address, |mbarrier| (mbarrier.phase, mbarrier.over))?;
        if is_over(phase) {
            self.order.acquire(thread as usize / 32, &over);
        }
        Ok(is_over(phase))
    }

    /// Ends the phase if nothing is missing.
    fn complete_phase(&mut self, address: u32) {
        let Some(mbarrier) = self.mbarriers.get_mut(&address) else {
            return;
        };
        if mbarrier.pending != 0 || mbarrier.bytes != 0 {
            return;
        }
        let time = self.order.engine(&mut mbarrier.arrived);
        let arrived = std::mem::replace(&mut mbarrier.arrived, [0; WARPS + 1]);
        join(&mut mbarrier.over, &arrived);
        mbarrier.phase += 1;
        mbarrier.pending = mbarrier.count;
        let copied = std::mem::take(&mut mbarrier.copied);
        let stamp = Stamp::new(ENGINE_THREAD, time).asynchronous();
        self.land(&copied, Stamp::pending(ENGINE_THREAD), stamp);
    }
}
