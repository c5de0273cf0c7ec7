//! Directives of module scope: targets, variables, the heads of functions.

use super::lexer::{Kind, Token};
use super::{Flaw, Function, Module, Number, Parameter, Space, Type, Variable, body};

/// A place in the tokens.
pub(super) struct Cursor<'t> {
    tokens: &'t [Token<'t>],
    at: usize,
}

impl<'t> Cursor<'t> {
    pub fn peek(&self) -> Option<Kind<'t>> {
        self.tokens.get(self.at).map(|token| token.kind)
    }

    pub fn peek_second(&self) -> Option<Kind<'t>> {
        self.tokens.get(self.at + 1).map(|token| token.kind)
    }

    pub fn next(&mut self) -> Option<Kind<'t>> {
        let kind = self.peek();
        self.at += 1;
        kind
    }

    pub fn line(&self) -> usize {
        let last = self.tokens.len().saturating_sub(1);
        self.tokens
            .get(self.at.min(last))
            .map_or(1, |token| token.line)
    }

    pub fn flaw<T>(&self, problem: &str) -> Result<T, Flaw> {
        Err((self.line(), problem.to_owned()))
    }

    pub fn take(&mut self, mark: u8) -> bool {
        let found = self.peek() == Some(Kind::Mark(mark));
        self.at += usize::from(found);
        found
    }

    pub fn take_word(&mut self, word: &str) -> bool {
        let found = self.peek() == Some(Kind::Word(word));
        self.at += usize::from(found);
        found
    }

    pub fn expect(&mut self, mark: u8) -> Result<(), Flaw> {
        if self.take(mark) {
            Ok(())
        } else {
            self.flaw(&format!("`{}` is expected", char::from(mark)))
        }
    }

    pub fn word(&mut self) -> Result<&'t str, Flaw> {
        match self.peek() {
            Some(Kind::Word(word)) => {
                self.at += 1;
                Ok(word)
            }
            _ => self.flaw("a name is expected"),
        }
    }

    /// A literal with its sign.
    pub fn number(&mut self) -> Result<Number, Flaw> {
        let negative = self.take(b'-');
        let value = match self.peek() {
            Some(Kind::Integer(value)) => Number::Integer(if negative { -value } else { value }),
            Some(Kind::Float(bits)) => Number::Float(bits ^ (u32::from(negative) << 31)),
            Some(Kind::Double(bits)) => Number::Double(bits ^ (u64::from(negative) << 63)),
            _ => return self.flaw("a number is expected"),
        };
        self.at += 1;
        Ok(value)
    }

    pub fn integer<T: TryFrom<i128>>(&mut self) -> Result<T, Flaw> {
        let line = self.line();
        let Number::Integer(value) = self.number()? else {
            return self.flaw("an integer is expected");
        };
        T::try_from(value).map_err(|_| (line, "an integer out of its range".to_owned()))
    }

    /// Skips to the end of the line, for directives of debuggers.
    fn skip_line(&mut self) {
        let line = self.line();
        while self.at < self.tokens.len() && self.line() == line {
            self.at += 1;
        }
    }

    fn skip_block(&mut self) {
        let mut depth = 0usize;
        while let Some(kind) = self.next() {
            match kind {
                Kind::Mark(b'{') => depth += 1,
                Kind::Mark(b'}') => {
                    depth = depth.saturating_sub(1);
                    if depth == 0 {
                        return;
                    }
                }
                _ => {}
            }
        }
    }

    /// Skips a directive that carries nothing for execution; says whether there was one.
    pub fn skip_note(&mut self) -> bool {
        match self.peek() {
            Some(Kind::Word(".file" | ".loc" | ".pragma" | ".alias")) => self.skip_line(),
            Some(Kind::Word(".section")) => self.skip_block(),
            _ => return false,
        }
        true
    }
}

