//! Global memory as the host sees it.

use std::collections::VecDeque;
use std::sync::{Arc, PoisonError, RwLock};

use super::allocation::Allocation;
use super::{Checks, GLOBAL_BASE, GLOBAL_END, View};
use crate::fault::Cause;

/// Every allocation starts at a multiple of this, as `cuMemAlloc` promises.
const ALIGNMENT: u64 = 256;
/// At least so many bytes behind an allocation belong to nobody.
const RED_ZONE: u64 = 256;
/// So many freed allocations are remembered by address, to say what a stale pointer pointed to.
const REMEMBERED: usize = 4096;

/// All allocations of one device. Threads share it.
///
/// Addresses only ever grow: a freed one is never given again, so that a use after free is always seen.
#[derive(Debug)]
pub struct Global {
    table: RwLock<Table>,
    total: u64,
}

#[derive(Debug)]
struct Table {
    /// By address. Copied on a change only if a launch still holds the old one.
    live: Arc<Vec<Arc<Allocation>>>,
    /// Address and length.
    freed: VecDeque<(u64, u64)>,
    next: u64,
    used: u64,
}

/// The index of the allocation that holds `address`, or of the last that starts before it.
pub(super) fn find(live: &[Arc<Allocation>], address: u64) -> Option<usize> {
    live.partition_point(|allocation| allocation.base <= address)
        .checked_sub(1)
}

impl Global {
    /// A device of `total` bytes.
    pub fn new(total: u64) -> Self {
        let table = Table {
            live: Arc::default(),
            freed: VecDeque::new(),
            next: GLOBAL_BASE,
            used: 0,
        };
        Self {
            table: RwLock::new(table),
            total,
        }
    }

    /// Bytes of the device.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// Bytes that are allocated.
    pub fn used(&self) -> u64 {
        self.table
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .used
    }

    /// Address and bytes of everything that is allocated, by address.
    pub fn allocations(&self) -> Vec<(u64, usize)> {
        self.live()
            .iter()
            .map(|allocation| (allocation.base, allocation.len))
            .collect()
    }

    /// Start and length of the allocation that `address` lies in.
    pub fn range(&self, address: u64) -> Option<(u64, usize)> {
        let live = self.live();
        let allocation = &live[find(&live, address)?];
        allocation
            .offset(address, 1)
            .map(|_| (allocation.base, allocation.len))
    }

    /// New memory, 256-byte aligned, not initialised; `None` where the device has not that much left.
    pub fn allocate(&self, bytes: u64) -> Option<u64> {
        let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
        let base = table.next;
        let end = base
            .checked_add(bytes)?
            .checked_add(RED_ZONE)?
            .checked_next_multiple_of(ALIGNMENT)?;
        if bytes > self.total - table.used || end > GLOBAL_END {
            return None;
        }
        let len = usize::try_from(bytes).ok()?;
        Arc::make_mut(&mut table.live).push(Arc::new(Allocation::new(base, len)));
        table.next = end;
        table.used += bytes;
        Some(base)
    }

    /// Frees what [`Global::allocate`] gave.
    ///
    /// # Errors
    /// A second free; an address that is not the start of an allocation.
    pub fn free(&self, address: u64) -> Result<(), Cause> {
        let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
        let Ok(index) = table
            .live
            .binary_search_by_key(&address, |allocation| allocation.base)
        else {
            let nearest = nearest(&table, address);
            return Err(Cause::OutOfBounds {
                access: "free",
                bytes: 0,
                address,
                nearest,
            });
        };
        let gone = Arc::make_mut(&mut table.live).remove(index);
        table.used -= gone.len as u64;
        if table.freed.len() == REMEMBERED {
            table.freed.pop_front();
        }
        table.freed.push_back((gone.base, gone.len as u64));
        Ok(())
    }

    /// Copies to the host; nothing, if `out` is empty, from anywhere. Bytes that nobody wrote are copied as they are: a host may hold them as long as it likes.
    ///
    /// # Errors
    /// Bounds.
    pub fn read(&self, address: u64, out: &mut [u8]) -> Result<(), Cause> {
        if out.is_empty() {
            return Ok(());
        }
        let (allocation, offset) = self.place("copy to the host", address, out.len())?;
        allocation.read(offset, out);
        Ok(())
    }

