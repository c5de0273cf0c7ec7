//! Loads, stores, atomics, copies.

use super::opcode::Opcode;
use super::{Answer, Decoder, exactly, lanes};
use crate::ptx::{Number, Operand, Space, Type};
use crate::vm::code::{Access, Address, Base, Bulk, CopyAsync, Element, Op, Order};
use crate::vm::registers::{Slot, map1};

/// Modifiers that say how long a cache should keep a line.
const CACHES: [&str; 11] = [
    "ca", "cg", "cs", "lu", "cv", "wb", "wt", "nc", "unified", "weak", "mmio",
];
const SCOPES: [&str; 5] = ["cta", "cluster", "gpu", "sys", "gl"];

impl Decoder<'_> {
    pub(super) fn memory(&mut self, opcode: &Opcode<'_>, operands: &[Operand]) -> Answer {
        match opcode.base {
            "ld" | "ldu" => self.load(opcode, operands),
            "st" => self.store(opcode, operands),
            "atom" | "red" if !opcode.sees("async") => self.atomic(opcode, operands),
            "cp" if opcode.starts(&["async", "bulk"]) => self.bulk(opcode, operands),
            "cp" if opcode.starts(&["async"]) => self.copy_async(opcode, operands),
            "prefetch" | "prefetchu" | "applypriority" | "discard" => {
                opcode.ignore(&[
                    "global",
                    "local",
                    "const",
                    "L1",
                    "L2",
                    "tensormap",
                    "param",
                    "L2::evict_normal",
                    "L2::evict_last",
                    "L2",
                ]);
                lanes(Box::new(|_, _| {}))
            }
            "createpolicy" => {
                opcode.ignore(&["fractional", "range", "cvt", "L2", "global", "b64"]);
                opcode.ignore_starting(&["L2::"]);
                let d: Slot<u64> = self.target(operands.first().ok_or("operands are expected")?)?;
                lanes(map1(d, d, |_: u64| 0))
            }
            _ => Ok(None),
        }
    }

    /// The state space of an access, and its address.
    pub(super) fn place(
        &mut self,
        opcode: &Opcode<'_>,
        operand: &Operand,
    ) -> Result<(Space, Address), String> {
        let address = self.address(operand)?;
        let names = [
            "global",
            "shared",
            "shared::cta",
            "shared::cluster",
            "local",
            "const",
            "param",
            "param::entry",
            "param::func",
        ];
        let mut space = match opcode.one_of(&names) {
            Some("global" | "const") => Space::Global,
            Some("local") => Space::Local,
            Some(name) if name.starts_with("shared") => Space::Shared,
            Some(_) => Space::Param,
            None => Space::Generic,
        };
        if let (Operand::Memory { base, .. }, Base::None) = (operand, address.base) {
            use super::names::Symbol;
            match self.symbol(base) {
                // Parameters of functions that are called live in local memory.
                Some(Symbol::Local(_)) if space == Space::Param => space = Space::Local,
                Some(Symbol::Shared(_)) if space == Space::Generic => space = Space::Shared,
                Some(Symbol::Local(_)) if space == Space::Generic => space = Space::Local,
                Some(Symbol::Parameter(_)) if space == Space::Generic => space = Space::Param,
                _ => {}
            }
        }
        Ok((space, address))
    }

    /// What an access orders. `.volatile` and `.relaxed` make others' writes seen, which is all that is asked of it here.
    pub(super) fn order(opcode: &Opcode<'_>) -> Order {
        let scoped = opcode.has("acq_rel") || opcode.has("sc");
        let order = Order {
            acquire: opcode.has("acquire") || scoped,
            release: opcode.has("release") || scoped,
            strong: opcode.has("volatile") || opcode.has("relaxed"),
        };
        opcode.ignore(&SCOPES);
        Order {
            strong: order.strong || order.acquire || order.release,
            ..order
        }
    }

    fn caches(opcode: &Opcode<'_>) -> bool {
        opcode.ignore(&CACHES);
        let hint = opcode.sees("L2::cache_hint") || opcode.sees("level::cache_hint");
        opcode.ignore_starting(&["L1::", "L2::", "level::"]);
        hint
    }

    fn access(
        &mut self,
        opcode: &Opcode<'_>,
        address: &Operand,
        register: &Operand,
    ) -> Result<Access, String> {
        let order = Self::order(opcode);
        let (space, address) = self.place(opcode, address)?;
        let count = match opcode.one_of(&["v2", "v4", "v8"]) {
            Some("v2") => 2,
            Some("v4") => 4,
            Some(_) => 8,
            None => 1,
        };
        let kind = opcode.kind()?;
        if kind == Type::B128 {
            return Err("128-bit registers are not implemented".to_owned());
        }
        let load = matches!(opcode.base, "ld" | "ldu");
        let elements = self.elements(register, load, kind)?;
        if elements.len() != count {
            return Err(format!("{count} registers are expected"));
        }
        // A literal operand is no register, and what it says is as wide as the type.
        let register_bits = match register {
            Operand::Vector(items) => items.iter().find_map(|item| self.register(item)),
            single => self.register(single),
        };
        Ok(Access {
            space,
            address,
            bytes: kind.bytes(),
            signed: kind.signed(),
            register_bits: register_bits.map_or(32, |register| register.bits),
            elements,
            order,
        })
    }

    fn load(&mut self, opcode: &Opcode<'_>, operands: &[Operand]) -> Answer {
        let hint = Self::caches(opcode);
        match operands {
            [d, address] => Ok(Some(Op::Load(Box::new(self.access(opcode, address, d)?)))),
            [d, address, _] if hint => {
                Ok(Some(Op::Load(Box::new(self.access(opcode, address, d)?))))
            }
            _ => Err("2 operands are expected".to_owned()),
        }
    }

    fn store(&mut self, opcode: &Opcode<'_>, operands: &[Operand]) -> Answer {
        if opcode.sees("async") || opcode.sees("bulk") {
            return Err("this store is not implemented".to_owned());
        }
        let hint = Self::caches(opcode);
        match operands {
            [address, value] => Ok(Some(Op::Store(Box::new(
                self.access(opcode, address, value)?,
            )))),
            [address, value, _] if hint => Ok(Some(Op::Store(Box::new(
                self.access(opcode, address, value)?,
            )))),
            _ => Err("2 operands are expected".to_owned()),
        }
    }

    fn copy_async(&mut self, opcode: &Opcode<'_>, operands: &[Operand]) -> Answer {
        opcode.ignore(&["async"]);
        if opcode.has("commit_group") {
            return Ok(Some(Op::Commit));
        }
        if opcode.has("wait_all") {
            return Ok(Some(Op::WaitGroup(None)));
        }
        if opcode.has("wait_group") {
            let [Operand::Literal(Number::Integer(pending))] = operands else {
                return Err("a number is expected".to_owned());
            };
            return Ok(Some(Op::WaitGroup(Some(*pending as u32))));
        }
        if opcode.sees("mbarrier") {
            return self.mbarrier_of_copies(opcode, operands);
        }
        let hint = Self::caches(opcode);
        opcode.ignore(&["shared", "shared::cta", "global"]);
        let operands = if hint {
            &operands[..operands.len().saturating_sub(1)]
        } else {
            operands
        };
        let (to, from, size, rest) = match operands {
            [to, from, size] => (to, from, size, None),
            [to, from, size, rest] => (to, from, size, Some(rest)),
            _ => return Err("3 or 4 operands are expected".to_owned()),
        };
        let Operand::Literal(Number::Integer(bytes @ (4 | 8 | 16))) = size else {
            return Err("4, 8 or 16 bytes are expected".to_owned());
        };
        let mut copy = CopyAsync {
            to: self.address(to)?,
            from: self.address(from)?,
            bytes: *bytes as usize,
            source_bytes: None,
            ignore: None,
        };
        if let Some(rest) = rest {
            match self.predicate_source(rest) {
                Ok(predicate) if !matches!(rest, Operand::Literal(_)) => {
                    copy.ignore = Some(predicate)
                }
                _ => copy.source_bytes = Some(self.source(rest, Type::U32)?),
            }
        }
        Ok(Some(Op::CopyAsync(Box::new(copy))))
    }

    fn bulk(&mut self, opcode: &Opcode<'_>, operands: &[Operand]) -> Answer {
        opcode.ignore(&["async", "bulk"]);
        if opcode.has("commit_group") {
            return lanes(Box::new(|_, _| {}));
        }
        if opcode.has("wait_group") {
            opcode.ignore(&["read"]);
            // Stores are done at once; only the order of shared accesses after them is the kernel's to keep.
            return lanes(Box::new(|_, _| {}));
        }
        if opcode.sees("tensor") || opcode.sees("multicast::cluster") || opcode.sees("reduce") {
            return Err("tensor copies are not implemented".to_owned());
        }
        if opcode.has("prefetch") {
            opcode.ignore(&["L2", "global", "L2::cache_hint"]);
            return lanes(Box::new(|_, _| {}));
        }
        let hint = Self::caches(opcode);
        let operands = if hint {
            &operands[..operands.len().saturating_sub(1)]
        } else {
            operands
        };
        opcode.ignore(&[
            "shared::cluster",
            "shared::cta",
            "global",
            "bulk_group",
            "mbarrier::complete_tx::bytes",
        ]);
        let bulk = if opcode.sees("bulk_group") {
            let [to, from, bytes] = exactly(operands)?;
            Bulk::Store {
                to: self.address(to)?,
                from: self.address(from)?,
                bytes: self.source(bytes, Type::U32)?,
            }
        } else {
            if !opcode.sees("mbarrier::complete_tx::bytes") || !opcode.sees("global") {
                return Err("this copy is not implemented".to_owned());
            }
            let [to, from, bytes, mbarrier] = exactly(operands)?;
            Bulk::Load {
                to: self.address(to)?,
                from: self.address(from)?,
                bytes: self.source(bytes, Type::U32)?,
                mbarrier: self.address(mbarrier)?,
            }
        };
        Ok(Some(Op::Bulk(Box::new(bulk))))
    }

    /// The elements of an operand that is read, for atomics.
    pub(super) fn values(&mut self, operand: &Operand, kind: Type) -> Result<Vec<Element>, String> {
        self.elements(operand, false, kind)
    }
}
