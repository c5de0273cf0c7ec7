//! The state spaces as a warp sees them: the only door to memory.

use crate::Lanes;
use crate::banks::{self, BankReport};
use crate::fault::Cause;
use crate::memory::{Cursor, GLOBAL_BASE, LaneFault, Shared, View};
use crate::ptx::Space;

use super::code::Order;
use super::registers::lanes;

/// Where shared memory lies among generic addresses; the windows of other spaces follow, global memory last.
pub(super) const SHARED_WINDOW: u64 = 1 << 24;
pub(super) const LOCAL_WINDOW: u64 = 1 << 30;
pub(super) const PARAMETER_WINDOW: u64 = 1 << 31;

/// The space of a generic address, and the address within it.
pub(super) fn classify(address: u64) -> (Space, u64) {
    match address {
        SHARED_WINDOW..LOCAL_WINDOW => (Space::Shared, address - SHARED_WINDOW),
        LOCAL_WINDOW..PARAMETER_WINDOW => (Space::Local, address - LOCAL_WINDOW),
        PARAMETER_WINDOW..GLOBAL_BASE => (Space::Param, address - PARAMETER_WINDOW),
        _ => (Space::Global, address),
    }
}

/// The memory of a block.
pub(super) struct Memory<'a> {
    pub view: &'a View<'a>,
    pub shared: Shared,
    pub parameters: &'a [u8],
    /// Index of the operation that runs.
    pub step: u32,
    /// Bank conflicts by step, if they are counted.
    pub banks: Option<BankReport>,
}

/// The memory of a warp: what only its threads see, and its place in global memory.
#[derive(Debug)]
pub(super) struct Own {
    /// Index of the warp in its block.
    pub warp: u32,
    pub cursor: Cursor,
    /// Local memory, thread after thread.
    pub local: Vec<u8>,
    pub local_bytes: usize,
}

/// The words of the widest access.
pub(super) type Words = [Lanes; 8];

type Outcome<T = ()> = Result<T, LaneFault>;

/// Addresses that all lie in one space, and the lanes that have them.
struct Part {
    space: Space,
    mask: u32,
    addresses: [u64; 32],
}

/// Generic addresses are sorted by what space they lie in.
fn parts(space: Space, mask: u32, addresses: &[u64; 32]) -> Vec<Part> {
    let mut out: Vec<Part> = Vec::with_capacity(1);
    for lane in lanes(mask) {
        let (space, address) = if space == Space::Generic {
            classify(addresses[lane])
        } else {
            (space, addresses[lane])
        };
        let index = out
            .iter()
            .position(|part| part.space == space)
            .unwrap_or_else(|| {
                out.push(Part {
                    space,
                    mask: 0,
                    addresses: [0; 32],
                });
                out.len() - 1
            });
        out[index].mask |= 1 << lane;
        out[index].addresses[lane] = address;
    }
    out
}

fn short(addresses: &[u64; 32]) -> [u32; 32] {
    std::array::from_fn(|lane| u32::try_from(addresses[lane]).unwrap_or(u32::MAX))
}

