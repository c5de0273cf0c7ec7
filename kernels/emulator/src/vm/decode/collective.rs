//! Exchange within a warp: `shfl`, `vote`, `match`, `redux`, `elect`.

use super::opcode::Opcode;
use super::{Answer, Decoder, exactly};
use crate::ptx::{Operand, Type};
use crate::vm::code::{Members, Op, Together};
use crate::vm::registers::{Predicate, Registers, Slot, Word, lanes};

fn together(mask: Slot<u32>, f: Together) -> Answer {
    Ok(Some(Op::Together(Members::Mask(mask), f)))
}

impl Decoder<'_> {
    pub(super) fn collective(&mut self, opcode: &Opcode<'_>, operands: &[Operand]) -> Answer {
        match opcode.base {
            "shfl" => self.shuffle(opcode, operands),
            "vote" => self.vote(opcode, operands),
            "match" => {
                if opcode.sees("b64") {
                    self.matching::<u64>(opcode, operands)
                } else {
                    self.matching::<u32>(opcode, operands)
                }
            }
            "redux" => self.reduce(opcode, operands),
            "elect" => {
                opcode.has("sync");
                let [targets, mask] = exactly(operands)?;
                let Operand::Pair(d, p) = targets else {
                    return Err("d|p is expected".to_owned());
                };
                let (d, p): (Slot<u32>, _) = (self.target(d)?, self.predicate_target(p)?);
                let mask = self.source(mask, Type::B32)?;
                together(
                    mask,
                    Box::new(move |registers, mask| {
                        let leader = mask.trailing_zeros();
                        registers.put(d, &[leader; 32], mask);
                        registers.set_predicate(p, 1 << leader, mask);
                        Ok(())
                    }),
                )
            }
            _ => Ok(None),
        }
    }

    fn shuffle(&mut self, opcode: &Opcode<'_>, operands: &[Operand]) -> Answer {
        opcode.ignore(&["sync", "b32"]);
        let mode = opcode
            .one_of(&["up", "down", "bfly", "idx"])
            .ok_or("a mode is expected")?;
        let [targets, a, b, c, mask] = exactly(operands)?;
        let (d, p) = match targets {
            Operand::Pair(d, p) => (d.as_ref(), Some(self.predicate_target(p)?)),
            d => (d, None),
        };
        let (d, a): (Slot<u32>, Slot<u32>) = (self.target(d)?, self.source(a, Type::B32)?);
        let (b, c): (Slot<u32>, Slot<u32>) = self.source2(b, c, Type::U32)?;
        let members = self.source(mask, Type::B32)?;
        together(
            members,
            Box::new(move |registers, mask| {
                let mut out = [0; 32];
                let mut valid = 0u32;
                for lane in lanes(mask) {
                    let (b, c) = (registers.get(b)[lane], registers.get(c)[lane]);
                    let (from, inside) = source_lane(mode, lane as u32, b & 31, c);
                    if mask >> from & 1 == 0 {
                        return Err(format!(
                            "lane {lane} reads lane {from}, which does not take part"
                        ));
                    }
                    out[lane] = registers.get(a)[from as usize];
                    valid |= u32::from(inside) << lane;
                }
                registers.put(d, &out, mask);
                if let Some(p) = p {
                    registers.set_predicate(p, valid, mask);
                }
                Ok(())
            }),
        )
    }

    fn vote(&mut self, opcode: &Opcode<'_>, operands: &[Operand]) -> Answer {
        opcode.ignore(&["sync", "pred", "b32"]);
        let mode = opcode
            .one_of(&["all", "any", "uni", "ballot"])
            .ok_or("a mode is expected")?;
        let [d, a, mask] = exactly(operands)?;
        let (a, negated) = self.predicate_source(a)?;
        let members = self.source(mask, Type::B32)?;
        let votes = move |registers: &Registers, mask: u32| {
            (registers.predicate(a) ^ if negated { u32::MAX } else { 0 }) & mask
        };
        if mode == "ballot" {
            let d: Slot<u32> = self.target(d)?;
            return together(
                members,
                Box::new(move |registers, mask| {
                    let votes = votes(registers, mask);
                    registers.put(d, &[votes; 32], mask);
                    Ok(())
                }),
            );
        }
        let d = self.predicate_target(d)?;
        together(
            members,
            Box::new(move |registers, mask| {
                let votes = votes(registers, mask);
                let holds = match mode {
                    "all" => votes == mask,
                    "any" => votes != 0,
                    _ => votes == mask || votes == 0,
                };
                registers.set_predicate(d, if holds { u32::MAX } else { 0 }, mask);
                Ok(())
            }),
        )
    }

    fn matching<T: Word + PartialEq>(
        &mut self,
        opcode: &Opcode<'_>,
        operands: &[Operand],
    ) -> Answer {
        opcode.ignore(&["sync", "b32", "b64"]);
        let all = opcode.has("all");
        opcode.has("any");
        let [targets, a, mask] = exactly(operands)?;
        let (d, p): (_, Option<Predicate>) = match targets {
            Operand::Pair(d, p) => (d.as_ref(), Some(self.predicate_target(p)?)),
            d => (d, None),
        };
        let d: Slot<u32> = self.target(d)?;
        let a: Slot<T> = self.source(a, if T::BITS == 64 { Type::B64 } else { Type::B32 })?;
        let members = self.source(mask, Type::B32)?;
        together(
            members,
            Box::new(move |registers, mask| {
                let a = registers.get(a);
                let same = |lane: usize| {
                    lanes(mask)
                        .filter(|other| a[*other] == a[lane])
                        .fold(0u32, |m, other| m | 1 << other)
                };
                let mut out: [u32; 32] =
                    std::array::from_fn(|lane| if mask >> lane & 1 == 1 { same(lane) } else { 0 });
                let agree = out[mask.trailing_zeros() as usize & 31] == mask;
                if all {
                    out = [if agree { mask } else { 0 }; 32];
                }
                registers.put(d, &out, mask);
                if let Some(p) = p {
                    registers.set_predicate(p, if agree { u32::MAX } else { 0 }, mask);
                }
                Ok(())
            }),
        )
    }

    fn reduce(&mut self, opcode: &Opcode<'_>, operands: &[Operand]) -> Answer {
        opcode.has("sync");
        let kind = opcode.kind()?;
        let name = opcode
            .one_of(&["add", "min", "max", "and", "or", "xor"])
            .ok_or("an operation is expected")?;
        let (magnitude, nan) = (opcode.has("abs"), opcode.has("NaN"));
        let max = name == "max";
        let f: Box<dyn Fn(u32, u32) -> u32 + Send + Sync> = match (name, kind) {
            ("min" | "max", Type::F32) => Box::new(move |a, b| {
                let cut = |x: u32| f32::from_bits(if magnitude { x & 0x7fff_ffff } else { x });
                crate::vm::simd::bits(super::single::extreme(cut(a), cut(b), max, nan))
            }),
            ("add", _) => Box::new(u32::wrapping_add),
            ("and", _) => Box::new(|a, b| a & b),
            ("or", _) => Box::new(|a, b| a | b),
            ("xor", _) => Box::new(|a, b| a ^ b),
            ("min", Type::S32) => Box::new(|a, b| (a as i32).min(b as i32) as u32),
            ("max", Type::S32) => Box::new(|a, b| (a as i32).max(b as i32) as u32),
            ("min", _) => Box::new(|a, b| a.min(b)),
            _ => Box::new(|a, b| a.max(b)),
        };
        let [d, a, mask] = exactly(operands)?;
        let (d, a): (Slot<u32>, Slot<u32>) = (self.target(d)?, self.source(a, kind)?);
        let members = self.source(mask, Type::B32)?;
        together(
            members,
            Box::new(move |registers, mask| {
                let values = registers.get(a);
                let total = lanes(mask)
                    .map(|lane| values[lane])
                    .reduce(&f)
                    .unwrap_or_default();
                registers.put(d, &[total; 32], mask);
                Ok(())
            }),
        )
    }
}

/// The lane that `shfl` reads, and whether it lies in the segment; else it is the lane itself.
fn source_lane(mode: &str, lane: u32, b: u32, c: u32) -> (u32, bool) {
    let (clamp, segments) = (c & 31, c >> 8 & 31);
    let last = lane & segments | clamp & !segments;
    let first = lane & segments;
    let (from, inside) = match mode {
        "up" => (lane.wrapping_sub(b), lane as i32 - b as i32 >= last as i32),
        "down" => (lane + b, lane + b <= last),
        "bfly" => (lane ^ b, (lane ^ b) <= last),
        _ => (first | b & !segments, (first | b & !segments) <= last),
    };
    if inside {
        (from & 31, true)
    } else {
        (lane, false)
    }
}
