//! `mov` with its packing of vectors, addresses of variables, `cvta`, `isspacep`, special registers.

use super::opcode::Opcode;
use super::operands::Register;
use super::{Answer, Decoder, exactly, lanes};
use crate::ptx::{Operand, Space, Type};
use crate::vm::code::{Element, Op};
use crate::vm::registers::{Registers, Slot, Word, map1};
use crate::vm::space::{LOCAL_WINDOW, PARAMETER_WINDOW, SHARED_WINDOW, classify};

impl Decoder<'_> {
    pub(super) fn moves(&mut self, opcode: &Opcode<'_>, operands: &[Operand]) -> Answer {
        match opcode.base {
            "mov" => self.mov(opcode, operands),
            "cvta" => self.generic_address(opcode, operands),
            "mapa" => {
                // A cluster of one block: its own shared memory.
                opcode.ignore(&["shared::cluster"]);
                let kind = opcode.kind()?;
                let [d, a, _] = exactly(operands)?;
                self.copy(d, a, kind)
            }
            "isspacep" => self.is_space(opcode, operands),
            "activemask" => {
                opcode.ignore(&["b32"]);
                let [d] = exactly(operands)?;
                Ok(Some(Op::ActiveMask(self.target(d)?)))
            }
            _ => Ok(None),
        }
    }

    fn mov(&mut self, opcode: &Opcode<'_>, operands: &[Operand]) -> Answer {
        let kind = opcode.kind()?;
        let [d, a] = exactly(operands)?;
        if kind == Type::Pred {
            let d = self.predicate_target(d)?;
            let (a, negated) = self.predicate_source(a)?;
            return lanes(Box::new(move |registers: &mut Registers, mask| {
                let value = registers.predicate(a) ^ if negated { u32::MAX } else { 0 };
                registers.set_predicate(d, value, mask);
            }));
        }
        if let Operand::Vector(parts) = d {
            return self.unpack(parts, a, kind);
        }
        if let Operand::Vector(parts) = a {
            return self.pack(d, parts, kind);
        }
        if let Operand::Name(name) = a
            && matches!(
                &name[..],
                "%clock"
                    | "%clock64"
                    | "%clock_hi"
                    | "%globaltimer"
                    | "%globaltimer_lo"
                    | "%globaltimer_hi"
            )
        {
            let register = self
                .register(d)
                .ok_or_else(|| format!("{d} is no register"))?;
            return Ok(Some(Op::Clock(register.element)));
        }
        // The address of a local variable as `mov` takes it is one of its space, not a generic one.
        self.copy(d, a, kind)
    }

    fn copy(&mut self, d: &Operand, a: &Operand, kind: Type) -> Answer {
        if kind.bytes() == 8 {
            let (d, a): (Slot<u64>, Slot<u64>) = (self.target(d)?, self.source(a, kind)?);
            return lanes(map1(d, a, |a: u64| a));
        }
        let (d, a): (Slot<u32>, Slot<u32>) = (self.target(d)?, self.source(a, kind)?);
        lanes(map1(d, a, |a: u32| a))
    }

    /// `mov.b32 {lo, hi}, a`.
    fn unpack(&mut self, parts: &[Operand], a: &Operand, kind: Type) -> Answer {
        let bits = kind.bytes() as u32 * 8 / parts.len().max(1) as u32;
        let mut targets = Vec::new();
        for part in parts {
            let sink = matches!(part, Operand::Name(name) if name == "_");
            targets.push(match self.register(part) {
                Some(register) => Some(register),
                None if sink => None,
                None => return Err(format!("{part} is no register")),
            });
        }
        if kind.bytes() == 8 {
            let a: Slot<u64> = self.source(a, kind)?;
            return lanes(unpacking(targets, a, bits));
        }
        let a: Slot<u32> = self.source(a, kind)?;
        lanes(unpacking(targets, a, bits))
    }

    /// `mov.b32 d, {lo, hi}`.
    fn pack(&mut self, d: &Operand, parts: &[Operand], kind: Type) -> Answer {
        let bits = kind.bytes() as u32 * 8 / parts.len().max(1) as u32;
        let part_kind = match bits {
            8 => Type::B8,
            16 => Type::B16,
            32 => Type::B32,
            64 => Type::B64,
            _ => return Err("a vector of this length is not implemented".to_owned()),
        };
        let mut sources: Vec<Slot<u32>> = Vec::new();
        for part in parts {
            sources.push(self.source(part, part_kind)?);
        }
        let joined = move |registers: &Registers, lane: usize| {
            sources.iter().rev().fold(0u64, |sum, slot| {
                sum << bits | u64::from(registers.get(*slot)[lane]) & ((1 << bits) - 1)
            })
        };
        if kind.bytes() == 8 {
            let d: Slot<u64> = self.target(d)?;
            return lanes(Box::new(move |registers, mask| {
                let out: [u64; 32] = std::array::from_fn(|lane| joined(registers, lane));
                registers.put(d, &out, mask);
            }));
        }
        let d: Slot<u32> = self.target(d)?;
        lanes(Box::new(move |registers, mask| {
            let out: [u32; 32] = std::array::from_fn(|lane| joined(registers, lane) as u32);
            registers.put(d, &out, mask);
        }))
    }

    fn generic_address(&mut self, opcode: &Opcode<'_>, operands: &[Operand]) -> Answer {
        let back = opcode.has("to");
        opcode.ignore_starting(&["param::"]);
        let space = match opcode.one_of(&[
            "global",
            "shared",
            "shared::cta",
            "shared::cluster",
            "local",
            "const",
            "param",
        ]) {
            Some(space) => space.split("::").next().unwrap_or_default(),
            None if opcode.starts(&["param::entry"]) => "param",
            None => return Err("a state space is expected".to_owned()),
        };
        let window = Self::window(space).unwrap_or_default();
        let window = if back { window.wrapping_neg() } else { window };
        let kind = opcode.kind()?;
        let [d, a] = exactly(operands)?;
        if kind.bytes() == 8 {
            let (d, a): (Slot<u64>, Slot<u64>) = (self.target(d)?, self.source(a, kind)?);
            return lanes(map1(d, a, move |a: u64| a.wrapping_add(window)));
        }
        let (d, a): (Slot<u32>, Slot<u32>) = (self.target(d)?, self.source(a, kind)?);
        lanes(map1(d, a, move |a: u32| a.wrapping_add(window as u32)))
    }

    fn is_space(&mut self, opcode: &Opcode<'_>, operands: &[Operand]) -> Answer {
        let names = [
            "global",
            "shared",
            "shared::cta",
            "shared::cluster",
            "local",
            "const",
            "param",
        ];
        let name = opcode.one_of(&names).ok_or("a state space is expected")?;
        let window = match name {
            "shared" | "shared::cta" | "shared::cluster" => Some(SHARED_WINDOW),
            "local" => Some(LOCAL_WINDOW),
            "param" => Some(PARAMETER_WINDOW),
            "const" => None,
            _ => Some(0),
        };
        let [p, a] = exactly(operands)?;
        let (p, a): (_, Slot<u64>) = (self.predicate_target(p)?, self.source(a, Type::U64)?);
        lanes(Box::new(move |registers, mask| {
            let bits = registers
                .get(a)
                .iter()
                .enumerate()
                .fold(0, |bits, (lane, address)| {
                    let (space, _) = classify(*address);
                    let found = match space {
                        Space::Shared => SHARED_WINDOW,
                        Space::Local => LOCAL_WINDOW,
                        Space::Param => PARAMETER_WINDOW,
                        _ => 0,
                    };
                    bits | u32::from(Some(found) == window) << lane
                });
            registers.set_predicate(p, bits, mask);
        }))
    }
}

fn unpacking<A: Word>(
    targets: Vec<Option<Register>>,
    a: Slot<A>,
    bits: u32,
) -> crate::vm::registers::Action {
    let keep = if bits >= 64 {
        u64::MAX
    } else {
        (1 << bits) - 1
    };
    Box::new(move |registers, mask| {
        let whole: [u64; 32] = std::array::from_fn(|lane| registers.get(a)[lane].extend());
        for (at, target) in targets.iter().enumerate() {
            let shift = bits * at as u32;
            match target.as_ref().map(|register| register.element) {
                Some(Element::Narrow(slot)) => {
                    let out: [u32; 32] =
                        std::array::from_fn(|lane| (whole[lane] >> shift & keep) as u32);
                    registers.put(slot, &out, mask);
                }
                Some(Element::Wide(slot)) => {
                    let out: [u64; 32] = std::array::from_fn(|lane| whole[lane] >> shift & keep);
                    registers.put(slot, &out, mask);
                }
                _ => {}
            }
        }
    })
}
