//! Bits: logic, shifts, fields, permutations, and logic of predicates.

use super::integers::{Integer, with_integer};
use super::opcode::Opcode;
use super::{Answer, Decoder, exactly, lanes};
use crate::ptx::{Operand, Type};
use crate::vm::code::Op;
use crate::vm::registers::{Slot, Word, map1, map2, map3, map4};

impl Decoder<'_> {
    pub(super) fn logic(&mut self, opcode: &Opcode<'_>, operands: &[Operand]) -> Answer {
        match opcode.base {
            "and" | "or" | "xor" | "not" | "cnot" | "lop3" if opcode.sees("pred") => {
                self.logic_predicates(opcode, operands)
            }
            "and" | "or" | "xor" | "not" | "cnot" | "popc" | "clz" | "brev" | "bfind" => {
                if opcode.kind()?.bytes() == 8 {
                    self.bitwise::<u64>(opcode, operands)
                } else {
                    self.bitwise::<u32>(opcode, operands)
                }
            }
            "shl" | "shr" => {
                let kind = opcode.kind()?;
                with_integer!(kind, self.shift(opcode, operands)).unwrap_or(Ok(None))
            }
            "shf" => self.funnel(opcode, operands),
            "prmt" => self.permute(opcode, operands),
            "lop3" => self.lookup(opcode, operands),
            "bfe" | "bfi" | "bmsk" | "szext" | "fns" => self.field(opcode, operands),
            _ => Ok(None),
        }
    }

    fn bitwise<T: Word + Bits>(&mut self, opcode: &Opcode<'_>, operands: &[Operand]) -> Answer {
        let kind = opcode.kind()?;
        let width = kind.bytes() as u32 * 8;
        let keep = T::truncate(if width == 64 {
            u64::MAX
        } else {
            (1 << width) - 1
        });
        if let "and" | "or" | "xor" = opcode.base {
            let [d, a, b] = exactly(operands)?;
            let (d, ab) = (self.target::<T>(d)?, self.source2::<T>(a, b, kind)?);
            return lanes(match opcode.base {
                "and" => map2(d, ab, T::and),
                "or" => map2(d, ab, T::or),
                _ => map2(d, ab, T::xor),
            });
        }
        let [d, a] = exactly(operands)?;
        let a = self.source::<T>(a, kind)?;
        if opcode.base == "bfind" {
            let (signed, shift) = (kind.signed(), opcode.has("shiftamt"));
            let d = self.target::<u32>(d)?;
            return lanes(map1(d, a, move |a: T| {
                let bits = if signed {
                    (a.extend() << (64 - T::BITS)) as i64 >> (64 - T::BITS)
                } else {
                    a.extend() as i64
                };
                let found = (if signed && bits < 0 { !bits } else { bits }) as u64;
                let position = 63u32.wrapping_sub(found.leading_zeros());
                if shift && position != u32::MAX {
                    T::BITS - 1 - position
                } else {
                    position
                }
            }));
        }
        match opcode.base {
            "popc" => {
                return lanes(map1(self.target::<u32>(d)?, a, |a: T| {
                    a.extend().count_ones()
                }));
            }
            "clz" => {
                let d = self.target::<u32>(d)?;
                return lanes(map1(d, a, |a: T| {
                    a.extend().leading_zeros() - (64 - T::BITS)
                }));
            }
            _ => {}
        }
        let d = self.target::<T>(d)?;
        lanes(match opcode.base {
            "not" => map1(d, a, move |a: T| a.not().and(keep)),
            "cnot" => map1(d, a, |a: T| T::truncate(u64::from(a.extend() == 0))),
            _ => map1(d, a, |a: T| {
                T::truncate(a.extend().reverse_bits() >> (64 - T::BITS))
            }),
        })
    }

    fn shift<T: Integer>(&mut self, opcode: &Opcode<'_>, operands: &[Operand]) -> Answer {
        let kind = opcode.kind()?;
        let [d, a, b] = exactly(operands)?;
        let (d, a) = (self.target::<T::Lane>(d)?, self.source::<T::Lane>(a, kind)?);
        let count: Slot<u32> = self.source(b, Type::U32)?;
        if opcode.base == "shr" {
            return lanes(map2(d, (a, count), |a, count| {
                T::from_lane(a).shift_right(count).to_lane()
            }));
        }
        lanes(map2(d, (a, count), |a: T::Lane, count| {
            let shifted = if count < T::BITS {
                a.extend() << (count & 63)
            } else {
                0
            };
            T::from_lane(T::Lane::truncate(shifted)).to_lane()
        }))
    }

    fn funnel(&mut self, opcode: &Opcode<'_>, operands: &[Operand]) -> Answer {
        opcode.ignore(&["b32"]);
        let (left, wrap) = (opcode.has("l"), opcode.has("wrap"));
        if !(left || opcode.has("r")) || !(wrap || opcode.has("clamp")) {
            return Err(".l or .r and .wrap or .clamp are expected".to_owned());
        }
        let [d, a, b, c] = exactly(operands)?;
        let (d, (a, b)) = (
            self.target::<u32>(d)?,
            self.source2::<u32>(a, b, Type::B32)?,
        );
        let c = self.source::<u32>(c, Type::U32)?;
        lanes(map3(
            d,
            (a, b, c),
            move |low: u32, high: u32, count: u32| {
                let pair = u64::from(high) << 32 | u64::from(low);
                let count = if wrap { count & 31 } else { count.min(32) };
                if left {
                    ((pair << count) >> 32) as u32
                } else {
                    (pair >> count) as u32
                }
            },
        ))
    }

    fn permute(&mut self, opcode: &Opcode<'_>, operands: &[Operand]) -> Answer {
        opcode.ignore(&["b32"]);
        let mode = opcode.one_of(&["f4e", "b4e", "rc8", "ecl", "ecr", "rc16"]);
        let [d, a, b, c] = exactly(operands)?;
        let (d, (a, b)) = (
            self.target::<u32>(d)?,
            self.source2::<u32>(a, b, Type::B32)?,
        );
        let c = self.source::<u32>(c, Type::U32)?;
        lanes(map3(
            d,
            (a, b, c),
            move |low: u32, high: u32, selector: u32| {
                permuted(u64::from(high) << 32 | u64::from(low), selector, mode)
            },
        ))
    }

    fn lookup(&mut self, opcode: &Opcode<'_>, operands: &[Operand]) -> Answer {
        opcode.ignore(&["b32"]);
        let [d, a, b, c, table] = exactly(operands)?;
        let (d, (a, b)) = (
            self.target::<u32>(d)?,
            self.source2::<u32>(a, b, Type::B32)?,
        );
        let (c, table) = self.source2::<u32>(c, table, Type::B32)?;
        lanes(map4(
            d,
            (a, b),
            (c, table),
            |a: u32, b: u32, c: u32, table: u32| {
                (0..8).fold(0, |out, row| {
                    let pick = |x: u32, bit: u32| if row >> bit & 1 == 1 { x } else { !x };
                    let here = 0u32.wrapping_sub(table >> row & 1);
                    out | pick(a, 2) & pick(b, 1) & pick(c, 0) & here
                })
            },
        ))
    }

    fn field(&mut self, opcode: &Opcode<'_>, operands: &[Operand]) -> Answer {
        let kind = opcode.kind()?;
        match (opcode.base, kind.bytes()) {
            ("bfe", 8) => self.extract::<u64>(operands, kind),
            ("bfe", _) => self.extract::<u32>(operands, kind),
            ("bfi", 8) => self.insert::<u64>(operands, kind),
            ("bfi", _) => self.insert::<u32>(operands, kind),
            ("bmsk", _) => {
                let clamp = opcode.has("clamp");
                opcode.ignore(&["wrap"]);
                let [d, a, b] = exactly(operands)?;
                let (d, ab) = (
                    self.target::<u32>(d)?,
                    self.source2::<u32>(a, b, Type::U32)?,
                );
                lanes(map2(d, ab, move |at: u32, count: u32| {
                    let (at, count) = if clamp {
                        (at.min(32), count.min(32))
                    } else {
                        (at & 31, count & 31)
                    };
                    ((((1u128 << count) - 1) << at) & 0xffff_ffff) as u32
                }))
            }
            ("szext", _) => {
                let clamp = opcode.has("clamp");
                opcode.ignore(&["wrap"]);
                let [d, a, b] = exactly(operands)?;
                let (d, ab) = (self.target::<u32>(d)?, self.source2::<u32>(a, b, kind)?);
                let signed = kind.signed();
                lanes(map2(d, ab, move |a: u32, count: u32| {
                    let count = if clamp { count.min(32) } else { count & 31 };
                    extracted(u64::from(a), (0, count), (32, signed)) as u32
                }))
            }
            _ => Ok(None),
        }
    }

    fn extract<T: Word>(&mut self, operands: &[Operand], kind: Type) -> Answer {
        let [d, a, b, c] = exactly(operands)?;
        let (d, a) = (self.target::<T>(d)?, self.source::<T>(a, kind)?);
        let (b, c) = self.source2::<u32>(b, c, Type::U32)?;
        let signed = kind.signed();
        lanes(map3(d, (a, b, c), move |a: T, at: u32, count: u32| {
            T::truncate(extracted(
                a.extend(),
                (at & 255, count & 255),
                (T::BITS, signed),
            ))
        }))
    }

    fn insert<T: Word>(&mut self, operands: &[Operand], kind: Type) -> Answer {
        let [d, a, b, c, e] = exactly(operands)?;
        let (d, (a, b)) = (self.target::<T>(d)?, self.source2::<T>(a, b, kind)?);
        let (c, e) = self.source2::<u32>(c, e, Type::U32)?;
        lanes(map4(
            d,
            (a, b),
            (c, e),
            |a: T, b: T, at: u32, count: u32| {
                let (at, count) = (at & 255, (count & 255).min(64));
                if at >= T::BITS {
                    return b;
                }
                let field = ((((1u128 << count) - 1) as u64) << at) & (u64::MAX >> (64 - T::BITS));
                T::truncate(b.extend() & !field | a.extend() << at & field)
            },
        ))
    }

    fn logic_predicates(&mut self, opcode: &Opcode<'_>, operands: &[Operand]) -> Answer {
        opcode.ignore(&["pred"]);
        let f: fn(u32, u32) -> u32 = match opcode.base {
            "and" => |a, b| a & b,
            "or" => |a, b| a | b,
            "xor" => |a, b| a ^ b,
            _ => |a, _| !a,
        };
        let (d, a, b) = match operands {
            [d, a, b] => (d, a, b),
            [d, a] if opcode.base == "not" => (d, a, a),
            _ => return Err("3 operands are expected".to_owned()),
        };
        let d = self.predicate_target(d)?;
        let ((a, not_a), (b, not_b)) = (self.predicate_source(a)?, self.predicate_source(b)?);
        Ok(Some(Op::Lanes(Box::new(move |registers, mask| {
            let turn = |bits: u32, not: bool| if not { !bits } else { bits };
            let (a, b) = (
                turn(registers.predicate(a), not_a),
                turn(registers.predicate(b), not_b),
            );
            registers.set_predicate(d, f(a, b), mask);
        }))))
    }
}

