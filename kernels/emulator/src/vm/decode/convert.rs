//! `cvt`: which of `crate::convert`'s functions an opcode means.

use super::opcode::Opcode;
use super::operands::Register;
use super::{Answer, Decoder, lanes};
use crate::convert::float::{self, Float, FloatMode};
use crate::convert::integer::{self, Int};
use crate::convert::{Minifloat, Narrow, Rounding, decode_x2, encode_x2};
use crate::ptx::{Operand, Type};
use crate::vm::code::Element;
use crate::vm::registers::{Action, Slot, map1, map2};

/// One end of a conversion.
#[derive(Debug, Clone, Copy, PartialEq)]
enum End {
    Int(Int),
    Float(Float),
}

fn end(name: &str) -> Option<End> {
    let int = |bits, signed| Some(End::Int(Int { bits, signed }));
    match name {
        "u8" | "b8" => int(8, false),
        "u16" | "b16" => int(16, false),
        "u32" | "b32" => int(32, false),
        "u64" | "b64" => int(64, false),
        "s8" => int(8, true),
        "s16" => int(16, true),
        "s32" => int(32, true),
        "s64" => int(64, true),
        "f16" => Some(End::Float(Float::F16)),
        "bf16" => Some(End::Float(Float::Bf16)),
        "tf32" => Some(End::Float(Float::Tf32)),
        "f32" => Some(End::Float(Float::F32)),
        "f64" => Some(End::Float(Float::F64)),
        _ => None,
    }
}

fn minifloat(name: &str) -> Option<Minifloat> {
    Some(match name {
        "e4m3x2" => Minifloat::E4m3,
        "e5m2x2" => Minifloat::E5m2,
        "e2m1x2" => Minifloat::E2m1,
        "e2m3x2" => Minifloat::E2m3,
        "e3m2x2" => Minifloat::E3m2,
        "ue8m0x2" => Minifloat::Ue8m0,
        _ => return None,
    })
}

fn pack(name: &str) -> Option<Float> {
    match name {
        "f16x2" => Some(Float::F16),
        "bf16x2" => Some(Float::Bf16),
        _ => None,
    }
}

