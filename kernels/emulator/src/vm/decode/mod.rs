//! Decodes a function into [`Code`]: registers become slots, labels step numbers, calls the body of what is called.

mod atomic;
mod branch;
mod collective;
mod compare;
mod convert;
mod double;
mod half;
mod integer;
mod integers;
mod logic;
mod memory;
mod moves;
mod names;
mod opcode;
mod operands;
mod single;
mod synchronise;
mod tensor;

use std::collections::HashMap;

use super::code::{Code, Fill, Initial, Op, Step};
use super::program::Image;
use super::registers::{Action, Predicate};
use crate::ptx::{Function, Instruction, Statement, Variable};
use names::{Scopes, Symbol};
use opcode::Opcode;

/// Why a function could not be decoded: the line, the instruction, what is wrong.
#[derive(Debug, Clone)]
pub(super) struct Refusal {
    pub line: usize,
    pub text: String,
    pub problem: String,
}

/// What an instruction's own decoder says: an operation, or that the opcode is another's.
type Decoded = Result<Op, String>;

/// Decodes the entry `index` of the image.
pub(super) fn decode(image: &Image, index: usize) -> Result<Code, Refusal> {
    let mut decoder = Decoder {
        image,
        code: Code {
            predicates: 1,
            ..Code::default()
        },
        scopes: Scopes::new(),
        known: HashMap::new(),
        calls: Vec::new(),
        jumps: Vec::new(),
        tables: HashMap::new(),
        open: Vec::new(),
        module_shared: HashMap::new(),
        place: (0, 0),
    };
    let function = &image.module.functions[index];
    let mut offset = 0usize;
    for parameter in &function.parameters {
        offset = offset.next_multiple_of(parameter.align.max(1));
        decoder
            .scopes
            .declare(&parameter.name, Symbol::Parameter(offset as i64));
        offset += parameter.bytes;
    }
    decoder.function(index)?;
    decoder.push(Op::Exit, None);
    decoder.resolve()?;
    Ok(decoder.code)
}

struct Decoder<'i> {
    image: &'i Image,
    code: Code,
    scopes: Scopes,
    /// Registers that hold a value from the start.
    known: HashMap<(bool, Initial), u32>,
    /// Functions being inlined, from the entry on, with the fixups of their `ret`.
    calls: Vec<(usize, Vec<usize>)>,
    /// Branches whose labels are still names: step, scope, label, line.
    jumps: Vec<Jump>,
    /// `.branchtargets` by scope and name.
    tables: HashMap<(usize, String), Vec<String>>,
    /// Scopes to return to.
    open: Vec<usize>,
    /// Shared variables of the module that the entry uses.
    module_shared: HashMap<String, Symbol>,
    /// Function and statement being decoded.
    place: (u32, u32),
}

struct Jump {
    step: usize,
    scope: usize,
    labels: Vec<String>,
}

