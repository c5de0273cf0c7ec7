//! Arithmetic on f32, also packed in pairs (`.f32x2`).

use super::opcode::Opcode;
use super::{Answer, Decoder, exactly, lanes};
use crate::convert::{Rounding, single};
use crate::ptx::{Operand, Type};
use crate::vm::registers::{Action, Slot, map1, map2, map3};
use crate::vm::simd;

/// What stands around an operation.
#[derive(Debug, Clone, Copy)]
struct Mode {
    ftz: bool,
    sat: bool,
    relu: bool,
    nan: bool,
    rounding: Rounding,
}

impl Mode {
    fn input(self, bits: u32) -> f32 {
        let value = f32::from_bits(bits);
        if self.ftz { single::ftz(value) } else { value }
    }

    fn output(self, value: f32) -> u32 {
        if value.is_nan() {
            return if self.sat { 0 } else { simd::NAN };
        }
        let value = if self.ftz { single::ftz(value) } else { value };
        let value = if self.sat {
            value.clamp(0.0, 1.0) + 0.0
        } else {
            value
        };
        let value = if self.relu && value <= 0.0 {
            0.0
        } else {
            value
        };
        value.to_bits()
    }

    /// Plain operations have a loop of their own.
    fn plain(self) -> bool {
        !self.ftz && !self.sat && !self.relu && self.rounding == Rounding::NearestEven
    }
}

/// The rounding an opcode names.
pub(super) fn rounding(opcode: &Opcode<'_>) -> Rounding {
    match opcode.one_of(&["rn", "rz", "rm", "rp"]) {
        Some("rz") => Rounding::TowardZero,
        Some("rm") => Rounding::Down,
        Some("rp") => Rounding::Up,
        _ => Rounding::NearestEven,
    }
}