impl Decoder<'_> {
    pub(super) fn convert(&mut self, opcode: &Opcode<'_>, operands: &[Operand]) -> Answer {
        if opcode.base != "cvt" {
            return Ok(None);
        }
        if opcode.sees("pack") {
            return self.pack_integers(opcode, operands);
        }
        let [to, from] = *opcode.last(2).ok_or("two types are expected")? else {
            return Err("two types are expected".to_owned());
        };
        let rounding =
            match opcode.one_of(&["rn", "rz", "rm", "rp", "rna", "rni", "rzi", "rmi", "rpi"]) {
                Some("rz" | "rzi") => Rounding::TowardZero,
                Some("rm" | "rmi") => Rounding::Down,
                Some("rp" | "rpi") => Rounding::Up,
                Some("rna") => Rounding::NearestAway,
                _ => Rounding::NearestEven,
            };
        let mode = FloatMode {
            rounding,
            ftz: opcode.has("ftz"),
            sat: opcode.has("sat"),
            satfinite: opcode.has("satfinite"),
            relu: opcode.has("relu"),
        };
        if let Some(format) = minifloat(to) {
            return self.narrow(operands, format, from, mode);
        }
        if let (Some(format), Some(to)) = (minifloat(from), pack(to)) {
            let [d, a] = super::exactly(operands)?;
            // Sources of 8 bits (e2m1x2) and of 16 live in registers of 32 lanes alike.
            let (d, a): (Slot<u32>, Slot<u32>) = (self.target(d)?, self.source(a, Type::B16)?);
            let half = move |value: f32| float::to_bits(f64::from(value), to, mode) as u32;
            return lanes(map1(d, a, move |a: u32| {
                let (high, low) = decode_x2(format, a as u16);
                half(high) << 16 | half(low)
            }));
        }
        if let (Some(to), "f32") = (pack(to), from) {
            let [d, a, b] = super::exactly(operands)?;
            let (d, ab): (Slot<u32>, _) = (self.target(d)?, self.source2(a, b, Type::F32)?);
            return lanes(map2(d, ab, move |high: u32, low: u32| {
                let half = |bits: u32| float::convert(u64::from(bits), Float::F32, to, mode) as u32;
                half(high) << 16 | half(low)
            }));
        }
        let ends = end(to)
            .zip(end(from))
            .ok_or_else(|| format!("cvt from .{from} to .{to} is not implemented"))?;
        let integral = opcode.one_of(&["rni", "rzi", "rmi", "rpi"]).is_some();
        self.plain(operands, ends, (mode, integral))
    }

    /// To a pair of codes of 4 to 8 bits.
    fn narrow(
        &mut self,
        operands: &[Operand],
        format: Minifloat,
        from: &str,
        mode: FloatMode,
    ) -> Answer {
        let narrow = Narrow {
            rounding: mode.rounding,
            satfinite: mode.satfinite,
            relu: mode.relu,
        };
        match (from, operands) {
            ("f32", [d, high, low]) => {
                let (d, ab): (Slot<u32>, _) =
                    (self.target(d)?, self.source2(high, low, Type::F32)?);
                lanes(map2(d, ab, move |high: u32, low: u32| {
                    let value = |bits| f64::from(f32::from_bits(bits));
                    u32::from(encode_x2(format, value(high), value(low), narrow))
                }))
            }
            ("f16x2" | "bf16x2", [d, pair]) => {
                let half = if from == "f16x2" {
                    Float::F16
                } else {
                    Float::Bf16
                };
                let (d, a): (Slot<u32>, Slot<u32>) =
                    (self.target(d)?, self.source(pair, Type::B32)?);
                lanes(map1(d, a, move |a: u32| {
                    let value = |shift: u32| float::from_bits(u64::from(a >> shift & 0xffff), half);
                    u32::from(encode_x2(format, value(16), value(0), narrow))
                }))
            }
            _ => Err(format!("cvt from .{from} is not implemented here")),
        }
    }

    fn plain(
        &mut self,
        operands: &[Operand],
        (to, from): (End, End),
        (mode, integral): (FloatMode, bool),
    ) -> Answer {
        let [d, a] = super::exactly(operands)?;
        let target = self
            .register(d)
            .ok_or_else(|| format!("{d} is no register"))?;
        let source_kind = match from {
            End::Int(Int { bits: 64, .. }) => Type::B64,
            End::Float(Float::F64) => Type::F64,
            End::Float(Float::F32) => Type::F32,
            _ => Type::B32,
        };
        let source = match self.register(a) {
            Some(register) => register,
            None if source_kind.bytes() == 8 => Register {
                element: Element::Wide(self.source(a, source_kind)?),
                bits: 64,
            },
            None => Register {
                element: Element::Narrow(self.source(a, source_kind)?),
                bits: 32,
            },
        };
        if let Some(action) = usual(&target, &source, (to, from), mode, integral) {
            return lanes(action);
        }
        let f = conversion(to, from, mode, integral);
        // A signed result fills a wider register with its sign; unsigned ones come zero-extended.
        let keep = if target.bits >= 64 {
            u64::MAX
        } else {
            (1 << target.bits) - 1
        };
        lanes(match (target.element, source.element) {
            (Element::Narrow(d), Element::Narrow(a)) => {
                map1(d, a, move |a: u32| (f(u64::from(a)) & keep) as u32)
            }
            (Element::Narrow(d), Element::Wide(a)) => {
                map1(d, a, move |a: u64| (f(a) & keep) as u32)
            }
            (Element::Wide(d), Element::Narrow(a)) => map1(d, a, move |a: u32| f(u64::from(a))),
            (Element::Wide(d), Element::Wide(a)) => map1(d, a, f),
            _ => return Err("cvt needs registers".to_owned()),
        })
    }

    /// `cvt.pack.sat.s8.s32.b32 d, a, b, c`: two integers clamped and put below the bits of `c`.
    fn pack_integers(&mut self, opcode: &Opcode<'_>, operands: &[Operand]) -> Answer {
        opcode.ignore(&["pack", "sat"]);
        let kinds = opcode.types();
        let (a, b, c) = match operands {
            [_, a, b] => (a, b, None),
            [_, a, b, c] => (a, b, Some(c)),
            _ => return Err("3 or 4 operands are expected".to_owned()),
        };
        let to = match kinds.first() {
            Some(Type::S8) => Int {
                bits: 8,
                signed: true,
            },
            Some(Type::U8) => Int {
                bits: 8,
                signed: false,
            },
            Some(Type::S16) => Int {
                bits: 16,
                signed: true,
            },
            Some(Type::U16) => Int {
                bits: 16,
                signed: false,
            },
            _ => return Err("cvt.pack to this type is not implemented".to_owned()),
        };
        let from = Int {
            bits: 32,
            signed: true,
        };
        let d: Slot<u32> = self.target(&operands[0])?;
        let (a, b) = self.source2::<u32>(a, b, Type::S32)?;
        let c = match c {
            Some(c) => self.source(c, Type::B32)?,
            None => self.source(&Operand::Literal(crate::ptx::Number::Integer(0)), Type::B32)?,
        };
        let cut = (1u32 << to.bits) - 1;
        lanes(crate::vm::registers::map3(
            d,
            (a, b, c),
            move |a: u32, b: u32, c: u32| {
                let one = |x: u32| integer::convert(u64::from(x), from, to, true) as u32 & cut;
                let rest = c.checked_shl(2 * u32::from(to.bits)).unwrap_or(0);
                rest | one(a) << to.bits | one(b)
            },
        ))
    }
}

