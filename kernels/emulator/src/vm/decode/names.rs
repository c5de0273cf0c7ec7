//! Names and the braces that bound them.

use std::collections::HashMap;

/// What a name stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Symbol {
    /// Width in bits (1 for a predicate, 128 for two slots) and slot.
    Register { bits: u32, slot: u32 },
    /// Offset in the entry's parameters.
    Parameter(i64),
    /// Offset in local memory.
    Local(i64),
    /// Offset in shared memory.
    Shared(i64),
    /// Start of dynamic shared memory.
    Dynamic,
    /// Index of a variable of the module.
    Global(u32),
}

#[derive(Debug, Default)]
struct Scope {
    parent: Option<usize>,
    names: HashMap<String, Symbol>,
    /// `.reg .b32 %r<5>`: by the prefix.
    families: HashMap<String, (u32, Symbol)>,
    labels: HashMap<String, u32>,
}

/// All scopes of a function, the closed ones too: branches are resolved at the end.
#[derive(Debug)]
pub(super) struct Scopes {
    all: Vec<Scope>,
    current: usize,
}

impl Scopes {
    pub fn new() -> Self {
        Self {
            all: vec![Scope::default()],
            current: 0,
        }
    }

    pub fn current(&self) -> usize {
        self.current
    }

    /// Opens a scope within the current one.
    pub fn enter(&mut self) {
        self.all.push(Scope {
            parent: Some(self.current),
            ..Scope::default()
        });
        self.current = self.all.len() - 1;
    }

    /// Opens a scope that sees no other: the body of a function that is called.
    pub fn enter_apart(&mut self) {
        self.all.push(Scope::default());
        self.current = self.all.len() - 1;
    }

    pub fn leave(&mut self, to: usize) {
        self.current = to;
    }

    pub fn declare(&mut self, name: &str, symbol: Symbol) {
        self.all[self.current].names.insert(name.to_owned(), symbol);
    }

    pub fn declare_registers(&mut self, name: &str, count: Option<u32>, first: Symbol) {
        match count {
            None => self.declare(name, first),
            Some(count) => {
                self.all[self.current]
                    .families
                    .insert(name.to_owned(), (count, first));
            }
        }
    }

    pub fn label(&mut self, name: &str, step: u32) {
        self.all[self.current].labels.insert(name.to_owned(), step);
    }

    fn chain(&self, from: usize) -> impl Iterator<Item = &Scope> {
        std::iter::successors(self.all.get(from), |scope| self.all.get(scope.parent?))
    }

    pub fn find_label(&self, from: usize, name: &str) -> Option<u32> {
        self.chain(from)
            .find_map(|scope| scope.labels.get(name))
            .copied()
    }

    pub fn scopes_outward(&self) -> Vec<usize> {
        std::iter::successors(Some(self.current), |scope| self.all[*scope].parent).collect()
    }

    pub fn find(&self, name: &str) -> Option<Symbol> {
        let prefix = name.trim_end_matches(|c: char| c.is_ascii_digit());
        let number: Option<u32> = name[prefix.len()..].parse().ok();
        self.chain(self.current).find_map(|scope| {
            scope.names.get(name).copied().or_else(|| {
                let (count, first) = scope.families.get(prefix)?;
                let index = number.filter(|index| index < count)?;
                match *first {
                    Symbol::Register { bits, slot } => {
                        let slot = slot + index * if bits == 128 { 2 } else { 1 };
                        Some(Symbol::Register { bits, slot })
                    }
                    other => Some(other),
                }
            })
        })
    }
}
