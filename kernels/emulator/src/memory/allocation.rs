//! One allocation: its bytes, and for each byte whether it was written.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::ptr::NonNull;
use std::sync::atomic::{
    AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering::Relaxed, Ordering::SeqCst,
};

/// Alignment of the host's buffer, so that aligned device addresses are aligned host addresses.
const ALIGNMENT: usize = 64;

/// Device memory, read and written by all threads of the emulator. Races of the kernel are not races of the emulator:
/// kernels access it by relaxed atomics only.
#[derive(Debug)]
pub(super) struct Allocation {
    /// First device address.
    pub base: u64,
    /// Bytes.
    pub len: usize,
    data: NonNull<u8>,
    written: NonNull<u8>,
}

// SAFETY: the pointers own their memory, which is shared between threads by atomics only; see the methods.
unsafe impl Send for Allocation {}
// SAFETY: as above.
unsafe impl Sync for Allocation {}

fn layout(len: usize) -> Layout {
    let len = len.max(1).next_multiple_of(ALIGNMENT);
    Layout::from_size_align(len, ALIGNMENT).unwrap_or(Layout::new::<u64>())
}

fn zeroed(layout: Layout) -> NonNull<u8> {
    // SAFETY: the layout is not of size zero.
    NonNull::new(unsafe { alloc_zeroed(layout) }).unwrap_or_else(|| handle_alloc_error(layout))
}

impl Allocation {
    pub fn new(base: u64, len: usize) -> Self {
        let layout = layout(len);
        Self {
            base,
            len,
            data: zeroed(layout),
            written: zeroed(layout),
        }
    }

    /// Offset of an access of `bytes`, if it lies inside.
    pub fn offset(&self, address: u64, bytes: usize) -> Option<usize> {
        let offset = usize::try_from(address.wrapping_sub(self.base)).ok()?;
        (offset <= self.len && bytes <= self.len - offset).then_some(offset)
    }

    fn byte(&self, offset: usize, bytes: usize) -> *mut u8 {
        assert!(offset + bytes <= self.len);
        // SAFETY: inside of the buffer, as was asserted.
        unsafe { self.data.as_ptr().add(offset) }
    }

    fn shadow(&self, offset: usize, bytes: usize) -> *mut u8 {
        assert!(offset + bytes <= self.len);
        // SAFETY: the shadow is as long as the data.
        unsafe { self.written.as_ptr().add(offset) }
    }

    /// The words of `width` bytes (1, 2, 4, 8, 16, 32) at an aligned offset; narrower ones are zero-extended.
    pub fn load(&self, offset: usize, width: usize, mut word: impl FnMut(usize, u32)) {
        let at = self.byte(offset, width);
        // SAFETY: in bounds; aligned, because the base is and the caller has checked the address; accessed by atomics
        // only while kernels run.
        unsafe {
            match width {
                1 => word(0, u32::from(AtomicU8::from_ptr(at).load(Relaxed))),
                2 => word(0, u32::from(AtomicU16::from_ptr(at.cast()).load(Relaxed))),
                _ => (0..width / 4).for_each(|i| {
                    word(
                        i,
                        AtomicU32::from_ptr(at.cast::<u32>().add(i)).load(Relaxed),
                    )
                }),
            }
        }
    }

    /// Writes what [`Allocation::load`] reads, and that it is written.
    pub fn store(&self, offset: usize, width: usize, word: impl Fn(usize) -> u32) {
        let (at, shadow) = (self.byte(offset, width), self.shadow(offset, width));
        // SAFETY: as in `load`; the shadow has the data's alignment.
        unsafe {
            match width {
                1 => {
                    AtomicU8::from_ptr(at).store(word(0) as u8, Relaxed);
                    AtomicU8::from_ptr(shadow).store(1, Relaxed);
                }
                2 => {
                    AtomicU16::from_ptr(at.cast()).store(word(0) as u16, Relaxed);
                    AtomicU16::from_ptr(shadow.cast()).store(0x0101, Relaxed);
                }
                _ => {
                    for i in 0..width / 4 {
                        AtomicU32::from_ptr(at.cast::<u32>().add(i)).store(word(i), Relaxed);
                        AtomicU32::from_ptr(shadow.cast::<u32>().add(i))
                            .store(0x0101_0101, Relaxed);
                    }
                }
            }
        }
    }

