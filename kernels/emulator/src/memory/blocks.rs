//! Races between the blocks of one launch: who wrote and who read each byte.
//!
//! Blocks are ordered by what they release and acquire only, and of that the launch keeps little: the first release of
//! each block and its last acquire. A conflict is taken to be ordered where the earlier block had released anything
//! before the later one last acquired anything. So a correct kernel is never reported, and one without any fence or
//! atomic always is; a kernel that synchronises on the wrong thing may pass.

use std::alloc::{Layout, alloc_zeroed, handle_alloc_error};
use std::ptr::NonNull;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed, Ordering::SeqCst};

use crate::fault::Cause;

/// Set in a writer that wrote by an atomic or a strong store.
const STRONG: u32 = 1 << 31;
/// A reader's place where several blocks read.
const MANY: u32 = u32::MAX;

/// Who touched a byte last, as block + 1; 0 is nobody.
#[derive(Debug, Default)]
struct Touch {
    writer: AtomicU32,
    reader: AtomicU32,
}

/// Four bytes: what touched all of them at once, and whether anything touched fewer, which `bytes` then hold.
#[derive(Debug, Default)]
struct Word {
    whole: Touch,
    parts: AtomicBool,
}

/// What touched one allocation.
#[derive(Debug)]
struct Touched {
    words: Box<[Word]>,
    bytes: OnceLock<Box<[Touch]>>,
    len: usize,
}

impl Touched {
    fn new(len: usize) -> Self {
        Self {
            words: untouched(len.div_ceil(4)),
            bytes: OnceLock::new(),
            len,
        }
    }

    fn bytes(&self) -> &[Touch] {
        self.bytes.get_or_init(|| untouched(self.len))
    }
}

/// How an access takes part in races.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    Read,
    Write,
    /// Atomics and strong stores: they do not race with each other.
    StrongWrite,
}

/// What one launch knows of its blocks.
#[derive(Debug)]
pub(super) struct Blocks {
    touched: Vec<OnceLock<Touched>>,
    time: AtomicU64,
    released: Vec<AtomicU64>,
    acquired: Vec<AtomicU64>,
}

/// Types of which zeros are a value.
trait Zeroable {}
impl Zeroable for Touch {}
impl Zeroable for Word {}

/// Pages of it come into being when they are touched, so that a large buffer of which a launch sees little costs little.
fn untouched<T: Zeroable>(len: usize) -> Box<[T]> {
    let Ok(layout) = Layout::array::<T>(len.max(1)) else {
        return Box::default();
    };
    // SAFETY: the layout is not of size zero; it is that of a slice of `T`, for which zeros are valid.
    unsafe {
        let first =
            NonNull::new(alloc_zeroed(layout)).unwrap_or_else(|| handle_alloc_error(layout));
        Box::from_raw(std::ptr::slice_from_raw_parts_mut(
            first.as_ptr().cast(),
            len.max(1),
        ))
    }
}

fn zeros(count: usize) -> Vec<AtomicU64> {
    (0..count).map(|_| AtomicU64::new(0)).collect()
}

impl Blocks {
    pub fn new(allocations: usize, blocks: usize) -> Self {
        let touched = (0..allocations).map(|_| OnceLock::new()).collect();
        Self {
            touched,
            time: AtomicU64::new(1),
            released: zeros(blocks),
            acquired: zeros(blocks),
        }
    }

    pub fn release(&self, block: u32) {
        if let Some(first) = self.released.get(block as usize)
            && first.load(Relaxed) == 0
        {
            let _ = first.compare_exchange(0, self.time.fetch_add(1, SeqCst), SeqCst, SeqCst);
        }
    }

    pub fn acquire(&self, block: u32) {
        if let Some(last) = self.acquired.get(block as usize) {
            last.fetch_max(self.time.fetch_add(1, SeqCst), SeqCst);
        }
    }

    fn ordered(&self, first: u32, second: u32) -> bool {
        let released = self
            .released
            .get(first as usize)
            .map_or(0, |time| time.load(SeqCst));
        let acquired = self
            .acquired
            .get(second as usize)
            .map_or(0, |time| time.load(SeqCst));
        released != 0 && released < acquired
    }

    /// Notes an access of `block` to `bytes` at `offset` of allocation `index` of `len` bytes at `base`.
    pub fn touch(
        &self,
        (index, base, len): (usize, u64, usize),
        (offset, bytes): (usize, usize),
        block: u32,
        access: Access,
    ) -> Result<(), Cause> {
        let touched = self.touched[index].get_or_init(|| Touched::new(len));
        let me = block + 1;
        let (mut at, end) = (offset, offset + bytes);
        while at < end {
            let word = &touched.words[at / 4];
            let whole = at.is_multiple_of(4) && at + 4 <= end;
            let mut conflict = match whole {
                true => self.visit(&word.whole, me, access),
                // Only looked at: not all of the word is touched.
                false => self.look(&word.whole, me, access),
            };
            if !whole {
                word.parts.store(true, SeqCst);
                conflict = conflict.or(self.visit(&touched.bytes()[at], me, access));
            } else if word.parts.load(SeqCst) {
                let mut parts = touched.bytes()[at..].iter().take(4);
                conflict = conflict.or_else(|| parts.find_map(|part| self.look(part, me, access)));
            }
            if let Some((first, first_did)) = conflict {
                let second_did = if access == Access::Read {
                    "read"
                } else {
                    "wrote"
                };
                let address = base + at as u64;
                return Err(Cause::BlockRace {
                    address,
                    first,
                    first_did,
                    second: block,
                    second_did,
                });
            }
            at += if whole { 4 } else { 1 };
        }
        Ok(())
    }

    /// Notes the access; what it conflicts with.
    fn visit(&self, touch: &Touch, me: u32, access: Access) -> Conflict {
        if access == Access::Read {
            let reader = touch.reader.load(Relaxed);
            if reader != me && reader != MANY {
                touch
                    .reader
                    .store(if reader == 0 { me } else { MANY }, Relaxed);
            }
            return self.look(touch, me, access);
        }
        let mark = if access == Access::StrongWrite {
            me | STRONG
        } else {
            me
        };
        let before = touch.writer.swap(mark, Relaxed);
        self.written(before, me, access)
            .or_else(|| self.read(touch, me))
    }

    /// What the access conflicts with.
    fn look(&self, touch: &Touch, me: u32, access: Access) -> Conflict {
        let written = self.written(touch.writer.load(Relaxed), me, access);
        if access == Access::Read {
            written
        } else {
            written.or_else(|| self.read(touch, me))
        }
    }

    fn written(&self, before: u32, me: u32, access: Access) -> Conflict {
        let writer = before & !STRONG;
        let both_strong = access == Access::StrongWrite && before & STRONG != 0;
        let conflicts =
            writer != 0 && writer != me && !both_strong && !self.ordered(writer - 1, me - 1);
        conflicts.then(|| (writer - 1, "wrote"))
    }

    fn read(&self, touch: &Touch, me: u32) -> Conflict {
        let reader = touch.reader.load(Relaxed);
        let ordered = match reader {
            0 => true,
            // Which blocks read is not kept: one that has acquired anything is believed.
            MANY => self
                .acquired
                .get(me as usize - 1)
                .is_some_and(|time| time.load(SeqCst) != 0),
            _ => reader == me || self.ordered(reader - 1, me - 1),
        };
        (!ordered).then(|| (if reader == MANY { 0 } else { reader - 1 }, "read"))
    }
}

/// The block that touched it before, and what it did.
type Conflict = Option<(u32, &'static str)>;
