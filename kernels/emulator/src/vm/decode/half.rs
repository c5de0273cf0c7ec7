//! Arithmetic on f16 and bf16, alone and packed in pairs.

use super::opcode::Opcode;
use super::{Answer, Decoder, exactly, lanes};
use crate::convert::half::{self, Half, HalfMode};
use crate::ptx::{Operand, Type};
use crate::vm::registers::{Slot, map1, map2, map3};

impl Decoder<'_> {
    pub(super) fn half(&mut self, opcode: &Opcode<'_>, operands: &[Operand]) -> Answer {
        if !matches!(
            opcode.base,
            "add"
                | "sub"
                | "mul"
                | "fma"
                | "min"
                | "max"
                | "abs"
                | "neg"
                | "ex2"
                | "tanh"
                | "copysign"
        ) {
            return Ok(None);
        }
        let (format, packed) = match opcode.sees_type() {
            Some(Type::F16) => (Half::F16, false),
            Some(Type::F16x2) => (Half::F16, true),
            Some(Type::Bf16) => (Half::Bf16, false),
            Some(Type::Bf16x2) => (Half::Bf16, true),
            _ => return Ok(None),
        };
        let kind = opcode.kind()?;
        opcode.ignore(&["rn", "approx"]);
        let mode = HalfMode {
            ftz: opcode.has("ftz"),
            sat: opcode.has("sat"),
            relu: opcode.has("relu"),
        };
        let d: Slot<u32> = self.target(operands.first().ok_or("operands are expected")?)?;
        let part = move |x: u32, shift: u32| (x >> shift) as u16;
        match operands.len() {
            2 => {
                let [_, a] = exactly(operands)?;
                let a: Slot<u32> = self.source(a, kind)?;
                let f = one(opcode.base, format, mode)?;
                lanes(if packed {
                    map1(d, a, move |a| {
                        u32::from(f(part(a, 16))) << 16 | u32::from(f(part(a, 0)))
                    })
                } else {
                    map1(d, a, move |a| u32::from(f(part(a, 0))))
                })
            }
            3 => {
                let [_, a, b] = exactly(operands)?;
                let ab: (Slot<u32>, Slot<u32>) = self.source2(a, b, kind)?;
                let nan = opcode.has("NaN");
                let magnitude = opcode.has("xorsign");
                opcode.ignore(&["abs"]);
                let f = two(opcode.base, format, mode, (nan, magnitude))?;
                lanes(if packed {
                    map2(d, ab, move |a, b| half::map2(a, b, &f))
                } else {
                    map2(d, ab, move |a: u32, b: u32| {
                        u32::from(f(part(a, 0), part(b, 0)))
                    })
                })
            }
            _ => {
                let [_, a, b, c] = exactly(operands)?;
                let (a, b): (Slot<u32>, Slot<u32>) = self.source2(a, b, kind)?;
                let abc = (a, b, self.source(c, kind)?);
                if opcode.base != "fma" {
                    return Err("this form is not implemented".to_owned());
                }
                // `.oob`: a NaN addend wins; only compilers of sparse kernels use it.
                let f = move |a, b, c| half::fma(a, b, c, format, mode);
                lanes(if packed {
                    map3(d, abc, move |a, b, c| half::map3(a, b, c, f))
                } else {
                    map3(d, abc, move |a: u32, b: u32, c: u32| {
                        u32::from(f(part(a, 0), part(b, 0), part(c, 0)))
                    })
                })
            }
        }
    }
}

type Unary = Box<dyn Fn(u16) -> u16 + Send + Sync>;
type Binary = Box<dyn Fn(u16, u16) -> u16 + Send + Sync>;

fn one(base: &str, format: Half, mode: HalfMode) -> Result<Unary, String> {
    let flush = move |bits: u16| {
        if mode.ftz && format == Half::F16 && bits & 0x7c00 == 0 {
            bits & 0x8000
        } else {
            bits
        }
    };
    let through = move |f: fn(f32) -> f32| -> Unary {
        Box::new(move |a| flush(half::from_f32(f(half::to_f32(flush(a), format)), format)))
    };
    Ok(match base {
        "abs" => Box::new(move |a| flush(a) & 0x7fff),
        "neg" => Box::new(move |a| flush(a) ^ 0x8000),
        "ex2" => through(|a| f64::from(a).exp2() as f32),
        "tanh" => through(|a| f64::from(a).tanh() as f32),
        _ => return Err("this form is not implemented".to_owned()),
    })
}

fn two(
    base: &str,
    format: Half,
    mode: HalfMode,
    (nan, magnitude): (bool, bool),
) -> Result<Binary, String> {
    let extreme = move |f: fn(u16, u16, Half, bool) -> u16| -> Binary {
        Box::new(move |a, b| {
            if magnitude {
                return f(a & 0x7fff, b & 0x7fff, format, nan) | (a ^ b) & 0x8000;
            }
            f(a, b, format, nan)
        })
    };
    Ok(match base {
        "add" => Box::new(move |a, b| half::add(a, b, format, mode)),
        "sub" => Box::new(move |a, b| half::sub(a, b, format, mode)),
        "mul" => Box::new(move |a, b| half::mul(a, b, format, mode)),
        "min" => extreme(half::min),
        "max" => extreme(half::max),
        "copysign" => Box::new(|a, b| a & 0x8000 | b & 0x7fff),
        _ => return Err("this form is not implemented".to_owned()),
    })
}