impl Decoder<'_> {
    pub(super) fn single(&mut self, opcode: &Opcode<'_>, operands: &[Operand]) -> Answer {
        match opcode.sees_type() {
            Some(Type::F32) => {}
            Some(Type::F32x2) => return self.single_pair(opcode, operands),
            _ => return Ok(None),
        }
        if !matches!(
            opcode.base,
            "add"
                | "sub"
                | "mul"
                | "div"
                | "fma"
                | "mad"
                | "min"
                | "max"
                | "abs"
                | "neg"
                | "copysign"
                | "rcp"
                | "sqrt"
                | "rsqrt"
                | "ex2"
                | "lg2"
                | "sin"
                | "cos"
                | "tanh"
        ) {
            return Ok(None);
        }
        // `add.f32.bf16`: a narrow operand and a wide sum are another instruction.
        let kinds = opcode.types();
        if kinds.len() != 1 {
            return self.single_mixed(opcode, operands, &kinds);
        }
        let mode = Mode {
            ftz: opcode.has("ftz"),
            sat: opcode.has("sat"),
            relu: opcode.has("relu"),
            nan: opcode.has("NaN"),
            rounding: rounding(opcode),
        };
        lanes(match operands.len() {
            2 => self.single1(opcode, operands, mode)?,
            3 => self.single2(opcode, operands, mode)?,
            4 => self.single3(opcode, operands, mode)?,
            _ => return Err("2 to 4 operands are expected".to_owned()),
        })
    }

    fn single1(
        &mut self,
        opcode: &Opcode<'_>,
        operands: &[Operand],
        mode: Mode,
    ) -> Result<Action, String> {
        let [d, a] = exactly(operands)?;
        let (d, a): (Slot<u32>, Slot<u32>) = (self.target(d)?, self.source(a, Type::F32)?);
        let exact = opcode.sees("approx") || opcode.sees("full");
        opcode.ignore(&["approx"]);
        // In f64 and rounded once: closer than the cards' own approximations.
        let f: fn(f64) -> f64 = match opcode.base {
            "abs" => return Ok(map1(d, a, move |a| mode.input(a).to_bits() & 0x7fff_ffff)),
            "neg" => return Ok(map1(d, a, move |a| mode.input(a).to_bits() ^ 0x8000_0000)),
            "rcp" if !exact => {
                return Ok(map1(d, a, move |a| {
                    mode.output(single::div(1.0, mode.input(a), mode.rounding))
                }));
            }
            "sqrt" if !exact => {
                return Ok(map1(d, a, move |a| {
                    mode.output(single::sqrt(mode.input(a), mode.rounding))
                }));
            }
            "rcp" => |a| 1.0 / a,
            "sqrt" => f64::sqrt,
            "rsqrt" => |a| 1.0 / a.sqrt(),
            "ex2" => f64::exp2,
            "lg2" => f64::log2,
            "sin" => f64::sin,
            "cos" => f64::cos,
            "tanh" => f64::tanh,
            _ => return Err("this form is not implemented".to_owned()),
        };
        Ok(map1(d, a, move |a| {
            mode.output(f(f64::from(mode.input(a))) as f32)
        }))
    }

    fn single2(
        &mut self,
        opcode: &Opcode<'_>,
        operands: &[Operand],
        mode: Mode,
    ) -> Result<Action, String> {
        let [d, a, b] = exactly(operands)?;
        let d: Slot<u32> = self.target(d)?;
        let ab: (Slot<u32>, Slot<u32>) = self.source2(a, b, Type::F32)?;
        if opcode.base == "div" {
            opcode.ignore(&["approx", "full"]);
        }
        if mode.plain() {
            match opcode.base {
                "add" => {
                    return Ok(map2(d, ab, |a, b| {
                        simd::bits(f32::from_bits(a) + f32::from_bits(b))
                    }));
                }
                "sub" => {
                    return Ok(map2(d, ab, |a, b| {
                        simd::bits(f32::from_bits(a) - f32::from_bits(b))
                    }));
                }
                "mul" => {
                    return Ok(map2(d, ab, |a, b| {
                        simd::bits(f32::from_bits(a) * f32::from_bits(b))
                    }));
                }
                "div" => {
                    return Ok(map2(d, ab, |a, b| {
                        simd::bits(f32::from_bits(a) / f32::from_bits(b))
                    }));
                }
                _ => {}
            }
        }
        let rounding = mode.rounding;
        Ok(match opcode.base {
            "add" => map2(d, ab, move |a, b| {
                mode.output(single::add(mode.input(a), mode.input(b), rounding))
            }),
            "sub" => map2(d, ab, move |a, b| {
                mode.output(single::add(mode.input(a), -mode.input(b), rounding))
            }),
            "mul" => map2(d, ab, move |a, b| {
                mode.output(single::mul(mode.input(a), mode.input(b), rounding))
            }),
            "div" => map2(d, ab, move |a, b| {
                mode.output(single::div(mode.input(a), mode.input(b), rounding))
            }),
            "min" | "max" => {
                let (max, magnitude) = (opcode.base == "max", opcode.has("xorsign"));
                opcode.ignore(&["abs"]);
                map2(d, ab, move |a, b| {
                    let sign = if magnitude { (a ^ b) & 0x8000_0000 } else { 0 };
                    let cut = |x: u32| mode.input(if magnitude { x & 0x7fff_ffff } else { x });
                    mode.output(extreme(cut(a), cut(b), max, mode.nan)) | sign
                })
            }
            "copysign" => map2(d, ab, |a: u32, b: u32| a & 0x8000_0000 | b & 0x7fff_ffff),
            _ => return Err("this form is not implemented".to_owned()),
        })
    }

    fn single3(
        &mut self,
        opcode: &Opcode<'_>,
        operands: &[Operand],
        mode: Mode,
    ) -> Result<Action, String> {
        let [d, a, b, c] = exactly(operands)?;
        let d: Slot<u32> = self.target(d)?;
        let (a, b): (Slot<u32>, Slot<u32>) = self.source2(a, b, Type::F32)?;
        let abc = (a, b, self.source(c, Type::F32)?);
        Ok(match opcode.base {
            "fma" | "mad" if mode.plain() => simd::fma(d, abc),
            "fma" | "mad" => map3(d, abc, move |a, b, c| {
                let (a, b, c) = (mode.input(a), mode.input(b), mode.input(c));
                mode.output(single::fma(a, b, c, mode.rounding))
            }),
            "min" | "max" => {
                let max = opcode.base == "max";
                opcode.ignore(&["abs"]);
                let magnitude = opcode.sees("abs");
                map3(d, abc, move |a, b, c| {
                    let cut = |x: u32| mode.input(if magnitude { x & 0x7fff_ffff } else { x });
                    mode.output(extreme(
                        extreme(cut(a), cut(b), max, mode.nan),
                        cut(c),
                        max,
                        mode.nan,
                    ))
                })
            }
            _ => return Err("this form is not implemented".to_owned()),
        })
    }

    /// `add.f32.bf16 d, a, c` and `fma.rn.f32.f16 d, a, b, c`: narrow factors, an f32 sum.
    fn single_mixed(
        &mut self,
        opcode: &Opcode<'_>,
        operands: &[Operand],
        kinds: &[Type],
    ) -> Answer {
        let [Type::F32, narrow @ (Type::F16 | Type::Bf16)] = *kinds else {
            return Err("these types are not implemented".to_owned());
        };
        let rounding = rounding(opcode);
        let sat = opcode.has("sat");
        let mode = Mode {
            ftz: false,
            sat,
            relu: false,
            nan: false,
            rounding,
        };
        let widen = move |bits: u32| {
            if narrow == Type::F16 {
                half::f16::from_bits(bits as u16).to_f32()
            } else {
                half::bf16::from_bits(bits as u16).to_f32()
            }
        };
        let d: Slot<u32> = self.target(operands.first().ok_or("operands are expected")?)?;
        match (opcode.base, operands) {
            ("add" | "sub", [_, a, c]) => {
                let sign = if opcode.base == "sub" { -1.0 } else { 1.0 };
                let ac = (self.source(a, narrow)?, self.source(c, Type::F32)?);
                lanes(map2(d, ac, move |a: u32, c: u32| {
                    mode.output(single::add(widen(a), sign * f32::from_bits(c), rounding))
                }))
            }
            ("fma", [_, a, b, c]) => {
                let (a, b) = self.source2(a, b, narrow)?;
                let abc = (a, b, self.source(c, Type::F32)?);
                lanes(map3(d, abc, move |a: u32, b: u32, c: u32| {
                    mode.output(single::fma(widen(a), widen(b), f32::from_bits(c), rounding))
                }))
            }
            _ => Err("these types are not implemented".to_owned()),
        }
    }

    /// `add`, `sub`, `mul`, `fma` on two f32 in 64 bits.
    fn single_pair(&mut self, opcode: &Opcode<'_>, operands: &[Operand]) -> Answer {
        let kind = opcode.kind()?;
        let mode = Mode {
            ftz: opcode.has("ftz"),
            sat: false,
            relu: false,
            nan: false,
            rounding: rounding(opcode),
        };
        let each = move |a: u64, b: u64, f: &dyn Fn(f32, f32) -> f32| {
            let part = |shift: u32| {
                let value = f(
                    mode.input((a >> shift) as u32),
                    mode.input((b >> shift) as u32),
                );
                u64::from(mode.output(value)) << shift
            };
            part(32) | part(0)
        };
        let rounding = mode.rounding;
        let d: Slot<u64> = self.target(operands.first().ok_or("operands are expected")?)?;
        match (opcode.base, operands) {
            ("add" | "sub" | "mul", [_, a, b]) => {
                let ab = self.source2(a, b, kind)?;
                lanes(match opcode.base {
                    "add" => map2(d, ab, move |a, b| {
                        each(a, b, &|a, b| single::add(a, b, rounding))
                    }),
                    "sub" => map2(d, ab, move |a, b| {
                        each(a, b, &|a, b| single::add(a, -b, rounding))
                    }),
                    _ => map2(d, ab, move |a, b| {
                        each(a, b, &|a, b| single::mul(a, b, rounding))
                    }),
                })
            }
            ("fma", [_, a, b, c]) => {
                let (a, b) = self.source2(a, b, kind)?;
                let abc = (a, b, self.source(c, kind)?);
                lanes(map3(d, abc, move |a: u64, b: u64, c: u64| {
                    let part = |shift: u32| {
                        let at = |x: u64| mode.input((x >> shift) as u32);
                        u64::from(mode.output(single::fma(at(a), at(b), at(c), rounding))) << shift
                    };
                    part(32) | part(0)
                }))
            }
            _ => Err("this form is not implemented".to_owned()),
        }
    }
}

/// `min` and `max`: a number wins over a NaN unless `.NaN`; -0 is less than +0.
pub(super) fn extreme(a: f32, b: f32, max: bool, nan: bool) -> f32 {
    if a.is_nan() || b.is_nan() {
        return if nan {
            f32::NAN
        } else if a.is_nan() {
            b
        } else {
            a
        };
    }
    let smaller = a.total_cmp(&b).is_lt();
    if smaller == max { b } else { a }
}
