//! Directives of module scope: targets, variables, the heads of functions.

use super::lexer::{Kind, Token};
use super::variables::{array, kind_and_align, size, variables};
use super::{Flaw, Function, Module, Number, Parameter, Space, body};

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
