//! Branches, calls and returns.

use super::opcode::Opcode;
use super::{Decoder, Jump, Refusal};
use crate::ptx::{Instruction, Operand, Type};
use crate::vm::code::Op;
use crate::vm::registers::Predicate;

impl Decoder<'_> {
    /// Decodes what changes the order of steps; says whether it did.
    pub(super) fn control(
        &mut self,
        opcode: &Opcode<'_>,
        instruction: &Instruction,
        guard: Option<(Predicate, bool)>,
    ) -> Result<bool, String> {
        let operands = &instruction.operands;
        match opcode.base {
            "bra" => {
                opcode.ignore(&["uni"]);
                let [Operand::Name(label)] = &operands[..] else {
                    return Err("a label is expected".to_owned());
                };
                self.jump(vec![label.clone()]);
                self.push(Op::Branch(0), guard);
            }
            "brx" => {
                opcode.ignore(&["uni", "idx"]);
                let [index, Operand::Name(table)] = &operands[..] else {
                    return Err("an index and a list of labels are expected".to_owned());
                };
                let index = self.source(index, Type::U32)?;
                let scopes = self.scopes.scopes_outward();
                let found = scopes
                    .iter()
                    .find_map(|scope| self.tables.get(&(*scope, table.clone())));
                let labels = found
                    .ok_or_else(|| format!("{table} is not declared"))?
                    .clone();
                self.jump(labels);
                self.push(
                    Op::BranchIndexed {
                        index,
                        targets: Vec::new(),
                    },
                    guard,
                );
            }
            "ret" => {
                opcode.ignore(&["uni"]);
                let step = self.code.steps.len();
                let inlined = self.calls.len() > 1;
                if let Some((_, returns)) = self.calls.last_mut().filter(|_| inlined) {
                    returns.push(step);
                }
                self.push(Op::Exit, guard);
            }
            "exit" => self.push(Op::Exit, guard),
            "trap" => self.push(Op::Trap("trap"), guard),
            "brkpt" => self.push(Op::Trap("brkpt"), guard),
            "call" => {
                opcode.ignore(&["uni"]);
                self.call(operands, guard)?;
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn jump(&mut self, labels: Vec<String>) {
        let (step, scope) = (self.code.steps.len(), self.scopes.current());
        self.jumps.push(Jump {
            step,
            scope,
            labels,
        });
    }

    /// Puts the body of the callee here. Its parameters are the caller's own places in local memory.
    fn call(
        &mut self,
        operands: &[Operand],
        guard: Option<(Predicate, bool)>,
    ) -> Result<(), String> {
        let (results, name, arguments): (&[Operand], _, &[Operand]) = match operands {
            [
                Operand::List(results),
                Operand::Name(name),
                Operand::List(arguments),
            ] => (results, name, arguments),
            [Operand::Name(name), Operand::List(arguments)] => (&[], name, arguments),
            [Operand::List(results), Operand::Name(name)] => (results, name, &[]),
            [Operand::Name(name)] => (&[], name, &[]),
            _ => return Err("an indirect call is not implemented".to_owned()),
        };
        match name.as_str() {
            "__assertfail" => {
                self.push(Op::Trap("an assertion of the kernel failed"), guard);
                return Ok(());
            }
            // What a kernel prints has no place to go to.
            "vprintf" => return Ok(()),
            _ => {}
        }
        let image = self.image;
        let index = image
            .module
            .functions
            .iter()
            .position(|function| function.name == *name);
        let index = index.ok_or_else(|| format!("function {name} has no body in this module"))?;
        let function = &image.module.functions[index];
        if results.len() != function.returns.len() || arguments.len() != function.parameters.len() {
            return Err(format!("{name} takes another number of parameters"));
        }
        let skip = guard.map(|(predicate, negated)| {
            self.push(Op::Branch(0), Some((predicate, !negated)));
            self.code.steps.len() - 1
        });
        let formal = function.returns.iter().chain(&function.parameters);
        let mut places = Vec::new();
        for (parameter, actual) in formal.zip(results.iter().chain(arguments)) {
            let symbol = match actual {
                Operand::Name(actual) => self.symbol(actual),
                _ => None,
            };
            let symbol = symbol.ok_or_else(|| format!("{actual} is not declared"))?;
            places.push((parameter.name.clone(), symbol));
        }
        let (outer, place) = (self.scopes.current(), self.place);
        self.scopes.enter_apart();
        for (name, symbol) in places {
            self.scopes.declare(&name, symbol);
        }
        self.function(index).map_err(|refusal| {
            format!(
                "in {name}, line {}: {}: `{}`",
                refusal.line, refusal.problem, refusal.text
            )
        })?;
        self.scopes.leave(outer);
        self.place = place;
        if let Some(step) = skip {
            self.code.steps[step].op = Op::Branch(self.code.steps.len() as u32);
        }
        Ok(())
    }

    /// Gives every branch its steps.
    pub(super) fn resolve(&mut self) -> Result<(), Refusal> {
        for jump in std::mem::take(&mut self.jumps) {
            let mut steps = Vec::with_capacity(jump.labels.len());
            for label in &jump.labels {
                let Some(step) = self.scopes.find_label(jump.scope, label) else {
                    self.place = self.code.origins[jump.step];
                    return Err(self.refusal(format!("label {label} is not declared")));
                };
                steps.push(step);
            }
            match &mut self.code.steps[jump.step].op {
                Op::BranchIndexed { targets, .. } => *targets = steps,
                op => *op = Op::Branch(steps[0]),
            }
        }
        Ok(())
    }
}