/// Bit operations of a lane.
trait Bits {
    fn and(self, other: Self) -> Self;
    fn or(self, other: Self) -> Self;
    fn xor(self, other: Self) -> Self;
    fn not(self) -> Self;
}

macro_rules! bits {
    ($($name:ident),*) => {$(
        impl Bits for $name {
            #[inline]
            fn and(self, other: Self) -> Self { self & other }
            #[inline]
            fn or(self, other: Self) -> Self { self | other }
            #[inline]
            fn xor(self, other: Self) -> Self { self ^ other }
            #[inline]
            fn not(self) -> Self { !self }
        }
    )*};
}
bits!(u32, u64);

/// A field of `count` bits from bit `at`; bits beyond the word repeat the sign, or are zero.
fn extracted(value: u64, (at, count): (u32, u32), (bits, signed): (u32, bool)) -> u64 {
    if count == 0 {
        return 0;
    }
    let value = if signed && bits == 32 {
        i128::from(value as i32)
    } else if signed {
        i128::from(value as i64)
    } else {
        i128::from(value)
    };
    let (at, count) = (at.min(127), count.min(64));
    let field = value >> at;
    let unused = 128 - count;
    (if signed {
        (field << unused) >> unused
    } else {
        field & ((1 << count) - 1)
    }) as u64
}

