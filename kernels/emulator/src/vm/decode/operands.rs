//! Operands to slots and addresses.

use super::Decoder;
use super::names::Symbol;
use crate::ptx::{Number, Operand, Space, Type, Variable};
use crate::vm::code::{Address, Base, Element, Initial, Special};
use crate::vm::registers::{Predicate, Slot, Word};
use crate::vm::space::{LOCAL_WINDOW, PARAMETER_WINDOW, SHARED_WINDOW};

/// A register of any width.
#[derive(Debug, Clone, Copy)]
pub(super) struct Register {
    pub element: Element,
    pub bits: u32,
}

impl Decoder<'_> {
    pub fn predicate_named(&mut self, name: &str) -> Result<Predicate, String> {
        match self.scopes.find(name) {
            Some(Symbol::Register { bits: 1, slot }) => Ok(Predicate(slot)),
            _ if name == "%is_explicit_cluster" => {
                Ok(Predicate(self.filled(false, Initial::Predicate(false))))
            }
            _ => Err(format!("{name} is no predicate register")),
        }
    }

    /// `p`, `!p` or a literal; the flag says whether it is negated.
    pub fn predicate_source(&mut self, operand: &Operand) -> Result<(Predicate, bool), String> {
        match operand {
            Operand::Name(name) => Ok((self.predicate_named(name)?, false)),
            Operand::Not(name) => Ok((self.predicate_named(name)?, true)),
            Operand::Literal(Number::Integer(value)) => Ok((
                Predicate(self.filled(false, Initial::Predicate(*value != 0))),
                false,
            )),
            other => Err(format!("{other} is no predicate")),
        }
    }

    /// A predicate to be written; `_` is written to nobody's.
    pub fn predicate_target(&mut self, operand: &Operand) -> Result<Predicate, String> {
        match operand {
            Operand::Name(name) if name == "_" => {
                self.code.predicates += 1;
                Ok(Predicate(self.code.predicates - 1))
            }
            Operand::Name(name) => self.predicate_named(name),
            other => Err(format!("{other} is no predicate register")),
        }
    }

    /// A register of any width, if the operand is one.
    pub fn register(&self, operand: &Operand) -> Option<Register> {
        let Operand::Name(name) = operand else {
            return None;
        };
        match self.scopes.find(name)? {
            Symbol::Register { bits: 64, slot } => Some(Register {
                element: Element::Wide(Slot::new(slot)),
                bits: 64,
            }),
            Symbol::Register { bits, slot } if bits > 1 && bits < 64 => Some(Register {
                element: Element::Narrow(Slot::new(slot)),
                bits,
            }),
            _ => None,
        }
    }

    /// A register to be written, of `T`'s width; `_` is written to nobody's.
    pub fn target<T: Word>(&mut self, operand: &Operand) -> Result<Slot<T>, String> {
        if let Operand::Name(name) = operand
            && name == "_"
        {
            let file = if T::BITS == 64 {
                &mut self.code.wide
            } else {
                &mut self.code.narrow
            };
            *file += 1;
            return Ok(Slot::new(*file - 1));
        }
        match self.register(operand).map(|register| register.element) {
            Some(Element::Narrow(slot)) if T::BITS == 32 => Ok(Slot::new(slot.0)),
            Some(Element::Wide(slot)) if T::BITS == 64 => Ok(Slot::new(slot.0)),
            _ => Err(format!("{operand} is no register of {} bits", T::BITS)),
        }
    }

    /// An operand to be read, of `T`'s width; `kind` says what a literal means.
    pub fn source<T: Word>(&mut self, operand: &Operand, kind: Type) -> Result<Slot<T>, String> {
        if let Some(register) = self.register(operand) {
            return match register.element {
                Element::Narrow(slot) if T::BITS == 32 => Ok(Slot::new(slot.0)),
                Element::Wide(slot) if T::BITS == 64 => Ok(Slot::new(slot.0)),
                _ => Err(format!("{operand} is no register of {} bits", T::BITS)),
            };
        }
        let wide = T::BITS == 64;
        let value = match operand {
            Operand::Literal(number) => {
                let mut bits = literal(*number, kind);
                if !wide {
                    bits &= if kind.bytes() < 4 {
                        (1 << (kind.bytes() * 8)) - 1
                    } else {
                        0xffff_ffff
                    };
                }
                Initial::Bits(bits)
            }
            Operand::Name(name) => self.address_or_special(name, 0)?,
            Operand::Sum(name, offset) => self.address_or_special(name, *offset)?,
            other => return Err(format!("{other} cannot be read here")),
        };
        Ok(Slot::new(self.filled(wide, value)))
    }

    /// Three operands of one type.
    pub fn source2<T: Word>(
        &mut self,
        a: &Operand,
        b: &Operand,
        kind: Type,
    ) -> Result<(Slot<T>, Slot<T>), String> {
        Ok((self.source(a, kind)?, self.source(b, kind)?))
    }

    fn address_or_special(&mut self, name: &str, offset: i64) -> Result<Initial, String> {
        match self.symbol(name) {
            Some(Symbol::Shared(at) | Symbol::Local(at) | Symbol::Parameter(at)) => {
                Ok(Initial::Bits((at + offset) as u64))
            }
            Some(Symbol::Global(index)) if offset == 0 => Ok(Initial::Address(index)),
            Some(Symbol::Dynamic) if offset == 0 => Ok(Initial::Special(Special::DynamicBase)),
            Some(Symbol::Global(_) | Symbol::Dynamic) => {
                Err("a variable's address with an offset".to_owned())
            }
            Some(_) => Err(format!("{name} has another width")),
            None => match special(name) {
                Some(register) => Ok(Initial::Special(register)),
                None => named_constant(name).ok_or_else(|| format!("{name} is not declared")),
            },
        }
    }

    /// A name of the function or of the module. Shared variables of the module get their place when first used.
    pub fn symbol(&mut self, name: &str) -> Option<Symbol> {
        if let Some(symbol) = self.scopes.find(name) {
            return Some(symbol);
        }
        if let Some(index) = self.image.names.get(name) {
            return Some(Symbol::Global(*index));
        }
        if let Some(symbol) = self.module_shared.get(name) {
            return Some(*symbol);
        }
        let image = self.image;
        let shared =
            |variable: &&Variable| variable.name == name && variable.space == Space::Shared;
        let variable = image.module.variables.iter().find(shared)?;
        let symbol = self.shared(variable);
        self.module_shared.insert(name.to_owned(), symbol);
        Some(symbol)
    }

    /// `[base+offset]`; says the space too where the name of a variable gives it.
    pub fn address(&mut self, operand: &Operand) -> Result<Address, String> {
        let Operand::Memory { base, offset } = operand else {
            return Err(format!("{operand} is no address"));
        };
        let offset = *offset;
        if base.is_empty() {
            return Ok(Address {
                base: Base::None,
                offset,
            });
        }
        if let Some(register) = self.register(&Operand::Name(base.clone())) {
            let base = match register.element {
                Element::Narrow(slot) => Base::Narrow(slot),
                Element::Wide(slot) => Base::Wide(slot),
                Element::Sink => Base::None,
            };
            return Ok(Address { base, offset });
        }
        match self.symbol(base) {
            Some(Symbol::Shared(at) | Symbol::Local(at) | Symbol::Parameter(at)) => Ok(Address {
                base: Base::None,
                offset: at + offset,
            }),
            Some(Symbol::Global(index)) => {
                let slot = self.filled(true, Initial::Address(index));
                Ok(Address {
                    base: Base::Wide(Slot::new(slot)),
                    offset,
                })
            }
            Some(Symbol::Dynamic) => {
                let slot = self.filled(false, Initial::Special(Special::DynamicBase));
                Ok(Address {
                    base: Base::Narrow(Slot::new(slot)),
                    offset,
                })
            }
            _ => Err(format!("{base} is no address")),
        }
    }

    /// The parts of `{a, b}`, or the operand alone.
    pub fn elements(
        &mut self,
        operand: &Operand,
        target: bool,
        kind: Type,
    ) -> Result<Vec<Element>, String> {
        let single = std::slice::from_ref(operand);
        let items = if let Operand::Vector(items) = operand {
            items
        } else {
            single
        };
        items
            .iter()
            .map(|item| self.element(item, target, kind))
            .collect()
    }

    fn element(&mut self, operand: &Operand, target: bool, kind: Type) -> Result<Element, String> {
        if let Operand::Name(name) = operand
            && name == "_"
        {
            return Ok(Element::Sink);
        }
        if let Some(register) = self.register(operand) {
            return Ok(register.element);
        }
        if target {
            return Err(format!("{operand} is no register"));
        }
        Ok(if kind.bytes() == 8 {
            Element::Wide(self.source(operand, kind)?)
        } else {
            Element::Narrow(self.source(operand, kind)?)
        })
    }

    /// The base that makes an address of a window generic.
    pub fn window(space: &str) -> Option<u64> {
        Some(match space {
            "shared" => SHARED_WINDOW,
            "local" => LOCAL_WINDOW,
            "param" => PARAMETER_WINDOW,
            "global" | "const" => 0,
            _ => return None,
        })
    }
}

