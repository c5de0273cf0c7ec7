//! Copies in the background, mbarriers, and the moves between shared memory and matrix fragments.

use super::access::addresses;
use super::code::{Bulk, CopyAsync, MatrixMove, Mbarrier, MbarrierKind, Order};
use super::registers::{Registers, lanes};
use super::space::{Memory, Own, SHARED_WINDOW, Words, classify};
use crate::fault::Cause;
use crate::memory::LaneFault;
use crate::ptx::Space;
use crate::tensor::{ldmatrix, stmatrix};

fn at(lane: usize) -> impl Fn(Cause) -> LaneFault {
    move |cause| LaneFault {
        lane: lane as u32,
        cause,
    }
}

/// An address in shared memory, which may be given as a generic one.
fn shared(address: u64, space: Space) -> u32 {
    let address = match (space, classify(address)) {
        (Space::Generic, (Space::Shared, address)) => address,
        (Space::Generic, _) => u64::MAX,
        _ => address,
    };
    u32::try_from(address).unwrap_or(u32::MAX)
}

pub(super) fn copy(
    op: &CopyAsync,
    registers: &Registers,
    mask: u32,
    (memory, own): (&mut Memory<'_>, &mut Own),
) -> Result<(), LaneFault> {
    let (to, from) = (addresses(registers, op.to), addresses(registers, op.from));
    let ignored = op.ignore.map_or(0, |(p, negated)| {
        registers.predicate(p) ^ if negated { u32::MAX } else { 0 }
    });
    memory.count_banks(mask, &to, op.bytes);
    for lane in lanes(mask) {
        let read = op
            .source_bytes
            .map_or(op.bytes, |slot| registers.get(slot)[lane] as usize);
        let from = (ignored >> lane & 1 == 0 && read > 0).then_some((from[lane], read));
        memory.copy_async(own, lane, (to[lane], from), op.bytes)?;
    }
    Ok(())
}

/// Runs an operation on an mbarrier; says whether a lane found its phase not over yet.
pub(super) fn mbarrier(
    op: &Mbarrier,
    registers: &mut Registers,
    mask: u32,
    (memory, own): (&mut Memory<'_>, &mut Own),
) -> Result<bool, LaneFault> {
    let addresses = addresses(registers, op.address);
    let shared_memory = &mut memory.shared;
    let mut over = 0u32;
    for lane in lanes(mask) {
        let (thread, address) = (own.thread(lane), shared(addresses[lane], op.space));
        let value = |slot| registers.get::<u32>(slot)[lane];
        let done = match op.kind {
            MbarrierKind::Init(count) => shared_memory.mbarrier_init(thread, address, value(count)),
            MbarrierKind::Invalidate => shared_memory.mbarrier_inval(thread, address),
            MbarrierKind::Expect(bytes) => {
                shared_memory.mbarrier_expect(thread, address, value(bytes))
            }
            MbarrierKind::ArriveCopies { noinc } => {
                shared_memory.mbarrier_arrive_copies(thread, address, noinc)
            }
            MbarrierKind::Arrive {
                state,
                count,
                expect,
            } => {
                let (count, expect) = (count.map_or(1, value), expect.map_or(0, value));
                shared_memory
                    .mbarrier_arrive(thread, address, count, expect)
                    .map(|token| {
                        if let Some(state) = state {
                            registers.wide[state.0 as usize][lane] = token;
                        }
                    })
            }
            MbarrierKind::Test { state, .. } => {
                let token = registers.get(state)[lane];
                shared_memory
                    .mbarrier_test(thread, address, token)
                    .map(|yes| over |= u32::from(yes) << lane)
            }
            MbarrierKind::TestParity { parity, .. } => shared_memory
                .mbarrier_test_parity(thread, address, value(parity) & 1)
                .map(|yes| over |= u32::from(yes) << lane),
        };
        done.map_err(at(lane))?;
    }
    match op.kind {
        MbarrierKind::Test { d, .. } | MbarrierKind::TestParity { d, .. } => {
            registers.set_predicate(d, over, mask);
            Ok(over & mask != mask)
        }
        _ => Ok(false),
    }
}

pub(super) fn bulk(
    op: &Bulk,
    registers: &Registers,
    mask: u32,
    (memory, own): (&mut Memory<'_>, &mut Own),
) -> Result<(), LaneFault> {
    let (to, from, bytes) = match op {
        Bulk::Load {
            to, from, bytes, ..
        }
        | Bulk::Store { to, from, bytes } => (to, from, bytes),
    };
    let (to, from) = (addresses(registers, *to), addresses(registers, *from));
    let mbarriers = match op {
        Bulk::Load { mbarrier, .. } => Some(addresses(registers, *mbarrier)),
        Bulk::Store { .. } => None,
    };
    for lane in lanes(mask) {
        let thread = own.thread(lane);
        let count = registers.get(*bytes)[lane] as usize;
        let (outside, inside) = if mbarriers.is_some() {
            (from[lane], to[lane])
        } else {
            (to[lane], from[lane])
        };
        if !(outside | inside | count as u64).is_multiple_of(16) {
            let cause = Cause::Misaligned {
                access: "cp.async.bulk",
                bytes: 16,
                address: outside,
            };
            return Err(at(lane)(cause));
        }
        if count > memory.shared.len() {
            let cause = Cause::Instruction(format!(
                "{count} bytes are more than the block's shared memory"
            ));
            return Err(at(lane)(cause));
        }
        let mut buffer = vec![0; count];
        own.cursor.strong = false;
        let inside = u32::try_from(inside).unwrap_or(u32::MAX);
        if let Some(mbarriers) = &mbarriers {
            memory
                .view
                .load(&mut own.cursor, outside, &mut buffer)
                .map_err(at(lane))?;
            let mbarrier = shared(mbarriers[lane], Space::Shared);
            memory
                .shared
                .bulk_async(thread, inside, &buffer, mbarrier)
                .map_err(at(lane))?;
        } else {
            for (index, chunk) in buffer.chunks_mut(16).enumerate() {
                let address = inside.wrapping_add(16 * index as u32);
                memory
                    .shared
                    .load(thread, address, chunk)
                    .map_err(at(lane))?;
            }
            memory
                .view
                .store(&mut own.cursor, outside, &buffer)
                .map_err(at(lane))?;
        }
    }
    Ok(())
}

pub(super) fn matrix(
    op: &MatrixMove,
    registers: &mut Registers,
    mask: u32,
    (memory, own): (&mut Memory<'_>, &mut Own),
) -> Result<(), LaneFault> {
    let flaw = |problem: String| LaneFault {
        lane: 0,
        cause: Cause::Instruction(problem),
    };
    if mask != u32::MAX {
        return Err(flaw(format!(
            "a matrix instruction needs all 32 lanes, {} are here",
            mask.count_ones()
        )));
    }
    let mut words: Words = [[0; 32]; 8];
    let (space, address) = match op {
        MatrixMove::Load { space, address, .. } | MatrixMove::Store { space, address, .. } => {
            (*space, *address)
        }
    };
    let mut addresses = addresses(registers, address);
    if space == Space::Generic {
        addresses = addresses.map(|address| address.wrapping_sub(SHARED_WINDOW));
    }
    let place = (Space::Shared, Order::default());
    let first = |rows: usize| {
        if rows >= 32 {
            u32::MAX
        } else {
            (1 << rows) - 1
        }
    };
    match op {
        MatrixMove::Load {
            shape, count, d, ..
        } => {
            let needed = ldmatrix::rows_needed(*shape, *count).map_err(flaw)?;
            memory.load(own, place, (first(needed), &addresses), 16, &mut words)?;
            let mut rows = [[0u8; 16]; 32];
            for (lane, row) in rows.iter_mut().enumerate() {
                for word in 0..4 {
                    row[4 * word..4 * word + 4].copy_from_slice(&words[word][lane].to_le_bytes());
                }
            }
            let values = ldmatrix::ldmatrix(*shape, *count, &rows[..needed]).map_err(flaw)?;
            for (slot, value) in d.iter().zip(&values) {
                registers.put(*slot, value, mask);
            }
            Ok(())
        }
        MatrixMove::Store { shape, s, .. } => {
            let values: Vec<_> = s.iter().map(|slot| *registers.get(*slot)).collect();
            let rows = stmatrix::stmatrix(*shape, &values).map_err(flaw)?;
            for (lane, row) in rows.iter().enumerate().take(32) {
                for word in 0..4 {
                    let bytes = [
                        row[4 * word],
                        row[4 * word + 1],
                        row[4 * word + 2],
                        row[4 * word + 3],
                    ];
                    words[word][lane] = u32::from_le_bytes(bytes);
                }
            }
            memory.store(own, place, (first(rows.len()), &addresses), 16, &words)
        }
    }
}
