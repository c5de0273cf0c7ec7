//! `mma.sync`, `ldmatrix`, `stmatrix`: which of `crate::tensor`'s functions an opcode means.

use super::opcode::Opcode;
use super::{Answer, Decoder, exactly};
use crate::Lanes;
use crate::convert::Minifloat;
use crate::ptx::{Operand, Space, Type};
use crate::tensor::ldmatrix::Load;
use crate::tensor::stmatrix::Store;
use crate::tensor::{
    self, Accumulator, BlockScales, Eight, Integer, Mxf4, ScaleFormat, ScaleVec, Sixteen,
};
use crate::vm::code::{MatrixMove, Members, Op};
use crate::vm::registers::{Registers, Slot};

/// A computation of the matrix unit, on the registers' values.
type Multiply =
    Box<dyn Fn(&[Lanes], &[Lanes], &[Lanes]) -> Result<Vec<Lanes>, String> + Send + Sync>;

impl Decoder<'_> {
    pub(super) fn tensor(&mut self, opcode: &Opcode<'_>, operands: &[Operand]) -> Answer {
        match opcode.base {
            "mma" => self.multiply(opcode, operands),
            "ldmatrix" | "stmatrix" => self.move_matrix(opcode, operands),
            _ => Ok(None),
        }
    }

    fn multiply(&mut self, opcode: &Opcode<'_>, operands: &[Operand]) -> Answer {
        if opcode.sees("sp") {
            return Err("sparse products are not implemented".to_owned());
        }
        opcode.ignore(&["sync", "aligned", "row", "col"]);
        if opcode.has("block_scale") {
            return self.multiply_scaled(opcode, operands);
        }
        let [d, a, b, c] = exactly(operands)?;
        let d = self.fragment(d, true)?;
        let (a, b, c) = (
            self.fragment(a, false)?,
            self.fragment(b, false)?,
            self.fragment(c, false)?,
        );
        let kinds = opcode.last(4).ok_or("four types are expected")?;
        let f = plain(opcode, kinds)?;
        Ok(Some(Op::Together(
            Members::All,
            Box::new(move |registers, mask| {
                whole(mask)?;
                let out = f(
                    &values(registers, &a),
                    &values(registers, &b),
                    &values(registers, &c),
                )?;
                write(registers, &d, &out)
            }),
        )))
    }

    fn multiply_scaled(&mut self, opcode: &Opcode<'_>, operands: &[Operand]) -> Answer {
        let [d, a, b, c, scale_a, select_a, scale_b, select_b] = exactly(operands)?;
        let d = self.fragment(d, true)?;
        let (a, b, c) = (
            self.fragment(a, false)?,
            self.fragment(b, false)?,
            self.fragment(c, false)?,
        );
        let (scale_a, scale_b) = (
            self.fragment(scale_a, false)?,
            self.fragment(scale_b, false)?,
        );
        let (select_a, select_b) = (
            self.fragment(select_a, false)?,
            self.fragment(select_b, false)?,
        );
        let vec = match opcode.one_of(&[
            "scale_vec::1X",
            "scale_vec::2X",
            "scale_vec::4X",
            "block16",
            "block32",
        ]) {
            Some("scale_vec::1X") => ScaleVec::X1,
            Some("scale_vec::4X" | "block16") => ScaleVec::X4,
            Some(_) => ScaleVec::X2,
            None if opcode.sees("kind::mxf8f6f4") => ScaleVec::X1,
            None => ScaleVec::X2,
        };
        let kind = opcode
            .one_of(&["kind::mxf8f6f4", "kind::mxf4nvf4", "kind::mxf4"])
            .ok_or("a kind is expected")?;
        let kinds = opcode.last(5).ok_or("five types are expected")?;
        let scale = match kinds[4] {
            "ue8m0" => ScaleFormat::Ue8m0,
            "ue4m3" => ScaleFormat::Ue4m3,
            other => return Err(format!("scales of .{other} are not implemented")),
        };
        let accumulator = Accumulator::default();
        let shape = if kind == "kind::mxf8f6f4" {
            "m16n8k32"
        } else {
            "m16n8k64"
        };
        if !opcode.has(shape) {
            return Err(format!("{kind} is implemented for {shape} only"));
        }
        let eight = if kind == "kind::mxf8f6f4" {
            if vec != ScaleVec::X1 || scale != ScaleFormat::Ue8m0 {
                return Err("one ue8m0 scale is expected".to_owned());
            }
            Some(Eight {
                a: minifloat(kinds[1])?,
                b: minifloat(kinds[2])?,
                accumulator,
            })
        } else {
            if (kinds[1], kinds[2]) != ("e2m1", "e2m1") {
                return Err("e2m1 is expected".to_owned());
            }
            None
        };
        let types = Mxf4 {
            vec,
            scale,
            accumulator,
        };
        Ok(Some(Op::Together(
            Members::All,
            Box::new(move |registers, mask| {
                whole(mask)?;
                let (scales_a, scales_b) =
                    (values(registers, &scale_a), values(registers, &scale_b));
                let ([byte_a, thread_a], [byte_b, thread_b]) = (
                    selector(registers, &select_a)?,
                    selector(registers, &select_b)?,
                );
                let scales = BlockScales {
                    a: one(&scales_a)?,
                    b: one(&scales_b)?,
                    byte_a,
                    thread_a,
                    byte_b,
                    thread_b,
                };
                let (a, b, c) = (
                    values(registers, &a),
                    values(registers, &b),
                    values(registers, &c),
                );
                let out = match eight {
                    Some(types) => {
                        tensor::mma_mxf8f6f4(part(&a)?, part(&b)?, part(&c)?, &scales, types)?
                    }
                    None => tensor::mma_mxf4nvf4(part(&a)?, part(&b)?, part(&c)?, &scales, types)?,
                };
                write(registers, &d, &out)
            }),
        )))
    }

    fn fragment(&mut self, operand: &Operand, target: bool) -> Result<Vec<Slot<u32>>, String> {
        let items = match operand {
            Operand::Vector(items) => items,
            single => std::slice::from_ref(single),
        };
        items
            .iter()
            .map(|item| {
                if target {
                    self.target(item)
                } else {
                    self.source(item, Type::B32)
                }
            })
            .collect()
    }

    fn move_matrix(&mut self, opcode: &Opcode<'_>, operands: &[Operand]) -> Answer {
        opcode.ignore(&["sync", "aligned", "b16", "b8"]);
        let trans = opcode.has("trans");
        let count = match opcode.one_of(&["x1", "x2", "x4"]) {
            Some("x1") => 1,
            Some("x2") => 2,
            Some(_) => 4,
            None => return Err("a number of matrices is expected".to_owned()),
        };
        let shape = opcode
            .one_of(&["m8n8", "m16n16", "m8n16", "m16n8"])
            .ok_or("a shape is expected")?;
        let (address, registers) = match (opcode.base, operands) {
            ("ldmatrix", [d, address]) => (address, self.fragment(d, true)?),
            ("stmatrix", [address, s]) => (address, self.fragment(s, false)?),
            _ => return Err("2 operands are expected".to_owned()),
        };
        let (space, address) = self.place(opcode, address)?;
        if !matches!(space, Space::Shared | Space::Generic) {
            return Err("shared memory is expected".to_owned());
        }
        let matrix = if opcode.base == "ldmatrix" {
            let six = opcode.has("b6x16_p32");
            opcode.ignore(&["b8x16", "b4x16_p64"]);
            let (shape, each) = match shape {
                "m8n8" => (Load::M8n8 { trans }, 1),
                "m16n16" if trans && !six && !opcode.sees("b4x16_p64") => (Load::M16n16Trans, 2),
                "m8n16" if six => (Load::M8n16P32, 1),
                "m8n16" => (Load::M8n16P64, 1),
                _ => return Err("this shape is not implemented".to_owned()),
            };
            if registers.len() != count * each {
                return Err(format!("{} registers are expected", count * each));
            }
            MatrixMove::Load {
                shape,
                space,
                address,
                count,
                d: registers,
            }
        } else {
            let shape = match shape {
                "m8n8" => Store::M8n8 { trans },
                "m16n8" if trans => Store::M16n8Trans,
                _ => return Err("this shape is not implemented".to_owned()),
            };
            if registers.len() != count {
                return Err(format!("{count} registers are expected"));
            }
            MatrixMove::Store {
                shape,
                space,
                address,
                s: registers,
            }
        };
        Ok(Some(Op::Matrix(Box::new(matrix))))
    }
}

