//! Integer arithmetic.

use super::integers::{Integer, with_integer};
use super::opcode::Opcode;
use super::{Answer, Decoder, exactly, lanes};
use crate::ptx::{Operand, Type};
use crate::vm::registers::{Action, CARRY, Slot, Word, map1, map2, map3};

impl Decoder<'_> {
    pub(super) fn integer(&mut self, opcode: &Opcode<'_>, operands: &[Operand]) -> Answer {
        if opcode.sees("cc") || matches!(opcode.base, "addc" | "subc" | "madc") {
            return self.carrying(opcode, operands);
        }
        match opcode.base {
            "add" | "sub" | "div" | "rem" | "min" | "max" | "mul" | "mul24" | "mad" | "mad24"
            | "abs" | "neg" | "sad" => {}
            "dp4a" | "dp2a" => return self.dot(opcode, operands),
            _ => return Ok(None),
        }
        if matches!(opcode.sees_type(), Some(Type::U16x2 | Type::S16x2)) {
            return self.integer_packed(opcode, operands);
        }
        let Some(kind) = opcode.sees_type() else {
            return Ok(None);
        };
        match with_integer!(kind, self.arithmetic(opcode, operands)) {
            Some(action) => lanes(action?),
            None => Ok(None),
        }
    }

    fn arithmetic<T: Integer>(
        &mut self,
        opcode: &Opcode<'_>,
        operands: &[Operand],
    ) -> Result<Action, String> {
        let kind = opcode.kind()?;
        let saturated = opcode.has("sat");
        let relu = opcode.has("relu");
        let f: fn(T, T) -> T = match (opcode.base, saturated) {
            ("mul" | "mad" | "mul24" | "mad24", false) => {
                return self.product::<T>(opcode, operands);
            }
            ("abs" | "neg", false) => {
                let [d, a] = exactly(operands)?;
                let (d, a) = (self.target(d)?, self.source(a, kind)?);
                return Ok(if opcode.base == "abs" {
                    map1(d, a, |a| T::from_lane(a).absolute().to_lane())
                } else {
                    map1(d, a, |a| T::from_lane(a).negate().to_lane())
                });
            }
            ("sad", false) => {
                let [d, a, b, c] = exactly(operands)?;
                let (a, b) = self.source2(a, b, kind)?;
                let (d, c) = (self.target(d)?, self.source(c, kind)?);
                return Ok(map3(d, (a, b, c), |a, b, c| {
                    T::from_lane(a)
                        .distance(T::from_lane(b))
                        .add(T::from_lane(c))
                        .to_lane()
                }));
            }
            ("add", true) => T::add_saturated,
            ("sub", true) => T::sub_saturated,
            ("add", false) => return self.pair::<T>(operands, kind, T::add),
            ("sub", false) => return self.pair::<T>(operands, kind, T::sub),
            ("div", false) => T::div,
            ("rem", false) => T::rem,
            ("min", false) if relu => |a, b| a.min(b).max(a.sub(a)),
            ("max", false) if relu => |a, b| a.max(b).max(a.sub(a)),
            ("min", false) => return self.pair::<T>(operands, kind, T::min),
            ("max", false) => return self.pair::<T>(operands, kind, T::max),
            _ => return Err("this form is not implemented".to_owned()),
        };
        self.pair(operands, kind, f)
    }

    /// `d = f(a, b)`; `f` is a type of its own, so that the loop over lanes has no calls.
    fn pair<T: Integer>(
        &mut self,
        operands: &[Operand],
        kind: Type,
        f: impl Fn(T, T) -> T + Send + Sync + 'static,
    ) -> Result<Action, String> {
        let [d, a, b] = exactly(operands)?;
        let (d, ab) = (self.target(d)?, self.source2(a, b, kind)?);
        Ok(map2(d, ab, move |a, b| {
            f(T::from_lane(a), T::from_lane(b)).to_lane()
        }))
    }

    fn product<T: Integer>(
        &mut self,
        opcode: &Opcode<'_>,
        operands: &[Operand],
    ) -> Result<Action, String> {
        let kind = opcode.kind()?;
        let add = opcode.base.starts_with("mad");
        if opcode.base.ends_with("24") {
            return self.product24(opcode, operands, kind);
        }
        if opcode.has("wide") {
            return self.product_wide::<T>(operands, kind, add);
        }
        let high = opcode.has("hi");
        if !high && !opcode.has("lo") {
            return Err("one of .lo, .hi and .wide is expected".to_owned());
        }
        if !add {
            return if high {
                self.pair(operands, kind, T::mul_high)
            } else {
                self.pair(operands, kind, T::mul)
            };
        }
        let [d, a, b, c] = exactly(operands)?;
        let (a, b) = self.source2(a, b, kind)?;
        let (d, c) = (self.target(d)?, self.source(c, kind)?);
        Ok(if high {
            map3(d, (a, b, c), |a, b, c| {
                T::from_lane(a)
                    .mul_high(T::from_lane(b))
                    .add(T::from_lane(c))
                    .to_lane()
            })
        } else {
            map3(d, (a, b, c), |a, b, c| {
                T::from_lane(a)
                    .mul(T::from_lane(b))
                    .add(T::from_lane(c))
                    .to_lane()
            })
        })
    }

    fn product24(
        &mut self,
        opcode: &Opcode<'_>,
        operands: &[Operand],
        kind: Type,
    ) -> Result<Action, String> {
        let shift = if opcode.has("hi") { 16 } else { 0 };
        opcode.ignore(&["lo"]);
        let signed = kind.signed();
        let product = move |a: u32, b: u32| {
            let cut = |x: u32| {
                if signed {
                    i64::from((x << 8) as i32 >> 8)
                } else {
                    i64::from(x & 0xff_ffff)
                }
            };
            ((cut(a) * cut(b)) >> shift) as u32
        };
        if opcode.base == "mul24" {
            let [d, a, b] = exactly(operands)?;
            let (d, ab) = (self.target(d)?, self.source2(a, b, kind)?);
            return Ok(map2(d, ab, product));
        }
        let [d, a, b, c] = exactly(operands)?;
        let (a, b) = self.source2(a, b, kind)?;
        let (d, c) = (self.target(d)?, self.source(c, kind)?);
        Ok(map3(d, (a, b, c), move |a, b, c: u32| {
            product(a, b).wrapping_add(c)
        }))
    }

    /// `mul.wide` and `mad.wide`: a product twice as wide as its factors.
    fn product_wide<T: Integer>(
        &mut self,
        operands: &[Operand],
        kind: Type,
        add: bool,
    ) -> Result<Action, String> {
        let sum = match kind {
            Type::U16 => Type::U32,
            Type::S16 => Type::S32,
            Type::U32 => Type::U64,
            Type::S32 => Type::S64,
            _ => return Err("a product of more than 64 bits".to_owned()),
        };
        let (d, a, b, c) = match operands {
            [d, a, b] if !add => (d, a, b, None),
            [d, a, b, c] if add => (d, a, b, Some(c)),
            _ => return Err("3 or 4 operands are expected".to_owned()),
        };
        let (a, b) = self.source2::<T::Lane>(a, b, kind)?;
        if T::BITS == 16 {
            let d: Slot<u32> = self.target(d)?;
            let product =
                |a: T::Lane, b: T::Lane| (T::from_lane(a).widen() * T::from_lane(b).widen()) as u32;
            return Ok(match c {
                None => map2(d, (a, b), product),
                Some(c) => {
                    let c: Slot<u32> = self.source(c, sum)?;
                    map3(d, (a, b, c), move |a, b, c: u32| {
                        product(a, b).wrapping_add(c)
                    })
                }
            });
        }
        let d: Slot<u64> = self.target(d)?;
        let signed = kind.signed();
        let product = move |a: T::Lane, b: T::Lane| {
            let (a, b) = (a.extend() as u32, b.extend() as u32);
            if signed {
                (i64::from(a as i32) * i64::from(b as i32)) as u64
            } else {
                u64::from(a) * u64::from(b)
            }
        };
        Ok(match c {
            None => map2(d, (a, b), product),
            Some(c) => {
                let c: Slot<u64> = self.source(c, sum)?;
                map3(d, (a, b, c), move |a, b, c: u64| {
                    product(a, b).wrapping_add(c)
                })
            }
        })
    }

    /// `dp4a`, `dp2a`: dot products of bytes.
    fn dot(&mut self, opcode: &Opcode<'_>, operands: &[Operand]) -> Answer {
        let kinds = opcode.types();
        let [left, right] = kinds[..] else {
            return Err("two types are expected".to_owned());
        };
        let [d, a, b, c] = exactly(operands)?;
        let (a, b) = self.source2::<u32>(a, b, Type::B32)?;
        let (d, c) = (self.target::<u32>(d)?, self.source::<u32>(c, Type::B32)?);
        let (left, right) = (left.signed(), right.signed());
        let byte = |x: u32, at: u32, signed: bool| {
            let byte = (x >> (8 * at)) as u8;
            if signed {
                i32::from(byte as i8)
            } else {
                i32::from(byte)
            }
        };
        if opcode.base == "dp4a" {
            return lanes(map3(d, (a, b, c), move |a: u32, b: u32, c: u32| {
                let sum: i32 = (0..4)
                    .map(|at| byte(a, at, left) * byte(b, at, right))
                    .sum();
                c.wrapping_add(sum as u32)
            }));
        }
        let base = if opcode.has("hi") { 2 } else { 0 };
        opcode.ignore(&["lo"]);
        let half = |x: u32, at: u32, signed: bool| {
            let half = (x >> (16 * at)) as u16;
            if signed {
                i32::from(half as i16)
            } else {
                i32::from(half)
            }
        };
        lanes(map3(d, (a, b, c), move |a: u32, b: u32, c: u32| {
            let term = |at| half(a, at, left).wrapping_mul(byte(b, base + at, right));
            c.wrapping_add(term(0).wrapping_add(term(1)) as u32)
        }))
    }

    /// `add`, `min` and `max` of two halves each.
    fn integer_packed(&mut self, opcode: &Opcode<'_>, operands: &[Operand]) -> Answer {
        let signed = opcode.kind()?.signed();
        let relu = opcode.has("relu");
        let half: fn(i32, i32) -> i32 = match opcode.base {
            "add" => |a, b| a + b,
            "min" => |a, b| a.min(b),
            "max" => |a, b| a.max(b),
            _ => return Ok(None),
        };
        let [d, a, b] = exactly(operands)?;
        let (d, ab) = (
            self.target::<u32>(d)?,
            self.source2::<u32>(a, b, Type::B32)?,
        );
        lanes(map2(d, ab, move |a: u32, b: u32| {
            let part = |x: u32, at: u32| {
                let half = (x >> at) as u16;
                if signed {
                    i32::from(half as i16)
                } else {
                    i32::from(half)
                }
            };
            let each = |at| {
                let value = half(part(a, at), part(b, at));
                (if relu { value.max(0) } else { value }) as u32 & 0xffff
            };
            each(16) << 16 | each(0)
        }))
    }

    /// `add.cc`, `addc`, `sub.cc`, `subc`, `mad.cc`, `madc`.
    fn carrying(&mut self, opcode: &Opcode<'_>, operands: &[Operand]) -> Answer {
        let kind = opcode.kind()?;
        if kind.bytes() == 8 {
            self.carrying_of::<u64>(opcode, operands, kind)
        } else {
            self.carrying_of::<u32>(opcode, operands, kind)
        }
    }

    fn carrying_of<T: Word>(
        &mut self,
        opcode: &Opcode<'_>,
        operands: &[Operand],
        kind: Type,
    ) -> Answer {
        let (out, read) = (opcode.has("cc"), opcode.base.ends_with('c'));
        let high = opcode.has("hi");
        opcode.ignore(&["lo"]);
        let (signed, subtract) = (kind.signed(), opcode.base.starts_with("sub"));
        let (d, a, b, c) = match operands {
            [d, a, b] => (d, a, b, None),
            [d, a, b, c] => (d, a, b, Some(c)),
            _ => return Err("3 or 4 operands are expected".to_owned()),
        };
        let (a, b) = self.source2::<T>(a, b, kind)?;
        let d = self.target::<T>(d)?;
        let c = c.map(|c| self.source::<T>(c, kind)).transpose()?;
        lanes(Box::new(move |registers, mask| {
            let carries = registers.predicate(CARRY);
            let (mut result, mut flags) = ([T::default(); 32], 0u32);
            for (lane, result) in result.iter_mut().enumerate() {
                let (mut x, mut y) = (
                    registers.get(a)[lane].extend(),
                    registers.get(b)[lane].extend(),
                );
                if let Some(c) = c {
                    x = product_part(x, y, (T::BITS, high, signed));
                    y = registers.get(c)[lane].extend();
                }
                let carry = u128::from(read && carries >> lane & 1 == 1);
                let (x, y) = (u128::from(x), u128::from(y));
                let sum = if subtract {
                    x.wrapping_sub(y).wrapping_sub(carry)
                } else {
                    x + y + carry
                };
                *result = T::truncate(sum as u64);
                flags |= ((sum >> T::BITS & 1) as u32) << lane;
            }
            registers.put(d, &result, mask);
            if out {
                registers.set_predicate(CARRY, flags, mask);
            }
        }))
    }
}

/// The low or high half of a product.
fn product_part(x: u64, y: u64, (bits, high, signed): (u32, bool, bool)) -> u64 {
    let product = match (bits, signed) {
        (32, true) => i128::from(x as i32) * i128::from(y as i32),
        (_, true) => i128::from(x as i64) * i128::from(y as i64),
        _ => (u128::from(x) * u128::from(y)) as i128,
    };
    let part = if high { product >> bits } else { product };
    if bits == 32 {
        u64::from(part as u32)
    } else {
        part as u64
    }
}
