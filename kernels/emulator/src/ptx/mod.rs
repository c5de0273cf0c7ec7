//! PTX text to a syntax tree.
//!
//! `lexer` cuts the text into tokens, `parser` reads directives and functions, `variables` what is declared, `body` the statements of a function;
//! `syntax` is the tree. What an instruction means is the business of `vm`: any opcode parses.

mod body;
mod lexer;
mod parser;
mod syntax;
mod variables;

pub use syntax::{
    Function, Guard, Instruction, Module, Number, Operand, Parameter, Registers, Space, Statement,
    Type, Variable,
};

/// Text that is not PTX.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("PTX line {line}: {problem}: `{text}`")]
pub struct PtxError {
    /// Line, counted from 1.
    pub line: usize,
    /// The line itself, cut to 120 characters.
    pub text: String,
    /// What was expected.
    pub problem: String,
}

impl Module {
    /// Reads a whole module. Debug sections are skipped.
    ///
    /// # Errors
    /// With the line at the first text that no module may hold there.
    pub fn parse(text: &str) -> Result<Self, PtxError> {
        let tokens =
            lexer::tokens(text).map_err(|(line, problem)| error_at(text, line, problem))?;
        parser::module(&tokens).map_err(|(line, problem)| error_at(text, line, problem))
    }
}

fn error_at(text: &str, line: usize, problem: String) -> PtxError {
    let found = text
        .lines()
        .nth(line.saturating_sub(1))
        .unwrap_or_default()
        .trim();
    PtxError {
        line,
        text: found.chars().take(120).collect(),
        problem,
    }
}

/// Line and words of an error, before the text of the line is known.
type Flaw = (usize, String);

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic, clippy::type_complexity)]
mod tests;