/// Any conversion, bits to bits.
fn conversion(
    to: End,
    from: End,
    mode: FloatMode,
    integral: bool,
) -> impl Fn(u64) -> u64 + Send + Sync + 'static {
    move |bits| match (to, from) {
        (End::Int(to), End::Int(from)) => integer::convert(bits, from, to, mode.sat),
        (End::Int(to), End::Float(from)) => {
            let value = float::from_bits(bits, from);
            let flushed = mode.ftz && from == Float::F32 && (value as f32).is_subnormal();
            integer::from_float(if flushed { 0.0 } else { value }, to, mode.rounding)
        }
        (End::Float(to), End::Int(from)) => integer::to_float(bits, from, to, mode),
        (End::Float(to), End::Float(from)) if integral => {
            let whole = integer::to_integral(float::from_bits(bits, from), mode.rounding);
            float::to_bits(
                whole,
                to,
                FloatMode {
                    rounding: Rounding::NearestEven,
                    ..mode
                },
            )
        }
        (End::Float(to), End::Float(from)) => float::convert(bits, from, to, mode),
    }
}

/// Loops of their own for what kernels do all the time.
fn usual(
    target: &Register,
    source: &Register,
    ends: (End, End),
    mode: FloatMode,
    integral: bool,
) -> Option<Action> {
    let plain = mode == FloatMode::default() && !integral;
    let int = |bits, signed| End::Int(Int { bits, signed });
    let f32 = End::Float(Float::F32);
    Some(match (target.element, source.element) {
        (Element::Wide(d), Element::Narrow(a)) if plain && source.bits == 32 => {
            let (End::Int(Int { bits: 64, .. }), End::Int(Int { bits: 32, signed })) = ends else {
                return None;
            };
            if signed {
                map1(d, a, |a: u32| i64::from(a as i32) as u64)
            } else {
                map1(d, a, u64::from)
            }
        }
        (Element::Narrow(d), Element::Wide(a)) if plain && target.bits == 32 => match ends {
            (End::Int(Int { bits: 32, .. }), End::Int(_)) => map1(d, a, |a: u64| a as u32),
            _ => return None,
        },
        (Element::Narrow(d), Element::Narrow(a)) if plain && target.bits == 32 => {
            if ends == (f32, End::Float(Float::F16)) {
                map1(d, a, |a: u32| {
                    crate::vm::simd::bits(half::f16::from_bits(a as u16).to_f32())
                })
            } else if ends == (f32, End::Float(Float::Bf16)) {
                map1(d, a, |a: u32| (a & 0xffff) << 16)
            } else if ends == (f32, int(32, true)) {
                map1(d, a, |a: u32| (a as i32 as f32).to_bits())
            } else if ends == (f32, int(32, false)) {
                map1(d, a, |a: u32| (a as f32).to_bits())
            } else if ends == (int(32, false), int(16, false))
                || ends == (int(32, true), int(16, false))
            {
                map1(d, a, |a: u32| a & 0xffff)
            } else {
                return None;
            }
        }
        _ => return None,
    })
}