    /// Replaces 2, 4 or 8 aligned bytes by `update` of them, atomically; the old value.
    pub fn update(&self, offset: usize, width: usize, update: &mut dyn FnMut(u64) -> u64) -> u64 {
        let (at, shadow) = (self.byte(offset, width), self.shadow(offset, width));
        // SAFETY: as in `load`.
        unsafe {
            let written = std::slice::from_raw_parts(shadow.cast::<AtomicU8>(), width);
            let old = match width {
                2 => AtomicU16::from_ptr(at.cast())
                    .fetch_update(SeqCst, SeqCst, |old| Some(update(u64::from(old)) as u16))
                    .map(u64::from)
                    .unwrap_or(0),
                4 => AtomicU32::from_ptr(at.cast())
                    .fetch_update(SeqCst, SeqCst, |old| Some(update(u64::from(old)) as u32))
                    .map(u64::from)
                    .unwrap_or(0),
                _ => AtomicU64::from_ptr(at.cast())
                    .fetch_update(SeqCst, SeqCst, |old| Some(update(old)))
                    .unwrap_or(0),
            };
            written.iter().for_each(|byte| byte.store(1, Relaxed));
            old
        }
    }

    /// The first byte of an access that nobody wrote.
    #[inline]
    pub fn unwritten(&self, offset: usize, bytes: usize) -> Option<usize> {
        let shadow = self.shadow(offset, bytes);
        // SAFETY: in bounds; accessed by atomics only while kernels run. Words are aligned where `bytes` is 4 and more
        // and the access is aligned; anything else goes byte by byte.
        unsafe {
            if bytes.is_multiple_of(4) && offset.is_multiple_of(4) {
                let words = std::slice::from_raw_parts(shadow.cast::<AtomicU32>(), bytes / 4);
                if words.iter().all(|word| word.load(Relaxed) == 0x0101_0101) {
                    return None;
                }
            }
            let written = std::slice::from_raw_parts(shadow.cast::<AtomicU8>(), bytes);
            written.iter().position(|byte| byte.load(Relaxed) == 0)
        }
    }

    /// Copies out. For the host and for bulk copies: bytes that a kernel writes meanwhile come as they may.
    pub fn read(&self, offset: usize, out: &mut [u8]) {
        // SAFETY: in bounds; the source is device memory, the target is not.
        unsafe {
            self.byte(offset, out.len())
                .copy_to_nonoverlapping(out.as_mut_ptr(), out.len())
        }
    }

    /// Copies in, and marks as written.
    pub fn write(&self, offset: usize, bytes: &[u8]) {
        // SAFETY: in bounds; the source is not device memory.
        unsafe {
            self.byte(offset, bytes.len())
                .copy_from_nonoverlapping(bytes.as_ptr(), bytes.len());
            self.shadow(offset, bytes.len()).write_bytes(1, bytes.len());
        }
    }

    /// Copies `bytes` of `from`, with what is known of them. The ranges may overlap.
    pub fn copy(&self, offset: usize, from: &Self, from_offset: usize, bytes: usize) {
        // SAFETY: in bounds on both sides; `copy_from` allows overlap.
        unsafe {
            self.byte(offset, bytes)
                .copy_from(from.byte(from_offset, bytes), bytes);
            self.shadow(offset, bytes)
                .copy_from(from.shadow(from_offset, bytes), bytes);
        }
    }
}

impl Drop for Allocation {
    fn drop(&mut self) {
        let layout = layout(self.len);
        // SAFETY: both came from `zeroed` with this layout, and nobody can hold a reference any more.
        unsafe {
            dealloc(self.data.as_ptr(), layout);
            dealloc(self.written.as_ptr(), layout);
        }
    }
}