/// The bits of a literal in a type.
pub(super) fn literal(number: Number, kind: Type) -> u64 {
    let floating = matches!(kind, Type::F32 | Type::F64 | Type::F16 | Type::Bf16);
    match number {
        Number::Integer(value) if floating => from_f64(value as f64, kind),
        Number::Integer(value) => value as u64,
        Number::Float(bits) => match kind {
            Type::F32 | Type::B32 | Type::U32 | Type::S32 => u64::from(bits),
            Type::F64 | Type::F16 | Type::Bf16 => from_f64(f64::from(f32::from_bits(bits)), kind),
            _ => u64::from(bits),
        },
        Number::Double(bits) => match kind {
            Type::F32 | Type::F16 | Type::Bf16 => from_f64(f64::from_bits(bits), kind),
            _ => bits,
        },
    }
}

fn from_f64(value: f64, kind: Type) -> u64 {
    match kind {
        Type::F32 => u64::from((value as f32).to_bits()),
        Type::F16 => u64::from(half::f16::from_f64(value).to_bits()),
        Type::Bf16 => u64::from(half::bf16::from_f64(value).to_bits()),
        _ => value.to_bits(),
    }
}

fn named_constant(name: &str) -> Option<Initial> {
    (name == "WARP_SZ").then_some(Initial::Bits(32))
}

