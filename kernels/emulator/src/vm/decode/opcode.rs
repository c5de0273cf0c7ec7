//! An opcode's parts. Every modifier must be asked for by the one who decodes it: what is left over is not understood,
//! and an instruction that is only half understood is refused.

use std::cell::Cell;

use crate::ptx::Type;

/// `add.rn.ftz.f32` as `add` and its modifiers.
#[derive(Debug)]
pub(super) struct Opcode<'a> {
    pub base: &'a str,
    parts: Vec<&'a str>,
    used: Cell<u64>,
}

impl<'a> Opcode<'a> {
    pub fn new(text: &'a str) -> Self {
        let mut parts = text.split('.');
        let base = parts.next().unwrap_or_default();
        Self {
            base,
            parts: parts.collect(),
            used: Cell::new(0),
        }
    }

    fn mark(&self, index: usize) {
        self.used
            .set(self.used.get() | 1u64.checked_shl(index as u32).unwrap_or(0));
    }

    /// Whether a modifier is there.
    pub fn has(&self, name: &str) -> bool {
        let mut found = false;
        for (index, part) in self.parts.iter().enumerate() {
            if *part == name {
                self.mark(index);
                found = true;
            }
        }
        found
    }

    /// The first of `names` that is there.
    pub fn one_of<'n>(&self, names: &[&'n str]) -> Option<&'n str> {
        names.iter().copied().find(|name| self.has(name))
    }

    /// Modifiers that change nothing here.
    pub fn ignore(&self, names: &[&str]) {
        for name in names {
            self.has(name);
        }
    }

    /// Modifiers that begin so (`L2::128B`) and change nothing here.
    pub fn ignore_starting(&self, starts: &[&str]) {
        for (index, part) in self.parts.iter().enumerate() {
            if starts.iter().any(|start| part.starts_with(start)) {
                self.mark(index);
            }
        }
    }

    /// Whether the first modifiers are these, without marking them.
    pub fn starts(&self, names: &[&str]) -> bool {
        self.parts.starts_with(names)
    }

    /// Looks without marking.
    pub fn sees(&self, name: &str) -> bool {
        self.parts.contains(&name)
    }

    /// All types in order.
    pub fn types(&self) -> Vec<Type> {
        let mut out = Vec::new();
        for (index, part) in self.parts.iter().enumerate() {
            if let Some(kind) = Type::named(part) {
                self.mark(index);
                out.push(kind);
            }
        }
        out
    }

    /// The last type, without marking; most instructions have one.
    pub fn sees_type(&self) -> Option<Type> {
        self.parts.iter().rev().find_map(|part| Type::named(part))
    }

    /// The only type.
    pub fn kind(&self) -> Result<Type, String> {
        match self.types()[..] {
            [kind] => Ok(kind),
            _ => Err("one type is expected".to_owned()),
        }
    }

    /// The modifiers from the last `count`, marked.
    pub fn last(&self, count: usize) -> Option<&[&'a str]> {
        let start = self.parts.len().checked_sub(count)?;
        for index in start..self.parts.len() {
            self.mark(index);
        }
        self.parts.get(start..)
    }

    /// Refuses modifiers that nobody asked for.
    pub fn finish(&self) -> Result<(), String> {
        for (index, part) in self.parts.iter().enumerate() {
            let known = 1u64
                .checked_shl(index as u32)
                .is_some_and(|bit| self.used.get() & bit != 0);
            if !known {
                return Err(format!(
                    "modifier .{part} is not implemented for {}",
                    self.base
                ));
            }
        }
        Ok(())
    }
}