/// `prmt`: bytes of a pair of words, picked by nibbles or by one of the modes.
fn permuted(pair: u64, selector: u32, mode: Option<&str>) -> u32 {
    let byte = |at: u32| (pair >> (8 * (at & 7))) as u32 & 0xff;
    let bytes = |picks: [u32; 4]| (0..4).fold(0, |out, at| out | byte(picks[at]) << (8 * at));
    let s = selector & 3;
    match mode {
        None => (0..4).fold(0, |out, at| {
            let nibble = selector >> (4 * at);
            let picked = byte(nibble);
            let sign = if picked & 0x80 == 0 { 0 } else { 0xff };
            out | (if nibble & 8 == 0 { picked } else { sign }) << (8 * at)
        }),
        Some("f4e") => bytes([s, s + 1, s + 2, s + 3]),
        Some("b4e") => bytes([
            s,
            s.wrapping_sub(1) & 7,
            s.wrapping_sub(2) & 7,
            s.wrapping_sub(3) & 7,
        ]),
        Some("rc8") => bytes([s; 4]),
        Some("ecl") => bytes([s, s.max(1), s.max(2), 3]),
        Some("ecr") => bytes([0, s.min(1), s.min(2), s]),
        _ => bytes([2 * (s & 1), 2 * (s & 1) + 1, 2 * (s & 1), 2 * (s & 1) + 1]),
    }
}
