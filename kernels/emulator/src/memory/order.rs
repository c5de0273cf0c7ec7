//! What comes before what in one block: a vector clock for each warp, and stamps that say when a byte was touched.

/// Warps of a block at most.
pub(super) const WARPS: usize = 32;
/// The place of the asynchronous engine among the clocks: it writes what bulk copies bring.
const ENGINE: usize = WARPS;
/// The engine's number as a thread.
pub(super) const ENGINE_THREAD: u32 = 1024;

/// For each warp the time up to which it is known.
pub(super) type Clock = [u32; WARPS + 1];

/// The later of both, in every place.
pub(super) fn join(into: &mut Clock, other: &Clock) {
    into.iter_mut()
        .zip(other)
        .for_each(|(mine, theirs)| *mine = (*mine).max(*theirs));
}

/// Who touched a byte, when and how: thread (11 bits), atomically, asynchronously (1 bit each), time (19 bits).
/// Zero: nobody. Time 0 and asynchronous: still on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Stamp(u32);

const TIME_BITS: u32 = 19;
const ASYNC: u32 = 1 << TIME_BITS;
const ATOMIC: u32 = 1 << (TIME_BITS + 1);
/// The last time that a stamp can say.
pub(super) const LAST_TIME: u32 = ASYNC - 1;

impl Stamp {
    pub const NOBODY: Self = Self(0);

    pub fn new(thread: u32, time: u32) -> Self {
        Self(thread << (TIME_BITS + 2) | time)
    }

    pub fn atomic(self) -> Self {
        Self(self.0 | ATOMIC)
    }

    pub fn asynchronous(self) -> Self {
        Self(self.0 | ASYNC)
    }

    pub fn pending(thread: u32) -> Self {
        Self::new(thread, 0).asynchronous()
    }

    pub fn thread(self) -> u32 {
        self.0 >> (TIME_BITS + 2)
    }

    pub fn warp(self) -> usize {
        self.thread() as usize / 32
    }

    pub fn time(self) -> u32 {
        self.0 & LAST_TIME
    }

    pub fn is_atomic(self) -> bool {
        self.0 & ATOMIC != 0
    }

    pub fn is_asynchronous(self) -> bool {
        self.0 & ASYNC != 0
    }

    pub fn is_pending(self) -> bool {
        self.is_asynchronous() && self.time() == 0
    }
}

/// The clocks of one block.
#[derive(Debug)]
pub(super) struct Order {
    known: Box<[Clock; WARPS + 1]>,
    /// What the warps brought that have arrived at each barrier of the block.
    arrived: Vec<Clock>,
    /// Time has run out of bits: nothing can be said of races any more.
    pub over: bool,
}

impl Order {
    pub fn new() -> Self {
        let mut known = Box::new([[0; WARPS + 1]; WARPS + 1]);
        known
            .iter_mut()
            .enumerate()
            .for_each(|(warp, clock)| clock[warp] = 1);
        Self {
            known,
            arrived: Vec::new(),
            over: false,
        }
    }

    /// A warp's own time.
    pub fn now(&self, warp: usize) -> u32 {
        self.known[warp][warp]
    }

    /// Whether `warp` comes after what `stamp` says.
    #[inline]
    pub fn after(&self, warp: usize, stamp: Stamp) -> bool {
        stamp.warp() == warp || self.known[warp][stamp.warp()] >= stamp.time()
    }

    /// Hands everything that the warp did and knows to `to`.
    pub fn release(&mut self, warp: usize, to: &mut Clock) {
        join(to, &self.known[warp]);
        self.tick(warp);
    }

    pub fn acquire(&mut self, warp: usize, from: &Clock) {
        join(&mut self.known[warp], from);
    }

    /// Time of what the engine brings now, which `to` makes known.
    pub fn engine(&mut self, to: &mut Clock) -> u32 {
        let now = self.now(ENGINE);
        to[ENGINE] = now;
        self.tick(ENGINE);
        now
    }

    fn tick(&mut self, warp: usize) {
        self.known[warp][warp] += 1;
        self.over |= self.known[warp][warp] >= LAST_TIME;
    }

    pub fn arrive(&mut self, barrier: usize, warp: usize) {
        if self.arrived.len() <= barrier {
            self.arrived.resize(barrier + 1, [0; WARPS + 1]);
        }
        let mut clock = self.arrived[barrier];
        self.release(warp, &mut clock);
        self.arrived[barrier] = clock;
    }

    pub fn complete(&mut self, barrier: usize, waited: u32) {
        let Some(clock) = self
            .arrived
            .get_mut(barrier)
            .map(|clock| std::mem::replace(clock, [0; WARPS + 1]))
        else {
            return;
        };
        (0..WARPS)
            .filter(|warp| waited >> warp & 1 == 1)
            .for_each(|warp| self.acquire(warp, &clock));
    }
}