/// Products without scales.
fn plain(opcode: &Opcode<'_>, kinds: &[&str]) -> Result<Multiply, String> {
    let sum = Accumulator::default();
    let shape = opcode
        .one_of(&["m16n8k8", "m16n8k16", "m16n8k32"])
        .ok_or("this shape is not implemented")?;
    let narrow = opcode.has("kind::f8f6f4");
    let satfinite = opcode.has("satfinite");
    let sixteen = |name: &str| match name {
        "f16" => Some(Sixteen::F16),
        "bf16" => Some(Sixteen::Bf16),
        _ => None,
    };
    let [d, a, b, c] = *kinds else {
        return Err("four types are expected".to_owned());
    };
    if d != c {
        return Err("C and D of different types are not implemented".to_owned());
    }
    Ok(match (shape, d) {
        ("m16n8k16", "f32") if a == b && sixteen(a).is_some() => {
            let inputs = sixteen(a).unwrap_or(Sixteen::F16);
            Box::new(move |a, b, c| {
                Ok(tensor::mma_k16(part(a)?, part(b)?, part(c)?, inputs, sum).to_vec())
            })
        }
        ("m16n8k8", "f32") if a == b && sixteen(a).is_some() => {
            let inputs = sixteen(a).unwrap_or(Sixteen::F16);
            Box::new(move |a, b, c| {
                Ok(tensor::mma_k8(part(a)?, part(b)?, part(c)?, inputs, sum).to_vec())
            })
        }
        ("m16n8k16", "f16") if (a, b) == ("f16", "f16") => Box::new(move |a, b, c| {
            Ok(tensor::mma_k16_f16(part(a)?, part(b)?, part(c)?, sum).to_vec())
        }),
        ("m16n8k8", "f16") if (a, b) == ("f16", "f16") => Box::new(move |a, b, c| {
            Ok(tensor::mma_k8_f16(part(a)?, part(b)?, part(c)?, sum).to_vec())
        }),
        ("m16n8k8", "f32") if (a, b) == ("tf32", "tf32") => {
            Box::new(
                move |a, b, c| Ok(tensor::mma_tf32(part(a)?, part(b)?, part(c)?, sum).to_vec()),
            )
        }
        ("m16n8k16" | "m16n8k32", "s32") => {
            let signed = |name: &str| match name {
                "s8" => Ok(true),
                "u8" => Ok(false),
                other => Err(format!("inputs of .{other} are not implemented")),
            };
            let types = Integer {
                a_signed: signed(a)?,
                b_signed: signed(b)?,
                satfinite,
            };
            if shape == "m16n8k32" {
                return Ok(Box::new(move |a, b, c| {
                    Ok(tensor::mma_int8(part(a)?, part(b)?, part(c)?, types).to_vec())
                }));
            }
            Box::new(move |a, b, c| {
                // The lower half of k: the registers that would hold the upper one are zero.
                let ([a0, a1], [b]): (&[Lanes; 2], &[Lanes; 1]) = (part(a)?, part(b)?);
                let (a, b) = ([*a0, *a1, [0; 32], [0; 32]], [*b, [0; 32]]);
                Ok(tensor::mma_int8(&a, &b, part(c)?, types).to_vec())
            })
        }
        ("m16n8k32", "f32" | "f16") => {
            let types = Eight {
                a: minifloat(a)?,
                b: minifloat(b)?,
                accumulator: sum,
            };
            let eight = |format| matches!(format, Minifloat::E4m3 | Minifloat::E5m2);
            let plain = eight(types.a) && eight(types.b);
            if !(narrow || plain) {
                return Err("these inputs need .kind::f8f6f4".to_owned());
            }
            if d == "f32" {
                Box::new(move |a, b, c| {
                    Ok(tensor::mma_f8(part(a)?, part(b)?, part(c)?, types)?.to_vec())
                })
            } else {
                Box::new(move |a, b, c| {
                    Ok(tensor::mma_f8_f16(part(a)?, part(b)?, part(c)?, types)?.to_vec())
                })
            }
        }
        _ => return Err("this product is not implemented".to_owned()),
    })
}