fn special(name: &str) -> Option<Special> {
    let (stem, dimension) = match name.rsplit_once('.') {
        Some((stem, "x")) => (stem, 0),
        Some((stem, "y")) => (stem, 1),
        Some((stem, "z")) => (stem, 2),
        _ => (name, 3),
    };
    Some(match (stem, dimension) {
        ("%tid", 0..3) => Special::Tid(dimension),
        ("%ntid", 0..3) => Special::Ntid(dimension),
        ("%ctaid" | "%clusterid", 0..3) => Special::Ctaid(dimension),
        ("%nctaid" | "%nclusterid", 0..3) => Special::Nctaid(dimension),
        ("%cluster_ctaid", 0..3) => Special::Zero,
        ("%cluster_nctaid", 0..3) => Special::One,
        ("%cluster_ctarank" | "%gridid" | "%envreg0", _) => Special::Zero,
        ("%cluster_nctarank", _) => Special::One,
        ("%laneid", _) => Special::Lane,
        ("%warpid", _) => Special::Warp,
        ("%nwarpid", _) => Special::Warps,
        ("%smid", _) => Special::Sm,
        ("%nsmid", _) => Special::Sms,
        ("%lanemask_eq", _) => Special::MaskEq,
        ("%lanemask_le", _) => Special::MaskLe,
        ("%lanemask_lt", _) => Special::MaskLt,
        ("%lanemask_ge", _) => Special::MaskGe,
        ("%lanemask_gt", _) => Special::MaskGt,
        ("%dynamic_smem_size", _) => Special::DynamicShared,
        ("%total_smem_size", _) => Special::TotalShared,
        _ => return None,
    })
}