impl Decoder<'_> {
    /// The statements of a function, in a scope that is already open.
    fn function(&mut self, index: usize) -> Result<(), Refusal> {
        if self.calls.iter().any(|(caller, _)| *caller == index) {
            return Err(self.refusal("recursion is not implemented".to_owned()));
        }
        self.calls.push((index, Vec::new()));
        let image = self.image;
        let function: &Function = &image.module.functions[index];
        for (at, statement) in function.body.iter().enumerate() {
            self.place = (index as u32, at as u32);
            match statement {
                Statement::Label(name) => {
                    self.scopes.label(name, self.code.steps.len() as u32);
                }
                Statement::Registers(registers) => {
                    for (name, count) in &registers.names {
                        self.declare_registers(registers.kind, name, *count);
                    }
                }
                Statement::Variable(variable) => self.declare_variable(index, at, variable),
                Statement::Open => {
                    self.open.push(self.scopes.current());
                    self.scopes.enter();
                }
                Statement::Close => {
                    let outer = self.open.pop();
                    self.scopes.leave(outer.unwrap_or_default());
                }
                Statement::Targets(name, labels) => {
                    self.tables
                        .insert((self.scopes.current(), name.clone()), labels.clone());
                }
                Statement::Instruction(instruction) => {
                    self.instruction(instruction)
                        .map_err(|problem| self.refusal(problem))?;
                }
            }
        }
        let returns = self
            .calls
            .pop()
            .map(|(_, returns)| returns)
            .unwrap_or_default();
        let end = self.code.steps.len() as u32;
        for step in returns {
            self.code.steps[step].op = Op::Branch(end);
        }
        Ok(())
    }

    fn refusal(&self, problem: String) -> Refusal {
        let (line, text) = self.image.instruction(self.place);
        Refusal {
            line,
            text,
            problem,
        }
    }

    fn push(&mut self, op: Op, guard: Option<(Predicate, bool)>) {
        self.code.steps.push(Step { op, guard });
        self.code.origins.push(self.place);
    }

    fn declare_registers(&mut self, kind: crate::ptx::Type, name: &str, count: Option<u32>) {
        let total = count.unwrap_or(1);
        let (file, bits) = match kind {
            crate::ptx::Type::Pred => (&mut self.code.predicates, 1),
            kind if kind.bytes() == 8 => (&mut self.code.wide, 64),
            kind if kind.bytes() == 16 => (&mut self.code.wide, 128),
            kind => (&mut self.code.narrow, kind.bytes() as u32 * 8),
        };
        let first = *file;
        let slots = total.saturating_mul(if bits == 128 { 2 } else { 1 });
        *file = file.saturating_add(slots);
        self.code.declared += if bits >= 64 {
            2 * slots
        } else {
            u32::from(bits > 1) * slots
        };
        self.scopes
            .declare_registers(name, count, Symbol::Register { bits, slot: first });
    }

    fn declare_variable(&mut self, function: usize, at: usize, variable: &Variable) {
        use crate::ptx::Space;
        let symbol = match variable.space {
            Space::Shared => self.shared(variable),
            Space::Global | Space::Const => Symbol::Global(self.image.local_variable(function, at)),
            _ => Symbol::Local(self.local(variable.bytes, variable.align)),
        };
        self.scopes.declare(&variable.name, symbol);
    }

    /// Room in shared memory; one of no size is the dynamic part.
    fn shared(&mut self, variable: &Variable) -> Symbol {
        let align = variable.align.max(1) as u32;
        if variable.bytes == 0 {
            self.code.dynamic_align = self.code.dynamic_align.max(align);
            return Symbol::Dynamic;
        }
        let start = self.code.shared_bytes.next_multiple_of(align);
        self.code.shared_bytes = start.saturating_add(variable.bytes as u32);
        Symbol::Shared(i64::from(start))
    }

    /// Room in local memory.
    fn local(&mut self, bytes: usize, align: usize) -> i64 {
        let start = (self.code.local_bytes as usize).next_multiple_of(align.max(1));
        self.code.local_bytes = (start + bytes) as u32;
        start as i64
    }

    /// A register that holds `value` from the start.
    fn filled(&mut self, wide: bool, value: Initial) -> u32 {
        if let Some(slot) = self.known.get(&(wide, value)) {
            return *slot;
        }
        let file = match value {
            Initial::Predicate(_) => &mut self.code.predicates,
            _ if wide => &mut self.code.wide,
            _ => &mut self.code.narrow,
        };
        let slot = *file;
        *file += 1;
        self.code.fills.push(Fill { wide, slot, value });
        self.known.insert((wide, value), slot);
        slot
    }

    fn instruction(&mut self, instruction: &Instruction) -> Result<(), String> {
        let guard = match &instruction.guard {
            Some(guard) => Some((self.predicate_named(&guard.name)?, guard.negated)),
            None => None,
        };
        let opcode = Opcode::new(&instruction.opcode);
        if self.control(&opcode, instruction, guard)? {
            return opcode.finish();
        }
        let op = self.operation(&opcode, &instruction.operands)?;
        opcode.finish()?;
        self.push(op, guard);
        Ok(())
    }

    fn operation(&mut self, opcode: &Opcode<'_>, operands: &[crate::ptx::Operand]) -> Decoded {
        let families = [
            Self::moves,
            Self::integer,
            Self::logic,
            Self::compare,
            Self::single,
            Self::double,
            Self::half,
            Self::convert,
            Self::memory,
            Self::synchronise,
            Self::collective,
            Self::tensor,
        ];
        for family in families {
            if let Some(op) = family(self, opcode, operands)? {
                return Ok(op);
            }
        }
        Err("this instruction is not implemented".to_owned())
    }
}

/// What a family of instructions answers: nothing where the opcode is not one of its own.
type Answer = Result<Option<Op>, String>;

/// An action as an answer.
fn lanes(action: Action) -> Answer {
    Ok(Some(Op::Lanes(action)))
}

/// Exactly `N` operands.
fn exactly<const N: usize>(
    operands: &[crate::ptx::Operand],
) -> Result<&[crate::ptx::Operand; N], String> {
    operands
        .try_into()
        .map_err(|_| format!("{N} operands are expected"))
}
