//! Types, sizes and first values of what is declared.

use super::lexer::Kind;
use super::parser::{Cursor, space};
use super::{Flaw, Number, Type, Variable};

/// `.align 16 .b8`, `.u64 .ptr .global .align 1` and the like.
pub(super) fn kind_and_align(cursor: &mut Cursor<'_>) -> Result<(Type, usize), Flaw> {
    let (mut kind, mut align, mut lanes, mut pointer) = (None, 0, 1, false);
    while let Some(Kind::Word(word)) = cursor.peek() {
        let Some(directive) = word.strip_prefix('.') else {
            break;
        };
        match directive {
            "align" => {
                cursor.next();
                let value = cursor.integer()?;
                // The alignment of what a pointer points to is not the parameter's own.
                align = if pointer { align } else { value };
                continue;
            }
            "ptr" => pointer = true,
            "v2" => lanes = 2,
            "v4" => lanes = 4,
            "global" | "shared" | "const" | "local" | "param" | "attribute" | "managed" => {}
            _ => match Type::named(directive) {
                Some(found) => kind = Some(found),
                None => return cursor.flaw("no type"),
            },
        }
        cursor.next();
    }
    let Some(kind) = kind else {
        return cursor.flaw("a type is expected");
    };
    Ok((
        kind,
        if align == 0 {
            kind.bytes() * lanes
        } else {
            align
        },
    ))
}

/// `[4][2]` as a count, `[]` as 0.
pub(super) fn array(cursor: &mut Cursor<'_>) -> Result<Option<usize>, Flaw> {
    let mut count = None;
    while cursor.take(b'[') {
        let length: usize = if cursor.peek() == Some(Kind::Mark(b']')) {
            0
        } else {
            cursor.integer()?
        };
        cursor.expect(b']')?;
        match length.checked_mul(count.unwrap_or(1)) {
            Some(product) => count = Some(product),
            None => return cursor.flaw("an array too large"),
        }
    }
    Ok(count)
}

/// More than 2^32 bytes are no variable of a kernel but a slip.
pub(super) fn size(cursor: &Cursor<'_>, kind: Type, count: usize) -> Result<usize, Flaw> {
    match kind.bytes().checked_mul(count) {
        Some(bytes) if u32::try_from(bytes).is_ok() => Ok(bytes),
        _ => cursor.flaw("an array too large"),
    }
}

/// One declaration of one or more variables, with its `;`.
pub(super) fn variables(
    cursor: &mut Cursor<'_>,
    external: bool,
    out: &mut Vec<Variable>,
) -> Result<(), Flaw> {
    let Some(space) = space(cursor.word()?) else {
        return cursor.flaw("a state space is expected");
    };
    let (kind, align) = kind_and_align(cursor)?;
    loop {
        let name = cursor.word()?.to_owned();
        let count = array(cursor)?;
        let mut variable = Variable {
            name,
            space,
            kind,
            bytes: 0,
            align,
            initial: Vec::new(),
            references: Vec::new(),
            external,
        };
        if cursor.take(b'=') {
            initial(cursor, &mut variable)?;
        }
        let declared = size(cursor, kind, count.unwrap_or(1))?;
        variable.bytes = declared.max(variable.initial.len());
        out.push(variable);
        if !cursor.take(b',') {
            return cursor.expect(b';');
        }
    }
}

fn initial(cursor: &mut Cursor<'_>, variable: &mut Variable) -> Result<(), Flaw> {
    if cursor.take(b'{') {
        while !cursor.take(b'}') {
            cursor.take(b',');
            if cursor.peek() == Some(Kind::Mark(b'}')) {
                continue;
            }
            initial(cursor, variable)?;
        }
        return Ok(());
    }
    let width = variable.kind.bytes();
    if let Some(Kind::Word(_)) = cursor.peek() {
        let mut name = cursor.word()?;
        if name == "generic" && cursor.take(b'(') {
            name = cursor.word()?;
            cursor.expect(b')')?;
        }
        let mut addend = 0i64;
        if cursor.take(b'+') {
            addend = cursor.integer()?;
        }
        variable
            .references
            .push((variable.initial.len(), name.to_owned()));
        variable
            .initial
            .extend_from_slice(&addend.to_le_bytes()[..width.min(8)]);
        return Ok(());
    }
    let bits = match (cursor.number()?, variable.kind) {
        (Number::Integer(value), Type::F32) => u128::from((value as f32).to_bits()),
        (Number::Integer(value), Type::F64) => u128::from((value as f64).to_bits()),
        (Number::Integer(value), _) => value as u128,
        (Number::Float(bits), _) => u128::from(bits),
        (Number::Double(bits), Type::F32) => u128::from((f64::from_bits(bits) as f32).to_bits()),
        (Number::Double(bits), _) => u128::from(bits),
    };
    variable
        .initial
        .extend_from_slice(&bits.to_le_bytes()[..width]);
    Ok(())
}
