//! A module made ready: its entries, its variables, and each entry's code, decoded when it is first asked for.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use super::code::Code;
use super::decode;
use crate::fault::{Cause, Fault, Location};
use crate::memory::Global;
use crate::ptx::{Instruction, Module, Space, Statement, Variable};

/// A module made ready to run.
#[derive(Debug, Clone)]
pub struct Program {
    image: Arc<Image>,
    entries: Vec<Arc<Entry>>,
}

/// A parameter's place in the bytes of all parameters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ParameterLayout {
    /// First byte.
    pub offset: usize,
    /// Bytes.
    pub size: usize,
    /// Alignment in bytes.
    pub align: usize,
}

/// What an entry needs of a card, as `cuFuncGetAttribute` tells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Needs {
    /// Shared memory that the code declares, in bytes.
    pub static_shared: u32,
    /// Local memory of a thread, in bytes.
    pub local: u32,
    /// Registers of 32 bits that the PTX declares. `ptxas` needs far fewer: no measure of occupancy.
    pub declared_registers: u32,
}

/// A kernel.
pub struct Entry {
    /// Its name.
    pub name: String,
    /// Where its parameters lie.
    pub parameters: Vec<ParameterLayout>,
    /// Bytes of all parameters.
    pub parameter_bytes: usize,
    /// `.target` of its module.
    pub target: String,
    /// `.maxntid`.
    pub maxntid: Option<[u32; 3]>,
    /// `.reqntid`.
    pub reqntid: Option<[u32; 3]>,
    /// `.minnctapersm`.
    pub minnctapersm: Option<u32>,
    /// `.maxnreg`.
    pub maxnreg: Option<u32>,
    pub(super) image: Arc<Image>,
    index: usize,
    code: OnceLock<Result<Code, Fault>>,
}

impl std::fmt::Debug for Entry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Entry({})", self.name)
    }
}

/// What all entries of a module share.
#[derive(Debug)]
pub(super) struct Image {
    pub module: Module,
    pub variables: Vec<Variable>,
    /// Variables in memory of the device, by name.
    pub names: HashMap<String, u32>,
    /// Those that functions declare, by function and statement.
    locals: HashMap<(usize, usize), u32>,
    pub addresses: OnceLock<Vec<u64>>,
}

impl Image {
    pub fn instruction(&self, (function, statement): (u32, u32)) -> (usize, String) {
        let function = self.module.functions.get(function as usize);
        match function.and_then(|function| function.body.get(statement as usize)) {
            Some(Statement::Instruction(instruction)) => {
                (instruction.line, Instruction::to_string(instruction))
            }
            _ => (function.map_or(0, |function| function.line), String::new()),
        }
    }

    /// The index of a variable that a function declares.
    pub fn local_variable(&self, function: usize, statement: usize) -> u32 {
        self.locals
            .get(&(function, statement))
            .copied()
            .unwrap_or_default()
    }
}

impl Program {
    /// Lays out a module. Nothing is decoded yet: what an entry holds that is not implemented is told by that entry.
    ///
    /// # Errors
    /// Two functions of one name.
    pub fn new(module: &Module) -> Result<Self, Fault> {
        let (mut variables, mut names, mut locals) = (Vec::new(), HashMap::new(), HashMap::new());
        let on_device =
            |variable: &Variable| matches!(variable.space, Space::Global | Space::Const);
        for variable in module
            .variables
            .iter()
            .filter(|variable| on_device(variable))
        {
            names.insert(variable.name.clone(), variables.len() as u32);
            variables.push(variable.clone());
        }
        for (function, body) in module
            .functions
            .iter()
            .map(|function| &function.body)
            .enumerate()
        {
            for (at, statement) in body.iter().enumerate() {
                if let Statement::Variable(variable) = statement
                    && on_device(variable)
                {
                    locals.insert((function, at), variables.len() as u32);
                    variables.push(variable.clone());
                }
            }
        }
        let image = Arc::new(Image {
            module: module.clone(),
            variables,
            names,
            locals,
            addresses: OnceLock::new(),
        });
        let mut entries: Vec<Arc<Entry>> = Vec::new();
        for (index, function) in module
            .functions
            .iter()
            .enumerate()
            .filter(|(_, function)| function.entry)
        {
            if entries.iter().any(|entry| entry.name == function.name) {
                return Err(
                    Cause::Instruction(format!("two entries are named {}", function.name)).into(),
                );
            }
            let mut parameter_bytes = 0usize;
            let mut parameters = Vec::with_capacity(function.parameters.len());
            for parameter in &function.parameters {
                let offset = parameter_bytes.next_multiple_of(parameter.align.max(1));
                parameter_bytes = offset + parameter.bytes;
                parameters.push(ParameterLayout {
                    offset,
                    size: parameter.bytes,
                    align: parameter.align,
                });
            }
            entries.push(Arc::new(Entry {
                name: function.name.clone(),
                parameters,
                parameter_bytes,
                target: module.target.clone(),
                maxntid: function.maxntid,
                reqntid: function.reqntid,
                minnctapersm: function.minnctapersm,
                maxnreg: function.maxnreg,
                image: Arc::clone(&image),
                index,
                code: OnceLock::new(),
            }));
        }
        Ok(Self { image, entries })
    }