    /// Copies from the host.
    ///
    /// # Errors
    /// Bounds.
    pub fn write(&self, address: u64, bytes: &[u8]) -> Result<(), Cause> {
        if bytes.is_empty() {
            return Ok(());
        }
        let (allocation, offset) = self.place("copy from the host", address, bytes.len())?;
        allocation.write(offset, bytes);
        Ok(())
    }

    /// Repeats `pattern` (1, 2 or 4 bytes) `count` times.
    ///
    /// # Errors
    /// Bounds; an address that is not aligned to the pattern.
    pub fn fill(&self, address: u64, pattern: &[u8], count: usize) -> Result<(), Cause> {
        if count == 0 {
            return Ok(());
        }
        if !address.is_multiple_of(pattern.len().max(1) as u64) {
            return Err(Cause::Misaligned {
                access: "memset",
                bytes: pattern.len(),
                address,
            });
        }
        let (allocation, offset) =
            self.place("memset", address, pattern.len().saturating_mul(count))?;
        allocation.write(offset, &pattern.repeat(count));
        Ok(())
    }

    /// Copies within the device, what is not initialised staying so.
    ///
    /// # Errors
    /// Bounds.
    pub fn copy(&self, to: u64, from: u64, bytes: usize) -> Result<(), Cause> {
        if bytes == 0 {
            return Ok(());
        }
        let (source, from_offset) = self.place("copy on the device (source)", from, bytes)?;
        let (target, offset) = self.place("copy on the device (target)", to, bytes)?;
        target.copy(offset, &source, from_offset, bytes);
        Ok(())
    }

    /// The first of `bytes` bytes that nobody wrote.
    ///
    /// # Errors
    /// Bounds.
    pub fn unwritten(&self, address: u64, bytes: usize) -> Result<Option<u64>, Cause> {
        if bytes == 0 {
            return Ok(None);
        }
        let (allocation, offset) = self.place("load", address, bytes)?;
        Ok(allocation
            .unwritten(offset, bytes)
            .map(|byte| address + byte as u64))
    }

    /// What the `blocks` blocks of one launch see.
    pub fn view(&self, checks: Checks, blocks: usize) -> View<'_> {
        View::new(self, self.live(), checks, blocks)
    }

    fn live(&self) -> Arc<Vec<Arc<Allocation>>> {
        self.table
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .live
            .clone()
    }

    fn place(
        &self,
        access: &'static str,
        address: u64,
        bytes: usize,
    ) -> Result<(Arc<Allocation>, usize), Cause> {
        let live = self.live();
        find(&live, address)
            .and_then(|index| Some((live[index].clone(), live[index].offset(address, bytes)?)))
            .ok_or_else(|| self.out_of_bounds(access, address, bytes))
    }

    pub(super) fn out_of_bounds(&self, access: &'static str, address: u64, bytes: usize) -> Cause {
        let table = self.table.read().unwrap_or_else(PoisonError::into_inner);
        Cause::OutOfBounds {
            access,
            bytes,
            address,
            nearest: nearest(&table, address),
        }
    }
}

/// What lies at or before an address, in words.
fn nearest(table: &Table, address: u64) -> String {
    if let Some((base, len)) = table
        .freed
        .iter()
        .find(|(base, len)| (*base..base + len.max(&1)).contains(&address))
    {
        return format!("the allocation of {len} bytes at {base:#x} was freed");
    }
    let before = find(&table.live, address).map(|index| &table.live[index]);
    match before {
        Some(a) if address == a.base => format!("the allocation there has {} bytes", a.len),
        Some(a) if address < a.base + a.len as u64 => {
            format!(
                "it is byte {} of the {} bytes at {:#x}",
                address - a.base,
                a.len,
                a.base
            )
        }
        Some(a) if address - (a.base + a.len as u64) < 1 << 30 => {
            format!(
                "{} bytes behind the end of the {} bytes at {:#x}",
                address - (a.base + a.len as u64),
                a.len,
                a.base
            )
        }
        _ => match table
            .live
            .get(table.live.partition_point(|a| a.base <= address))
        {
            Some(a) if a.base - address < 1 << 30 => {
                format!(
                    "{} bytes before the {} bytes at {:#x}",
                    a.base - address,
                    a.len,
                    a.base
                )
            }
            _ => "no allocation is near".to_owned(),
        },
    }
}