impl Memory<'_> {
    /// Counts how often an access of a warp to shared memory goes round.
    pub fn count_banks(&mut self, mask: u32, addresses: &[u64; 32], width: usize) {
        if let Some(banks) = &mut self.banks {
            let on = |lane: usize| (mask >> lane & 1 == 1).then_some(addresses[lane]);
            let lanes = std::array::from_fn(on);
            banks.add(self.step as usize, banks::access(&lanes, width as u64));
        }
    }

    /// Loads `width` bytes per lane.
    pub fn load(
        &mut self,
        own: &mut Own,
        (space, order): (Space, Order),
        (mask, addresses): (u32, &[u64; 32]),
        width: usize,
        out: &mut Words,
    ) -> Outcome {
        match space {
            Space::Generic => {
                for part in parts(space, mask, addresses) {
                    self.load(
                        own,
                        (part.space, order),
                        (part.mask, &part.addresses),
                        width,
                        out,
                    )?;
                }
                Ok(())
            }
            Space::Global | Space::Const => {
                own.cursor.strong = order.strong;
                self.view
                    .load_warp(&mut own.cursor, mask, addresses, width, out)?;
                if order.acquire || order.strong {
                    self.view.acquire(&own.cursor);
                }
                Ok(())
            }
            Space::Shared => {
                self.count_banks(mask, addresses, width);
                self.shared
                    .load_warp(own.warp, mask, &short(addresses), width, out)
            }
            Space::Local => {
                for lane in lanes(mask) {
                    let at = own.place("load", lane, addresses[lane], width)?;
                    unpack(&own.local[at..at + width], lane, out);
                }
                Ok(())
            }
            Space::Param => {
                for lane in lanes(mask) {
                    let at = bounded("load", self.parameters.len(), addresses[lane], width);
                    let at = at.map_err(|cause| LaneFault {
                        lane: lane as u32,
                        cause,
                    })?;
                    unpack(&self.parameters[at..at + width], lane, out);
                }
                Ok(())
            }
        }
    }

    /// Stores `width` bytes per lane.
    pub fn store(
        &mut self,
        own: &mut Own,
        (space, order): (Space, Order),
        (mask, addresses): (u32, &[u64; 32]),
        width: usize,
        values: &Words,
    ) -> Outcome {
        match space {
            Space::Generic => {
                for part in parts(space, mask, addresses) {
                    self.store(
                        own,
                        (part.space, order),
                        (part.mask, &part.addresses),
                        width,
                        values,
                    )?;
                }
                Ok(())
            }
            Space::Global => {
                own.cursor.strong = order.strong;
                if order.release {
                    self.view.release(&own.cursor);
                }
                self.view
                    .store_warp(&mut own.cursor, mask, addresses, width, values)
            }
            Space::Shared => {
                self.count_banks(mask, addresses, width);
                self.shared
                    .store_warp(own.warp, mask, &short(addresses), width, values)
            }
            Space::Local => {
                for lane in lanes(mask) {
                    let at = own.place("store", lane, addresses[lane], width)?;
                    pack(&mut own.local[at..at + width], lane, values);
                }
                Ok(())
            }
            Space::Const | Space::Param => Err(LaneFault {
                lane: mask.trailing_zeros(),
                cause: Cause::Instruction("a store to memory that cannot be written".to_owned()),
            }),
        }
    }

    /// Replaces the bytes at one lane's address by `update` of them; the old value.
    pub fn atomic(
        &mut self,
        own: &mut Own,
        (space, order): (Space, Order),
        (lane, address): (usize, u64),
        width: usize,
        update: &mut dyn FnMut(u64) -> u64,
    ) -> Outcome<u64> {
        let (space, address) = if space == Space::Generic {
            classify(address)
        } else {
            (space, address)
        };
        let outcome = match space {
            Space::Global => {
                own.cursor.strong = true;
                if order.release {
                    self.view.release(&own.cursor);
                }
                self.view.atomic(&mut own.cursor, address, width, update)
            }
            Space::Shared => {
                let address = u32::try_from(address).unwrap_or(u32::MAX);
                self.shared.atomic(own.thread(lane), address, width, update)
            }
            _ => Err(Cause::Instruction(
                "an atomic in memory of one thread".to_owned(),
            )),
        };
        outcome.map_err(|cause| LaneFault {
            lane: lane as u32,
            cause,
        })
    }

    /// `cp.async` of one lane; `None` for a source that is not read.
    pub fn copy_async(
        &mut self,
        own: &mut Own,
        lane: usize,
        (to, from): (u64, Option<(u64, usize)>),
        bytes: usize,
    ) -> Outcome {
        let mut buffer = [0; 16];
        let thread = own.thread(lane);
        let mut copy = || {
            if let Some((address, read)) = from {
                if !address.is_multiple_of(bytes as u64) {
                    return Err(Cause::Misaligned {
                        access: "cp.async",
                        bytes,
                        address,
                    });
                }
                own.cursor.strong = false;
                self.view
                    .load(&mut own.cursor, address, &mut buffer[..read.min(bytes)])?;
            }
            let to = u32::try_from(to).unwrap_or(u32::MAX);
            self.shared.copy_async(thread, to, &buffer[..bytes])
        };
        copy().map_err(|cause| LaneFault {
            lane: lane as u32,
            cause,
        })
    }

    /// `fence`: global memory only; within a block, barriers order.
    pub fn fence(&mut self, own: &Own) {
        self.view.release(&own.cursor);
        self.view.acquire(&own.cursor);
    }
}

impl Own {
    /// The linear index of a lane's thread.
    pub fn thread(&self, lane: usize) -> u32 {
        self.warp * 32 + lane as u32
    }

    fn place(
        &self,
        access: &'static str,
        lane: usize,
        address: u64,
        width: usize,
    ) -> Outcome<usize> {
        let at = bounded(access, self.local_bytes, address, width);
        at.map(|at| lane * self.local_bytes + at)
            .map_err(|cause| LaneFault {
                lane: lane as u32,
                cause,
            })
    }
}

fn bounded(access: &'static str, len: usize, address: u64, width: usize) -> Result<usize, Cause> {
    if !address.is_multiple_of(width as u64) {
        return Err(Cause::Misaligned {
            access,
            bytes: width,
            address,
        });
    }
    match usize::try_from(address) {
        Ok(at) if at.checked_add(width).is_some_and(|end| end <= len) => Ok(at),
        _ => Err(Cause::OutOfBounds {
            access,
            bytes: width,
            address,
            nearest: format!("the thread has {len} bytes in this space"),
        }),
    }
}

fn unpack(bytes: &[u8], lane: usize, out: &mut Words) {
    for (word, chunk) in bytes.chunks(4).enumerate() {
        let mut value = [0; 4];
        value[..chunk.len()].copy_from_slice(chunk);
        out[word][lane] = u32::from_le_bytes(value);
    }
}

fn pack(bytes: &mut [u8], lane: usize, values: &Words) {
    for (word, chunk) in bytes.chunks_mut(4).enumerate() {
        let len = chunk.len();
        chunk.copy_from_slice(&values[word][lane].to_le_bytes()[..len]);
    }
}