/// Reads a whole module.
pub(super) fn module(tokens: &[Token<'_>]) -> Result<Module, Flaw> {
    let mut cursor = Cursor { tokens, at: 0 };
    let mut module = Module {
        address_bits: 64,
        ..Module::default()
    };
    while let Some(kind) = cursor.peek() {
        let Kind::Word(word) = kind else {
            return cursor.flaw("a directive is expected");
        };
        if cursor.skip_note() {
            continue;
        }
        match word {
            ".version" => module.version = version(&mut cursor)?,
            ".target" => {
                cursor.at += 1;
                module.target = cursor.word()?.to_owned();
                while cursor.take(b',') {
                    cursor.word()?;
                }
            }
            ".address_size" => {
                cursor.at += 1;
                module.address_bits = cursor.integer()?;
            }
            _ => linked(&mut cursor, &mut module)?,
        }
    }
    if module.target.is_empty() {
        cursor.flaw("no .target")
    } else {
        Ok(module)
    }
}

/// `8.8` came through the lexer as a double; its shortest decimal form has the two numbers back.
fn version(cursor: &mut Cursor<'_>) -> Result<(u32, u32), Flaw> {
    cursor.at += 1;
    let Number::Double(bits) = cursor.number()? else {
        return cursor.flaw("a version is expected");
    };
    let text = format!("{:?}", f64::from_bits(bits));
    let parts = text
        .split_once('.')
        .and_then(|(major, minor)| Some((major.parse().ok()?, minor.parse().ok()?)));
    parts.map_or_else(|| cursor.flaw("a version is expected"), Ok)
}

/// A variable or a function, after its linkage.
fn linked(cursor: &mut Cursor<'_>, module: &mut Module) -> Result<(), Flaw> {
    let mut external = false;
    while let Some(Kind::Word(word @ (".visible" | ".extern" | ".weak" | ".common"))) =
        cursor.peek()
    {
        external |= word == ".extern";
        cursor.at += 1;
    }
    match cursor.peek() {
        Some(Kind::Word(".entry" | ".func")) => {
            if let Some(function) = function(cursor)? {
                module.functions.push(function);
            }
        }
        Some(Kind::Word(word)) if space(word).is_some() => {
            variables(cursor, external, &mut module.variables)?
        }
        _ => return cursor.flaw("no directive of a module"),
    }
    Ok(())
}

/// The state space of a directive.
pub(super) fn space(word: &str) -> Option<Space> {
    Some(match word {
        ".global" => Space::Global,
        ".const" => Space::Const,
        ".shared" => Space::Shared,
        ".local" => Space::Local,
        ".param" => Space::Param,
        _ => return None,
    })
}

/// A head and its body; nothing for a declaration.
fn function(cursor: &mut Cursor<'_>) -> Result<Option<Function>, Flaw> {
    let entry = cursor.word()? == ".entry";
    let mut function = Function {
        entry,
        ..Function::default()
    };
    cursor.take_word(".noreturn");
    if cursor.peek() == Some(Kind::Mark(b'(')) {
        function.returns = parameters(cursor)?;
    }
    function.line = cursor.line();
    cursor.word()?.clone_into(&mut function.name);
    if cursor.peek() == Some(Kind::Mark(b'(')) {
        function.parameters = parameters(cursor)?;
    }
    loop {
        if cursor.skip_note() {
            continue;
        }
        match cursor.peek() {
            Some(Kind::Mark(b';')) => {
                cursor.at += 1;
                return Ok(None);
            }
            Some(Kind::Mark(b'{')) => break,
            Some(Kind::Word(word)) => {
                cursor.at += 1;
                tuning(cursor, word, &mut function)?;
            }
            _ => return cursor.flaw("`{` or `;` is expected"),
        }
    }
    function.body = body::statements(cursor)?;
    Ok(Some(function))
}

/// Directives between a head and its body.
fn tuning(cursor: &mut Cursor<'_>, word: &str, function: &mut Function) -> Result<(), Flaw> {
    match word {
        ".maxntid" => function.maxntid = Some(dimensions(cursor)?),
        ".reqntid" => function.reqntid = Some(dimensions(cursor)?),
        ".minnctapersm" => function.minnctapersm = Some(cursor.integer()?),
        ".maxnreg" => function.maxnreg = Some(cursor.integer()?),
        _ => {
            while matches!(cursor.peek(), Some(Kind::Integer(_) | Kind::Mark(b','))) {
                cursor.at += 1;
            }
        }
    }
    Ok(())
}

fn dimensions(cursor: &mut Cursor<'_>) -> Result<[u32; 3], Flaw> {
    let mut out = [cursor.integer()?, 1, 1];
    for size in &mut out[1..] {
        if !cursor.take(b',') {
            break;
        }
        *size = cursor.integer()?;
    }
    Ok(out)
}

fn parameters(cursor: &mut Cursor<'_>) -> Result<Vec<Parameter>, Flaw> {
    cursor.expect(b'(')?;
    let mut out = Vec::new();
    while !cursor.take(b')') {
        if !out.is_empty() {
            cursor.expect(b',')?;
        }
        let register = match cursor.word()? {
            ".param" => false,
            ".reg" => true,
            _ => return cursor.flaw("`.param` is expected"),
        };
        let (kind, align) = kind_and_align(cursor)?;
        let name = cursor.word()?.to_owned();
        let count = array(cursor)?.unwrap_or(1);
        let bytes = size(cursor, kind, count)?;
        out.push(Parameter {
            name,
            kind,
            bytes,
            align,
            register,
        });
    }
    Ok(out)
}

/// `.align 16 .b8`, `.u64 .ptr .global .align 1` and the like.
pub(super) fn kind_and_align(cursor: &mut Cursor<'_>) -> Result<(Type, usize), Flaw> {
    let (mut kind, mut align, mut lanes, mut pointer) = (None, 0, 1, false);
    while let Some(Kind::Word(word)) = cursor.peek() {
        let Some(directive) = word.strip_prefix('.') else {
            break;
        };
        match directive {
            "align" => {
                cursor.at += 1;
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
        cursor.at += 1;
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
fn array(cursor: &mut Cursor<'_>) -> Result<Option<usize>, Flaw> {
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
fn size(cursor: &Cursor<'_>, kind: Type, count: usize) -> Result<usize, Flaw> {
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
