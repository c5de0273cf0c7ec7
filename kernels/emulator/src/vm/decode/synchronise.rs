//! Barriers, mbarriers, fences, waiting.

use super::opcode::Opcode;
use super::{Answer, Decoder, exactly, lanes};
use crate::ptx::{Number, Operand, Type};
use crate::vm::code::{BarrierKind, BarrierOp, Mbarrier, MbarrierKind, Members, Op};
use crate::vm::registers::{Slot, map1};

impl Decoder<'_> {
    pub(super) fn synchronise(&mut self, opcode: &Opcode<'_>, operands: &[Operand]) -> Answer {
        match opcode.base {
            "bar" | "barrier" if opcode.starts(&["warp"]) => {
                opcode.ignore(&["warp", "sync"]);
                let [mask] = exactly(operands)?;
                let mask = self.source(mask, Type::B32)?;
                Ok(Some(Op::Together(
                    Members::Mask(mask),
                    Box::new(|_, _| Ok(())),
                )))
            }
            "barrier" if opcode.starts(&["cluster"]) => self.cluster_barrier(opcode),
            "bar" | "barrier" => self.barrier(opcode, operands),
            "mbarrier" => self.mbarrier(opcode, operands),
            "fence" | "membar" => {
                opcode.ignore(&[
                    "sc", "acq_rel", "acquire", "release", "cta", "cluster", "gpu", "sys", "gl",
                ]);
                opcode.ignore(&[
                    "proxy",
                    "async",
                    "alias",
                    "mbarrier_init",
                    "async::generic",
                    "tensormap::generic",
                ]);
                opcode.ignore(&[
                    "global",
                    "shared::cta",
                    "shared::cluster",
                    "async.global",
                    "relaxed",
                ]);
                opcode.ignore_starting(&["sync_restrict::", "proxy::"]);
                Ok(Some(Op::Fence))
            }
            "griddepcontrol" => {
                opcode.ignore(&["wait", "launch_dependents"]);
                lanes(Box::new(|_, _| {}))
            }
            "setmaxnreg" => {
                opcode.ignore(&["inc", "dec", "sync", "aligned", "u32"]);
                Ok(Some(Op::Together(Members::All, Box::new(|_, _| Ok(())))))
            }
            "nanosleep" => {
                opcode.ignore(&["u32"]);
                Ok(Some(Op::Pause))
            }
            _ => Ok(None),
        }
    }

    /// A cluster is one block here: its barrier is one of all threads, at the wait.
    fn cluster_barrier(&mut self, opcode: &Opcode<'_>) -> Answer {
        opcode.ignore(&["cluster", "aligned", "release", "acquire", "relaxed"]);
        if opcode.has("arrive") {
            return lanes(Box::new(|_, _| {}));
        }
        opcode.has("wait");
        let id = self.source(
            &Operand::Literal(Number::Integer(crate::vm::barriers::CLUSTER)),
            Type::U32,
        )?;
        Ok(Some(Op::Barrier(Box::new(BarrierOp {
            id,
            count: None,
            kind: BarrierKind::Sync,
        }))))
    }

    fn barrier(&mut self, opcode: &Opcode<'_>, operands: &[Operand]) -> Answer {
        opcode.ignore(&["cta", "aligned"]);
        if opcode.has("red") {
            return self.barrier_reduce(opcode, operands);
        }
        let kind = match opcode.one_of(&["sync", "arrive"]) {
            Some("arrive") => BarrierKind::Arrive,
            Some(_) => BarrierKind::Sync,
            None => return Err(".sync, .arrive or .red is expected".to_owned()),
        };
        let (id, count) = match operands {
            [id] => (id, None),
            [id, count] => (id, Some(self.source(count, Type::U32)?)),
            _ => return Err("1 or 2 operands are expected".to_owned()),
        };
        if matches!(kind, BarrierKind::Arrive) && count.is_none() {
            return Err("bar.arrive needs a number of threads".to_owned());
        }
        let id = self.source(id, Type::U32)?;
        Ok(Some(Op::Barrier(Box::new(BarrierOp { id, count, kind }))))
    }

    fn barrier_reduce(&mut self, opcode: &Opcode<'_>, operands: &[Operand]) -> Answer {
        let name = opcode
            .one_of(&["popc", "and", "or"])
            .ok_or("an operation is expected")?;
        opcode.ignore(&["u32", "pred"]);
        let (d, id, count, p) = match operands {
            [d, id, p] => (d, id, None, p),
            [d, id, count, p] => (d, id, Some(self.source(count, Type::U32)?), p),
            _ => return Err("3 or 4 operands are expected".to_owned()),
        };
        let (p, negated) = self.predicate_source(p)?;
        let kind = if name == "popc" {
            BarrierKind::Popc {
                d: self.target(d)?,
                p,
                negated,
            }
        } else {
            BarrierKind::Vote {
                d: self.predicate_target(d)?,
                p,
                negated,
                all: name == "and",
            }
        };
        let id = self.source(id, Type::U32)?;
        Ok(Some(Op::Barrier(Box::new(BarrierOp { id, count, kind }))))
    }

    /// `cp.async.mbarrier.arrive[.noinc].shared.b64 [address]`.
    pub(super) fn mbarrier_of_copies(
        &mut self,
        opcode: &Opcode<'_>,
        operands: &[Operand],
    ) -> Answer {
        opcode.ignore(&["mbarrier", "arrive", "b64"]);
        let noinc = opcode.has("noinc");
        let [address] = exactly(operands)?;
        let (space, address) = self.place(opcode, address)?;
        let kind = MbarrierKind::ArriveCopies { noinc };
        Ok(Some(Op::Mbarrier(Box::new(Mbarrier {
            space,
            address,
            kind,
        }))))
    }

    fn mbarrier(&mut self, opcode: &Opcode<'_>, operands: &[Operand]) -> Answer {
        opcode.ignore(&["b64", "cta", "cluster", "release", "acquire", "relaxed"]);
        let name = [
            "init",
            "inval",
            "arrive_drop",
            "arrive",
            "expect_tx",
            "complete_tx",
            "test_wait",
            "try_wait",
            "pending_count",
        ];
        // `arrive.expect_tx` has both.
        let name = opcode.one_of(&name).ok_or("an operation is expected")?;
        let u32 = Type::U32;
        let (address, kind) = match (name, operands) {
            ("init", [address, count]) => (address, MbarrierKind::Init(self.source(count, u32)?)),
            ("inval", [address]) => (address, MbarrierKind::Invalidate),
            ("arrive", [state, address, rest @ ..]) => {
                let sink = matches!(state, Operand::Name(name) if name == "_");
                let state = if sink {
                    None
                } else {
                    Some(self.target(state)?)
                };
                (address, self.arrival(opcode, state, rest)?)
            }
            ("arrive", [address @ Operand::Memory { .. }]) => {
                (address, self.arrival(opcode, None, &[])?)
            }
            ("expect_tx", [address, bytes]) => {
                (address, MbarrierKind::Expect(self.source(bytes, u32)?))
            }
            ("test_wait" | "try_wait", [d, address, state, ..]) => {
                let d = self.predicate_target(d)?;
                let kind = if opcode.has("parity") {
                    MbarrierKind::TestParity {
                        d,
                        parity: self.source(state, u32)?,
                    }
                } else {
                    MbarrierKind::Test {
                        d,
                        state: self.source(state, Type::B64)?,
                    }
                };
                (address, kind)
            }
            ("pending_count", [d, state]) => {
                let (d, state): (Slot<u32>, Slot<u64>) =
                    (self.target(d)?, self.source(state, Type::B64)?);
                return lanes(map1(d, state, |state: u64| state as u32));
            }
            _ => return Err("this form is not implemented".to_owned()),
        };
        let (space, address) = self.place(opcode, address)?;
        Ok(Some(Op::Mbarrier(Box::new(Mbarrier {
            space,
            address,
            kind,
        }))))
    }

    fn arrival(
        &mut self,
        opcode: &Opcode<'_>,
        state: Option<Slot<u64>>,
        rest: &[Operand],
    ) -> Result<MbarrierKind, String> {
        let expecting = opcode.has("expect_tx");
        opcode.ignore(&["noComplete"]);
        let number = match rest {
            [] => None,
            [number] => Some(self.source(number, Type::U32)?),
            _ => return Err("too many operands".to_owned()),
        };
        let (count, expect) = if expecting {
            (None, number)
        } else {
            (number, None)
        };
        Ok(MbarrierKind::Arrive {
            state,
            count,
            expect,
        })
    }
}
