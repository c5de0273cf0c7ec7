//! `atom` and `red`.

use super::opcode::Opcode;
use super::{Answer, Decoder};
use crate::convert::half::{self, Half, HalfMode};
use crate::ptx::{Operand, Type};
use crate::vm::code::{Atomic, Op, Order};

/// `(old, operand, other)` to the new value.
type Update = Box<dyn Fn(u64, u64, u64) -> u64 + Send + Sync>;

impl Decoder<'_> {
    pub(super) fn atomic(&mut self, opcode: &Opcode<'_>, operands: &[Operand]) -> Answer {
        let order = Self::order(opcode);
        let hint = opcode.sees("L2::cache_hint");
        opcode.ignore(&["noftz", "v2", "v4", "v8"]);
        opcode.ignore_starting(&["L2::", "L1::", "level::"]);
        let operands = if hint {
            &operands[..operands.len().saturating_sub(1)]
        } else {
            operands
        };
        let kind = opcode.kind()?;
        let name = opcode
            .one_of(&[
                "add", "min", "max", "and", "or", "xor", "exch", "cas", "inc", "dec",
            ])
            .ok_or("an operation is expected")?;
        let (d, address, operand, other) = match (opcode.base, operands) {
            ("red", [address, operand]) => (None, address, operand, None),
            ("atom", [d, address, operand]) => (Some(d), address, operand, None),
            ("atom", [d, address, operand, other]) if name == "cas" => {
                (Some(d), address, operand, Some(other))
            }
            _ => return Err("another number of operands is expected".to_owned()),
        };
        if (name == "cas") != other.is_some() {
            return Err("another number of operands is expected".to_owned());
        }
        let (space, address) = self.place(opcode, address)?;
        let discard = matches!(d, Some(Operand::Name(name)) if name == "_");
        let old = match d {
            Some(d) if !discard => self.elements(d, true, kind)?,
            _ => Vec::new(),
        };
        let operand = self.values(operand, kind)?;
        let other = match other {
            Some(other) => self.values(other, kind)?.first().copied(),
            None => None,
        };
        Ok(Some(Op::Atomic(Box::new(Atomic {
            space,
            address,
            bytes: kind.bytes(),
            old,
            operand,
            other,
            update: update(name, kind)?,
            order: Order {
                strong: true,
                ..order
            },
        }))))
    }
}

fn update(name: &str, kind: Type) -> Result<Update, String> {
    let bits = kind.bytes() as u32 * 8;
    // Sign-extended, so that one comparison serves all widths.
    let signed = move |x: u64| (x << (64 - bits)) as i64 >> (64 - bits);
    Ok(match (name, kind) {
        ("exch", _) => Box::new(|_, b, _| b),
        ("cas", _) => Box::new(|old, b, c| if old == b { c } else { old }),
        ("and", _) => Box::new(|old, b, _| old & b),
        ("or", _) => Box::new(|old, b, _| old | b),
        ("xor", _) => Box::new(|old, b, _| old ^ b),
        ("inc", Type::U32) => Box::new(|old, b, _| if old >= b { 0 } else { old + 1 }),
        ("dec", Type::U32) => Box::new(|old, b, _| if old == 0 || old > b { b } else { old - 1 }),
        ("add", Type::F32) => Box::new(|old, b, _| {
            let sum = f32::from_bits(old as u32) + f32::from_bits(b as u32);
            u64::from(crate::vm::simd::bits(sum))
        }),
        ("add", Type::F64) => {
            Box::new(|old, b, _| (f64::from_bits(old) + f64::from_bits(b)).to_bits())
        }
        ("min" | "max", Type::F32) => {
            let max = name == "max";
            Box::new(move |old, b, _| {
                let (a, b) = (f32::from_bits(old as u32), f32::from_bits(b as u32));
                u64::from(crate::vm::simd::bits(super::single::extreme(
                    a, b, max, false,
                )))
            })
        }
        ("add" | "min" | "max", Type::F16 | Type::F16x2 | Type::Bf16 | Type::Bf16x2) => {
            let format = if matches!(kind, Type::F16 | Type::F16x2) {
                Half::F16
            } else {
                Half::Bf16
            };
            let f = move |name: &str, a: u16, b: u16| match name {
                "add" => half::add(a, b, format, HalfMode::default()),
                "min" => half::min(a, b, format, false),
                _ => half::max(a, b, format, false),
            };
            let name = name.to_owned();
            if bits == 16 {
                Box::new(move |old, b, _| u64::from(f(&name, old as u16, b as u16)))
            } else {
                Box::new(move |old, b, _| {
                    u64::from(half::map2(old as u32, b as u32, |a, b| f(&name, a, b)))
                })
            }
        }
        ("add", Type::U32 | Type::S32 | Type::U64 | Type::S64 | Type::B32 | Type::B64) => {
            Box::new(|old, b, _| old.wrapping_add(b))
        }
        ("min", Type::U32 | Type::U64) => Box::new(|old, b, _| old.min(b)),
        ("max", Type::U32 | Type::U64) => Box::new(|old, b, _| old.max(b)),
        ("min", Type::S32 | Type::S64) => {
            Box::new(move |old, b, _| if signed(old) < signed(b) { old } else { b })
        }
        ("max", Type::S32 | Type::S64) => {
            Box::new(move |old, b, _| if signed(old) > signed(b) { old } else { b })
        }
        _ => return Err("this atomic is not implemented".to_owned()),
    })
}
