//! `setp`, `set`, `selp`, `slct`, `testp`.

use super::integers::{Integer, with_integer};
use super::opcode::Opcode;
use super::{Answer, Decoder, exactly, lanes};
use crate::ptx::{Operand, Type};
use crate::vm::code::Op;
use crate::vm::registers::{Predicate, Registers, Slot, Word, compare, map3};

/// The lanes where a comparison holds.
type Test = Box<dyn Fn(&Registers) -> u32 + Send + Sync>;

impl Decoder<'_> {
    pub(super) fn compare(&mut self, opcode: &Opcode<'_>, operands: &[Operand]) -> Answer {
        match opcode.base {
            "setp" => self.set_predicate(opcode, operands),
            "set" => self.set_word(opcode, operands),
            "selp" => {
                let kind = opcode.kind()?;
                if kind.bytes() == 8 {
                    self.select::<u64>(operands, kind)
                } else {
                    self.select::<u32>(operands, kind)
                }
            }
            "slct" => self.select_sign(opcode, operands),
            "testp" => self.test_class(opcode, operands),
            _ => Ok(None),
        }
    }

    fn set_predicate(&mut self, opcode: &Opcode<'_>, operands: &[Operand]) -> Answer {
        let kind = opcode.kind()?;
        let (targets, a, b, c) = match operands {
            [targets, a, b] => (targets, a, b, None),
            [targets, a, b, c] => (targets, a, b, Some(c)),
            _ => return Err("3 or 4 operands are expected".to_owned()),
        };
        let (p, q) = match targets {
            Operand::Pair(p, q) => (self.predicate_target(p)?, Some(self.predicate_target(q)?)),
            p => (self.predicate_target(p)?, None),
        };
        if matches!(kind, Type::F16x2 | Type::Bf16x2) {
            return self.set_predicates_packed(opcode, (p, q), [a, b]);
        }
        let c = c.map(|c| self.predicate_source(c)).transpose()?;
        let combine = combination(opcode, c.is_some())?;
        let test = self.test(opcode, kind, [a, b])?;
        if c.is_none() && q.is_none() {
            return lanes(Box::new(move |registers, mask| {
                let holds = test(registers);
                registers.set_predicate(p, holds, mask);
            }));
        }
        lanes(Box::new(move |registers, mask| {
            let holds = test(registers);
            let c = combined_with(registers, c);
            registers.set_predicate(p, combine(holds, c), mask);
            if let Some(q) = q {
                registers.set_predicate(q, combine(!holds, c), mask);
            }
        }))
    }

    /// Of packed halves, one predicate each.
    fn set_predicates_packed(
        &mut self,
        opcode: &Opcode<'_>,
        (p, q): (Predicate, Option<Predicate>),
        [a, b]: [&Operand; 2],
    ) -> Answer {
        let bf16 = opcode.sees("bf16x2");
        let ftz = opcode.has("ftz");
        let (a, b) = self.source2::<u32>(a, b, Type::B32)?;
        let holds = float_relation(opcode)?;
        lanes(Box::new(move |registers, mask| {
            let at = |shift: u32| {
                compare(registers.get(a), registers.get(b), |a: u32, b: u32| {
                    holds(
                        half_value(a >> shift, bf16, ftz),
                        half_value(b >> shift, bf16, ftz),
                    )
                })
            };
            let (low, high) = (at(0), at(16));
            registers.set_predicate(p, low, mask);
            if let Some(q) = q {
                registers.set_predicate(q, high, mask);
            }
        }))
    }

    fn set_word(&mut self, opcode: &Opcode<'_>, operands: &[Operand]) -> Answer {
        let [result, kind] = opcode.types()[..] else {
            return Err("two types are expected".to_owned());
        };
        let (d, a, b, c) = match operands {
            [d, a, b] => (d, a, b, None),
            [d, a, b, c] => (d, a, b, Some(c)),
            _ => return Err("3 or 4 operands are expected".to_owned()),
        };
        let c = c.map(|c| self.predicate_source(c)).transpose()?;
        let combine = combination(opcode, c.is_some())?;
        let d = self.target::<u32>(d)?;
        if matches!(kind, Type::F16x2 | Type::Bf16x2) {
            let (bf16, ftz) = (kind == Type::Bf16x2, opcode.has("ftz"));
            let (a, b) = self.source2::<u32>(a, b, Type::B32)?;
            let holds = float_relation(opcode)?;
            let one = match result {
                Type::F16x2 => 0x3c00,
                Type::Bf16x2 => 0x3f80,
                _ => 0xffff,
            };
            return lanes(crate::vm::registers::map2(
                d,
                (a, b),
                move |a: u32, b: u32| {
                    let part = |shift: u32| {
                        let yes = holds(
                            half_value(a >> shift, bf16, ftz),
                            half_value(b >> shift, bf16, ftz),
                        );
                        if yes { one << shift } else { 0u32 }
                    };
                    part(16) | part(0)
                },
            ));
        }
        let yes = match result {
            Type::F32 => 0x3f80_0000,
            Type::F16 => 0x3c00,
            Type::Bf16 => 0x3f80,
            Type::U16 | Type::S16 | Type::B16 => 0xffff,
            _ => u32::MAX,
        };
        let test = self.test(opcode, kind, [a, b])?;
        lanes(Box::new(move |registers, mask| {
            let holds = combine(test(registers), combined_with(registers, c));
            let out: [u32; 32] =
                std::array::from_fn(|lane| if holds >> lane & 1 == 1 { yes } else { 0 });
            registers.put(d, &out, mask);
        }))
    }

    fn test(
        &mut self,
        opcode: &Opcode<'_>,
        kind: Type,
        [a, b]: [&Operand; 2],
    ) -> Result<Test, String> {
        if let Some(test) = with_integer!(kind, self.test_integers(opcode, kind, [a, b])) {
            return test;
        }
        let ftz = opcode.has("ftz");
        match kind {
            Type::F32 => {
                let (a, b) = self.source2::<u32>(a, b, kind)?;
                let value = move |bits| {
                    let value = f32::from_bits(bits);
                    if ftz {
                        crate::convert::single::ftz(value)
                    } else {
                        value
                    }
                };
                // The usual relations get loops of their own.
                Ok(match relation(opcode)? {
                    "lt" if !ftz => test_of(a, b, |a, b| f32::from_bits(a) < f32::from_bits(b)),
                    "gt" if !ftz => test_of(a, b, |a, b| f32::from_bits(a) > f32::from_bits(b)),
                    name => {
                        let holds = float_holds(name);
                        test_of(a, b, move |a: u32, b: u32| {
                            holds(value(a).into(), value(b).into())
                        })
                    }
                })
            }
            Type::F64 => {
                let (a, b) = self.source2::<u64>(a, b, kind)?;
                let holds = float_relation(opcode)?;
                Ok(test_of(a, b, move |a: u64, b: u64| {
                    holds(f64::from_bits(a), f64::from_bits(b))
                }))
            }
            Type::F16 | Type::Bf16 => {
                let (a, b) = self.source2::<u32>(a, b, kind)?;
                let holds = float_relation(opcode)?;
                let bf16 = kind == Type::Bf16;
                Ok(test_of(a, b, move |a: u32, b: u32| {
                    holds(half_value(a, bf16, ftz), half_value(b, bf16, ftz))
                }))
            }
            _ => Err("this type cannot be compared".to_owned()),
        }
    }

    fn test_integers<T: Integer>(
        &mut self,
        opcode: &Opcode<'_>,
        kind: Type,
        [a, b]: [&Operand; 2],
    ) -> Result<Test, String> {
        let (a, b) = self.source2::<T::Lane>(a, b, kind)?;
        let value = T::from_lane;
        Ok(match relation(opcode)? {
            "eq" => test_of(a, b, move |a, b| value(a) == value(b)),
            "ne" => test_of(a, b, move |a, b| value(a) != value(b)),
            "lt" | "lo" => test_of(a, b, move |a, b| value(a) < value(b)),
            "le" | "ls" => test_of(a, b, move |a, b| value(a) <= value(b)),
            "gt" | "hi" => test_of(a, b, move |a, b| value(a) > value(b)),
            "ge" | "hs" => test_of(a, b, move |a, b| value(a) >= value(b)),
            other => return Err(format!(".{other} does not compare integers")),
        })
    }

    fn select<T: Word>(&mut self, operands: &[Operand], kind: Type) -> Answer {
        let [d, a, b, c] = exactly(operands)?;
        let (d, (a, b)) = (self.target::<T>(d)?, self.source2::<T>(a, b, kind)?);
        let (c, negated) = self.predicate_source(c)?;
        lanes(Box::new(move |registers, mask| {
            let choice = registers.predicate(c) ^ if negated { u32::MAX } else { 0 };
            let (a, b) = (registers.get(a), registers.get(b));
            let out: [T; 32] = std::array::from_fn(|lane| {
                if choice >> lane & 1 == 1 {
                    a[lane]
                } else {
                    b[lane]
                }
            });
            registers.put(d, &out, mask);
        }))
    }

    /// `slct`: by the sign of a third operand.
    fn select_sign(&mut self, opcode: &Opcode<'_>, operands: &[Operand]) -> Answer {
        let [kind, by] = opcode.types()[..] else {
            return Err("two types are expected".to_owned());
        };
        opcode.ignore(&["ftz"]);
        let [d, a, b, c] = exactly(operands)?;
        let c = self.source::<u32>(c, by)?;
        let first = move |c: u32| {
            if by == Type::F32 {
                f32::from_bits(c) >= 0.0
            } else {
                (c as i32) >= 0
            }
        };
        if kind.bytes() == 8 {
            let (d, (a, b)) = (self.target::<u64>(d)?, self.source2::<u64>(a, b, kind)?);
            return lanes(map3(
                d,
                (a, b, c),
                move |a, b, c| if first(c) { a } else { b },
            ));
        }
        let (d, (a, b)) = (self.target::<u32>(d)?, self.source2::<u32>(a, b, kind)?);
        lanes(map3(
            d,
            (a, b, c),
            move |a, b, c| if first(c) { a } else { b },
        ))
    }

    fn test_class(&mut self, opcode: &Opcode<'_>, operands: &[Operand]) -> Answer {
        let kind = opcode.kind()?;
        let classes = [
            "finite",
            "infinite",
            "number",
            "notanumber",
            "normal",
            "subnormal",
        ];
        let class = opcode.one_of(&classes).ok_or("a class is expected")?;
        let holds: fn(f64, bool) -> bool = match class {
            "finite" => |x, _| x.is_finite(),
            "infinite" => |x, _| x.is_infinite(),
            "number" => |x, _| !x.is_nan(),
            "notanumber" => |x, _| x.is_nan(),
            "normal" => |x, subnormal| x.is_finite() && x != 0.0 && !subnormal,
            _ => |_, subnormal| subnormal,
        };
        let [p, a] = exactly(operands)?;
        let p = self.predicate_target(p)?;
        let test = if kind == Type::F64 {
            let a = self.source::<u64>(a, kind)?;
            test_of(a, a, move |a: u64, _| {
                holds(f64::from_bits(a), f64::from_bits(a).is_subnormal())
            })
        } else {
            let a = self.source::<u32>(a, kind)?;
            test_of(a, a, move |a: u32, _| {
                holds(f32::from_bits(a).into(), f32::from_bits(a).is_subnormal())
            })
        };
        Ok(Some(Op::Lanes(Box::new(move |registers, mask| {
            let value = test(registers);
            registers.set_predicate(p, value, mask);
        }))))
    }
}

