//! Loads, stores and atomics of a warp: registers to words and back.

use super::code::{Access, Address, Atomic, Base, Element};
use super::registers::{Registers, lanes};
use super::space::{Memory, Own, Words};
use crate::memory::LaneFault;

/// The address of each lane.
pub(super) fn addresses(registers: &Registers, address: Address) -> [u64; 32] {
    match address.base {
        Base::None => [address.offset as u64; 32],
        // Addresses of 32 bits wrap in 32 bits.
        Base::Narrow(slot) => registers
            .get(slot)
            .map(|base| u64::from(base.wrapping_add(address.offset as u32))),
        Base::Wide(slot) => registers
            .get(slot)
            .map(|base| base.wrapping_add(address.offset as u64)),
    }
}

/// The bits of an element in one lane.
pub(super) fn element(registers: &Registers, element: Element, lane: usize) -> u64 {
    match element {
        Element::Narrow(slot) => u64::from(registers.get(slot)[lane]),
        Element::Wide(slot) => registers.get(slot)[lane],
        Element::Sink => 0,
    }
}

pub(super) fn load(
    access: &Access,
    registers: &mut Registers,
    mask: u32,
    (memory, own): (&mut Memory<'_>, &mut Own),
) -> Result<(), LaneFault> {
    let mut words: Words = [[0; 32]; 8];
    let width = access.bytes * access.elements.len();
    let addresses = addresses(registers, access.address);
    memory.load(
        own,
        (access.space, access.order),
        (mask, &addresses),
        width,
        &mut words,
    )?;
    for (index, element) in access.elements.iter().enumerate() {
        let at = index * access.bytes;
        let word = &words[at / 4];
        match (*element, access.bytes) {
            (Element::Sink, _) => {}
            (Element::Narrow(slot), 4) => registers.put(slot, word, mask),
            (Element::Wide(slot), 8) => {
                let high = &words[at / 4 + 1];
                let value =
                    std::array::from_fn(|lane| u64::from(high[lane]) << 32 | u64::from(word[lane]));
                registers.put(slot, &value, mask);
            }
            (element, bytes) => {
                let (shift, bits) = (8 * (at % 4) as u32, 8 * bytes.min(4) as u32);
                let part = |lane: usize| {
                    let raw = u64::from(word[lane] >> shift) << (64 - bits);
                    if access.signed {
                        (raw as i64 >> (64 - bits)) as u64
                    } else {
                        raw >> (64 - bits)
                    }
                };
                let keep = if access.register_bits < 32 {
                    (1 << access.register_bits) - 1
                } else {
                    u32::MAX
                };
                match element {
                    Element::Narrow(slot) => {
                        let value = std::array::from_fn(|lane| part(lane) as u32 & keep);
                        registers.put(slot, &value, mask);
                    }
                    Element::Wide(slot) => registers.put(slot, &std::array::from_fn(part), mask),
                    Element::Sink => {}
                }
            }
        }
    }
    Ok(())
}

pub(super) fn store(
    access: &Access,
    registers: &Registers,
    mask: u32,
    (memory, own): (&mut Memory<'_>, &mut Own),
) -> Result<(), LaneFault> {
    let mut words: Words = [[0; 32]; 8];
    let width = access.bytes * access.elements.len();
    for (index, source) in access.elements.iter().enumerate() {
        let at = index * access.bytes;
        match (*source, access.bytes) {
            (Element::Narrow(slot), 4) => words[at / 4] = *registers.get(slot),
            (Element::Wide(slot), 8) => {
                let value = registers.get(slot);
                words[at / 4] = value.map(|value| value as u32);
                words[at / 4 + 1] = value.map(|value| (value >> 32) as u32);
            }
            (source, bytes) => {
                let (shift, keep) = (
                    8 * (at % 4) as u32,
                    if bytes < 4 {
                        (1 << (8 * bytes)) - 1
                    } else {
                        u32::MAX
                    },
                );
                for (lane, word) in words[at / 4].iter_mut().enumerate() {
                    *word |= (element(registers, source, lane) as u32 & keep) << shift;
                }
            }
        }
    }
    let addresses = addresses(registers, access.address);
    memory.store(
        own,
        (access.space, access.order),
        (mask, &addresses),
        width,
        &words,
    )
}

pub(super) fn atomic(
    op: &Atomic,
    registers: &mut Registers,
    mask: u32,
    (memory, own): (&mut Memory<'_>, &mut Own),
) -> Result<(), LaneFault> {
    let addresses = addresses(registers, op.address);
    let cut = if op.bytes == 8 {
        u64::MAX
    } else {
        (1 << (8 * op.bytes)) - 1
    };
    for lane in lanes(mask) {
        let other = op.other.map_or(0, |other| element(registers, other, lane)) & cut;
        for (index, operand) in op.operand.iter().enumerate() {
            let value = element(registers, *operand, lane) & cut;
            let address = addresses[lane].wrapping_add((index * op.bytes) as u64);
            let old = memory.atomic(
                own,
                (op.space, op.order),
                (lane, address),
                op.bytes,
                &mut |old| (op.update)(old, value, other) & cut,
            )?;
            match op.old.get(index) {
                Some(Element::Narrow(slot)) => registers.narrow[slot.0 as usize][lane] = old as u32,
                Some(Element::Wide(slot)) => registers.wide[slot.0 as usize][lane] = old,
                _ => {}
            }
        }
    }
    Ok(())
}