fn minifloat(name: &str) -> Result<Minifloat, String> {
    Ok(match name {
        "e4m3" => Minifloat::E4m3,
        "e5m2" => Minifloat::E5m2,
        "e2m1" => Minifloat::E2m1,
        "e2m3" => Minifloat::E2m3,
        "e3m2" => Minifloat::E3m2,
        other => return Err(format!("inputs of .{other} are not implemented")),
    })
}

/// `{byte, thread}` of a scale operand: the same in all lanes.
fn selector(registers: &Registers, slots: &[Slot<u32>]) -> Result<[u16; 2], String> {
    let [byte, thread] = slots else {
        return Err("two selectors of scales are expected".to_owned());
    };
    let one = |slot: &Slot<u32>| {
        let values = registers.get(*slot);
        if values.iter().any(|value| *value != values[0]) {
            return Err("a selector of scales differs between lanes".to_owned());
        }
        Ok(values[0] as u16)
    };
    Ok([one(byte)?, one(thread)?])
}

fn values(registers: &Registers, slots: &[Slot<u32>]) -> Vec<Lanes> {
    slots.iter().map(|slot| *registers.get(*slot)).collect()
}

fn write(registers: &mut Registers, slots: &[Slot<u32>], values: &[Lanes]) -> Result<(), String> {
    if slots.len() != values.len() {
        return Err(format!(
            "{} registers of results are expected",
            values.len()
        ));
    }
    for (slot, value) in slots.iter().zip(values) {
        registers.put(*slot, value, u32::MAX);
    }
    Ok(())
}

fn part<const N: usize>(values: &[Lanes]) -> Result<&[Lanes; N], String> {
    values
        .try_into()
        .map_err(|_| format!("a fragment of {N} registers is expected"))
}

fn one(values: &[Lanes]) -> Result<&Lanes, String> {
    values
        .first()
        .ok_or_else(|| "a scale register is expected".to_owned())
}

fn whole(mask: u32) -> Result<(), String> {
    if mask == u32::MAX {
        return Ok(());
    }
    Err(format!(
        "a matrix instruction needs all 32 lanes, {} are here",
        mask.count_ones()
    ))
}