    /// An entry by its name.
    #[must_use]
    pub fn entry(&self, name: &str) -> Option<&Arc<Entry>> {
        self.entries.iter().find(|entry| entry.name == name)
    }

    /// All entries.
    #[must_use]
    pub fn entries(&self) -> &[Arc<Entry>] {
        &self.entries
    }

    /// Gives the variables memory and their first values. Needed once, before a launch, where there are any.
    ///
    /// # Errors
    /// No memory left; a variable of another module.
    pub fn load(&self, memory: &Global) -> Result<(), Fault> {
        let mut addresses = Vec::new();
        for variable in &self.image.variables {
            if variable.external {
                return Err(Cause::Instruction(format!(
                    "variable {} is of another module",
                    variable.name
                ))
                .into());
            }
            let address = memory.allocate(variable.bytes.max(1) as u64);
            addresses.push(
                address.ok_or_else(|| Cause::LaunchLimit("no memory for the module".to_owned()))?,
            );
        }
        for (variable, address) in self.image.variables.iter().zip(&addresses) {
            let mut bytes = variable.initial.clone();
            bytes.resize(variable.bytes.max(1), 0);
            for (offset, name) in &variable.references {
                let index = self.image.names.get(name);
                let target = index.and_then(|index| addresses.get(*index as usize));
                let Some(target) = target else {
                    return Err(
                        Cause::Instruction(format!("variable {name} is not declared")).into(),
                    );
                };
                if let Some(place) = bytes.get_mut(*offset..offset + 8) {
                    let mut addend = [0; 8];
                    addend.copy_from_slice(place);
                    place.copy_from_slice(
                        &target
                            .wrapping_add(u64::from_le_bytes(addend))
                            .to_le_bytes(),
                    );
                }
            }
            memory.write(*address, &bytes)?;
        }
        // A second load of the same program would move what kernels point at.
        let _ = self.image.addresses.set(addresses);
        Ok(())
    }

    /// Address and bytes of a variable, once loaded.
    #[must_use]
    pub fn variable(&self, name: &str) -> Option<(u64, usize)> {
        let index = *self.image.names.get(name)? as usize;
        Some((
            *self.image.addresses.get()?.get(index)?,
            self.image.variables.get(index)?.bytes,
        ))
    }

    /// Addresses that [`Program::load`] took, for [`Global::free`] when the module is unloaded.
    #[must_use]
    pub fn addresses(&self) -> &[u64] {
        self.image.addresses.get().map_or(&[], Vec::as_slice)
    }
}

impl Entry {
    /// What it needs.
    ///
    /// # Errors
    /// An instruction that is not implemented, with its line.
    pub fn needs(&self) -> Result<Needs, Fault> {
        let code = self.code()?;
        Ok(Needs {
            static_shared: code.shared_bytes,
            local: code.local_bytes,
            declared_registers: code.declared,
        })
    }

    pub(super) fn code(&self) -> Result<&Code, Fault> {
        let decoded = self.code.get_or_init(|| {
            decode::decode(&self.image, self.index).map_err(|refusal| Fault {
                cause: Cause::Instruction(refusal.problem),
                at: Some(Box::new(Location {
                    entry: self.name.clone(),
                    line: refusal.line,
                    text: refusal.text,
                    ..Location::default()
                })),
            })
        });
        decoded.as_ref().map_err(Clone::clone)
    }
}
