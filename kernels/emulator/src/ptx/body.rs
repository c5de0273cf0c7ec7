//! Statements of a function: labels, declarations, instructions and their operands.

use super::lexer::Kind;
use super::parser::Cursor;
use super::variables::{kind_and_align, variables};
use super::{Flaw, Guard, Instruction, Operand, Registers, Statement};

/// Reads from `{` to its `}`.
pub(super) fn statements(cursor: &mut Cursor<'_>) -> Result<Vec<Statement>, Flaw> {
    cursor.expect(b'{')?;
    let mut out = Vec::new();
    let mut depth = 0usize;
    loop {
        if cursor.skip_note() || cursor.take(b';') {
            continue;
        }
        match cursor.peek() {
            Some(Kind::Mark(b'{')) => {
                cursor.next();
                depth += 1;
                out.push(Statement::Open);
            }
            Some(Kind::Mark(b'}')) => {
                cursor.next();
                if depth == 0 {
                    return Ok(out);
                }
                depth -= 1;
                out.push(Statement::Close);
            }
            Some(Kind::Mark(b'@')) => out.push(Statement::Instruction(instruction(cursor)?)),
            Some(Kind::Word(word)) => statement(cursor, word, &mut out)?,
            _ => return cursor.flaw("a statement is expected"),
        }
    }
}

fn statement(cursor: &mut Cursor<'_>, word: &str, out: &mut Vec<Statement>) -> Result<(), Flaw> {
    match word {
        ".reg" => out.push(Statement::Registers(registers(cursor)?)),
        ".shared" | ".local" | ".param" | ".global" | ".const" => {
            let mut found = Vec::new();
            variables(cursor, false, &mut found)?;
            out.extend(found.into_iter().map(Statement::Variable));
        }
        ".extern" => {
            cursor.next();
            let mut found = Vec::new();
            variables(cursor, true, &mut found)?;
            out.extend(found.into_iter().map(Statement::Variable));
        }
        ".branchtargets" | ".calltargets" | ".callprototype" => skip_statement(cursor),
        _ if cursor.peek_second() == Some(Kind::Mark(b':')) => {
            cursor.next();
            cursor.next();
            label(cursor, word, out)?;
        }
        _ => out.push(Statement::Instruction(instruction(cursor)?)),
    }
    Ok(())
}

/// A label, which for an indirect branch names the list of its targets.
fn label(cursor: &mut Cursor<'_>, name: &str, out: &mut Vec<Statement>) -> Result<(), Flaw> {
    if cursor.take_word(".branchtargets") {
        let mut targets = Vec::new();
        loop {
            targets.push(cursor.word()?.to_owned());
            if !cursor.take(b',') {
                break;
            }
        }
        cursor.expect(b';')?;
        out.push(Statement::Targets(name.to_owned(), targets));
    } else if matches!(
        cursor.peek(),
        Some(Kind::Word(".callprototype" | ".calltargets"))
    ) {
        skip_statement(cursor);
    } else {
        out.push(Statement::Label(name.to_owned()));
    }
    Ok(())
}

fn skip_statement(cursor: &mut Cursor<'_>) {
    while let Some(kind) = cursor.next() {
        if kind == Kind::Mark(b';') {
            return;
        }
    }
}

fn registers(cursor: &mut Cursor<'_>) -> Result<Registers, Flaw> {
    cursor.next();
    let (kind, _) = kind_and_align(cursor)?;
    let mut names = Vec::new();
    loop {
        let name = cursor.word()?.to_owned();
        let mut count = None;
        if cursor.take(b'<') {
            let number: u32 = cursor.integer()?;
            if number > 1 << 20 {
                return cursor.flaw("too many registers");
            }
            count = Some(number);
            cursor.expect(b'>')?;
        }
        names.push((name, count));
        if !cursor.take(b',') {
            cursor.expect(b';')?;
            return Ok(Registers { kind, names });
        }
    }
}

fn instruction(cursor: &mut Cursor<'_>) -> Result<Instruction, Flaw> {
    let mut guard = None;
    if cursor.take(b'@') {
        let negated = cursor.take(b'!');
        guard = Some(Guard {
            name: cursor.word()?.to_owned(),
            negated,
        });
    }
    let line = cursor.line();
    let opcode = cursor.word()?.to_owned();
    if opcode.starts_with('.') {
        return cursor.flaw("no instruction");
    }
    let mut operands = Vec::with_capacity(4);
    while !cursor.take(b';') {
        if !operands.is_empty() {
            cursor.expect(b',')?;
        }
        operands.push(operand(cursor, 0)?);
    }
    Ok(Instruction {
        line,
        guard,
        opcode,
        operands,
    })
}

/// Vectors hold names, brackets hold vectors: deeper nesting is no PTX.
const DEEPEST: usize = 4;

fn operand(cursor: &mut Cursor<'_>, depth: usize) -> Result<Operand, Flaw> {
    if depth > DEEPEST {
        return cursor.flaw("operands nested too deeply");
    }
    let first = match cursor.peek() {
        Some(Kind::Mark(b'!')) => {
            cursor.next();
            Operand::Not(cursor.word()?.to_owned())
        }
        Some(Kind::Mark(b'{')) => Operand::Vector(list(cursor, b'}', depth)?),
        Some(Kind::Mark(b'(')) => Operand::List(list(cursor, b')', depth)?),
        Some(Kind::Mark(b'[')) => bracket(cursor, depth)?,
        Some(Kind::Word(_)) => {
            let name = cursor.word()?.to_owned();
            match offset(cursor)? {
                Some(bytes) => Operand::Sum(name, bytes),
                None => Operand::Name(name),
            }
        }
        _ => Operand::Literal(cursor.number()?),
    };
    if cursor.take(b'|') {
        let second = operand(cursor, depth + 1)?;
        return Ok(Operand::Pair(Box::new(first), Box::new(second)));
    }
    Ok(first)
}

fn offset(cursor: &mut Cursor<'_>) -> Result<Option<i64>, Flaw> {
    if cursor.take(b'+') || cursor.peek() == Some(Kind::Mark(b'-')) {
        return cursor.integer().map(Some);
    }
    Ok(None)
}

fn list(cursor: &mut Cursor<'_>, end: u8, depth: usize) -> Result<Vec<Operand>, Flaw> {
    cursor.next();
    let mut out = Vec::new();
    while !cursor.take(end) {
        if !out.is_empty() {
            cursor.expect(b',')?;
        }
        out.push(operand(cursor, depth + 1)?);
    }
    Ok(out)
}

/// `[a]`, `[a+4]`, `[16]`, `[a, {x, y}]`.
fn bracket(cursor: &mut Cursor<'_>, depth: usize) -> Result<Operand, Flaw> {
    let mut items = list(cursor, b']', depth)?;
    let single = if items.len() == 1 { items.pop() } else { None };
    Ok(match single {
        Some(Operand::Name(base)) => Operand::Memory { base, offset: 0 },
        Some(Operand::Sum(base, offset)) => Operand::Memory { base, offset },
        Some(Operand::Literal(super::Number::Integer(value))) => match i64::try_from(value) {
            Ok(offset) => Operand::Memory {
                base: String::new(),
                offset,
            },
            Err(_) => return cursor.flaw("an address out of range"),
        },
        Some(other) => Operand::Bracket(vec![other]),
        None => Operand::Bracket(items),
    })
}