fn test_of<A: Word>(
    a: Slot<A>,
    b: Slot<A>,
    f: impl Fn(A, A) -> bool + Send + Sync + 'static,
) -> Test {
    Box::new(move |registers| compare(registers.get(a), registers.get(b), &f))
}

fn half_value(bits: u32, bf16: bool, ftz: bool) -> f64 {
    let bits = bits as u16;
    if bf16 {
        half::bf16::from_bits(bits).to_f64()
    } else if ftz && bits & 0x7c00 == 0 {
        0.0
    } else {
        half::f16::from_bits(bits).to_f64()
    }
}

fn combined_with(registers: &Registers, c: Option<(Predicate, bool)>) -> u32 {
    c.map_or(0, |(c, negated)| {
        registers.predicate(c) ^ if negated { u32::MAX } else { 0 }
    })
}

/// How a comparison joins a third predicate.
fn combination(opcode: &Opcode<'_>, expected: bool) -> Result<fn(u32, u32) -> u32, String> {
    match (opcode.one_of(&["and", "or", "xor"]), expected) {
        (Some("and"), true) => Ok(|a, b| a & b),
        (Some("or"), true) => Ok(|a, b| a | b),
        (Some(_), true) => Ok(|a, b| a ^ b),
        (None, false) => Ok(|a, _| a),
        _ => Err("a boolean operator and a third operand go together".to_owned()),
    }
}

