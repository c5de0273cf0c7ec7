//! Arithmetic on f64.

use super::opcode::Opcode;
use super::single::rounding;
use super::{Answer, Decoder, exactly, lanes};
use crate::convert::Rounding;
use crate::ptx::{Operand, Type};
use crate::vm::registers::{Action, Slot, map1, map2, map3};

const NAN: u64 = 0x7ff8_0000_0000_0000;

fn bits(value: f64) -> u64 {
    if value.is_nan() { NAN } else { value.to_bits() }
}

impl Decoder<'_> {
    pub(super) fn double(&mut self, opcode: &Opcode<'_>, operands: &[Operand]) -> Answer {
        if opcode.sees_type() != Some(Type::F64)
            || !matches!(
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
            )
        {
            return Ok(None);
        }
        opcode.kind()?;
        let rounding = rounding(opcode);
        lanes(match operands.len() {
            2 => self.double1(opcode, operands, rounding)?,
            3 => self.double2(opcode, operands, rounding)?,
            _ => {
                let [d, a, b, c] = exactly(operands)?;
                let d: Slot<u64> = self.target(d)?;
                let (a, b) = self.source2(a, b, Type::F64)?;
                let abc = (a, b, self.source(c, Type::F64)?);
                map3(d, abc, move |a: u64, b: u64, c: u64| {
                    bits(fma(
                        f64::from_bits(a),
                        f64::from_bits(b),
                        f64::from_bits(c),
                        rounding,
                    ))
                })
            }
        })
    }

    fn double1(
        &mut self,
        opcode: &Opcode<'_>,
        operands: &[Operand],
        rounding: Rounding,
    ) -> Result<Action, String> {
        let [d, a] = exactly(operands)?;
        let (d, a): (Slot<u64>, Slot<u64>) = (self.target(d)?, self.source(a, Type::F64)?);
        let approximate = opcode.has("approx");
        opcode.ignore(&["ftz"]);
        Ok(match (opcode.base, approximate) {
            ("abs", false) => map1(d, a, |a| a & (u64::MAX >> 1)),
            ("neg", false) => map1(d, a, |a| a ^ (1 << 63)),
            ("rcp", true) => map1(d, a, |a| bits(1.0 / high(a)) & !0xffff_ffff),
            ("rsqrt", true) => map1(d, a, |a| bits(1.0 / high(a).sqrt()) & !0xffff_ffff),
            ("rcp" | "sqrt", false) if rounding != Rounding::NearestEven => {
                return Err("only .rn is implemented here".to_owned());
            }
            ("rcp", false) => map1(d, a, |a| bits(1.0 / f64::from_bits(a))),
            ("sqrt", false) => map1(d, a, |a| bits(f64::from_bits(a).sqrt())),
            _ => return Err("this form is not implemented".to_owned()),
        })
    }

    fn double2(
        &mut self,
        opcode: &Opcode<'_>,
        operands: &[Operand],
        rounding: Rounding,
    ) -> Result<Action, String> {
        let [d, a, b] = exactly(operands)?;
        let d: Slot<u64> = self.target(d)?;
        let ab: (Slot<u64>, Slot<u64>) = self.source2(a, b, Type::F64)?;
        let value = f64::from_bits;
        Ok(match opcode.base {
            "add" => map2(d, ab, move |a, b| bits(add(value(a), value(b), rounding))),
            "sub" => map2(d, ab, move |a, b| bits(add(value(a), -value(b), rounding))),
            "mul" => map2(d, ab, move |a, b| {
                bits(fma(value(a), value(b), -0.0, rounding))
            }),
            "div" if rounding == Rounding::NearestEven => {
                map2(d, ab, move |a, b| bits(value(a) / value(b)))
            }
            "min" | "max" => {
                let max = opcode.base == "max";
                map2(d, ab, move |a, b| {
                    let (a, b) = (value(a), value(b));
                    bits(match (a.is_nan(), b.is_nan()) {
                        (true, _) => b,
                        (_, true) => a,
                        _ if a.total_cmp(&b).is_lt() == max => b,
                        _ => a,
                    })
                })
            }
            "copysign" => map2(d, ab, |a: u64, b: u64| a & (1 << 63) | b & (u64::MAX >> 1)),
            _ => return Err("this form is not implemented".to_owned()),
        })
    }
}

/// The approximations read only the upper word.
fn high(bits: u64) -> f64 {
    f64::from_bits(bits & !0xffff_ffff)
}

/// a + b. The error of the sum to nearest is exact (Knuth's two-sum) and says which neighbour is meant.
fn add(a: f64, b: f64, rounding: Rounding) -> f64 {
    let sum = a + b;
    if rounding == Rounding::NearestEven {
        return sum;
    }
    if sum == 0.0 && rounding == Rounding::Down && a != 0.0 {
        return -0.0;
    }
    let part = sum - a;
    let error = (a - (sum - part)) + (b - part);
    directed(sum, error, rounding)
}

/// a * b + c. `.rn` is the processor's; else the error of the product and of the sum are added up.
fn fma(a: f64, b: f64, c: f64, rounding: Rounding) -> f64 {
    let nearest = a.mul_add(b, c);
    if rounding == Rounding::NearestEven {
        return nearest;
    }
    let product = a * b;
    let low = a.mul_add(b, -product);
    let sum = product + c;
    let part = sum - product;
    let error = (product - (sum - part)) + (c - part);
    // Exactly: product + low + c = sum + error + low; what `nearest` leaves of it has this sign.
    directed(nearest, ((sum - nearest) + error) + low, rounding)
}

/// The neighbour of the nearest double that lies in the direction asked for.
fn directed(nearest: f64, error: f64, rounding: Rounding) -> f64 {
    if !nearest.is_finite() || error == 0.0 || error.is_nan() {
        return nearest;
    }
    let up = error > 0.0;
    match rounding {
        Rounding::Up if up => nearest.next_up(),
        Rounding::Down if !up => nearest.next_down(),
        Rounding::TowardZero if nearest > 0.0 && !up => nearest.next_down(),
        Rounding::TowardZero if nearest < 0.0 && up => nearest.next_up(),
        _ => nearest,
    }
}