fn relation(opcode: &Opcode<'_>) -> Result<&'static str, String> {
    const ALL: [&str; 18] = [
        "eq", "ne", "lt", "le", "gt", "ge", "lo", "ls", "hi", "hs", "equ", "neu", "ltu", "leu",
        "gtu", "geu", "num", "nan",
    ];
    opcode
        .one_of(&ALL)
        .ok_or_else(|| "a relation is expected".to_owned())
}

fn float_relation(opcode: &Opcode<'_>) -> Result<fn(f64, f64) -> bool, String> {
    Ok(float_holds(relation(opcode)?))
}

fn float_holds(name: &str) -> fn(f64, f64) -> bool {
    match name {
        "eq" => |a, b| a == b,
        "ne" => |a, b| a != b && !a.is_nan() && !b.is_nan(),
        "lt" => |a, b| a < b,
        "le" => |a, b| a <= b,
        "gt" => |a, b| a > b,
        "ge" => |a, b| a >= b,
        "equ" => |a, b| a == b || a.is_nan() || b.is_nan(),
        "neu" => |a, b| a != b,
        "ltu" => |a, b| a < b || a.is_nan() || b.is_nan(),
        "leu" => |a, b| a <= b || a.is_nan() || b.is_nan(),
        "gtu" => |a, b| a > b || a.is_nan() || b.is_nan(),
        "geu" => |a, b| a >= b || a.is_nan() || b.is_nan(),
        "num" => |a, b| !a.is_nan() && !b.is_nan(),
        _ => |a, b| a.is_nan() || b.is_nan(),
    }
}
