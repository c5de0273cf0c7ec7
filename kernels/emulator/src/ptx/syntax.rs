//! The tree of a PTX module.

/// A module: what one `.ptx` file holds.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Module {
    /// `.version`, for example `(8, 8)`.
    pub version: (u32, u32),
    /// First word of `.target`, for example `sm_120a`.
    pub target: String,
    /// `.address_size` in bits.
    pub address_bits: u32,
    /// Variables of module scope (`.global`, `.const`, `.shared`).
    pub variables: Vec<Variable>,
    /// Entries and functions in order; declarations without a body are left out.
    pub functions: Vec<Function>,
}

/// An `.entry` or a `.func`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Function {
    /// Name as spelt.
    pub name: String,
    /// Whether the host can launch it.
    pub entry: bool,
    /// Return parameters of a `.func`.
    pub returns: Vec<Parameter>,
    /// Parameters.
    pub parameters: Vec<Parameter>,
    /// `.maxntid`: most threads per dimension.
    pub maxntid: Option<[u32; 3]>,
    /// `.reqntid`: exact threads per dimension.
    pub reqntid: Option<[u32; 3]>,
    /// `.minnctapersm`.
    pub minnctapersm: Option<u32>,
    /// `.maxnreg`.
    pub maxnreg: Option<u32>,
    /// The statements.
    pub body: Vec<Statement>,
    /// Line of the name.
    pub line: usize,
}

/// A parameter: in `.param` space, or a register where a `.func` takes one.
#[derive(Debug, Clone, PartialEq)]
pub struct Parameter {
    /// Name as spelt.
    pub name: String,
    /// Element type.
    pub kind: Type,
    /// Bytes in all.
    pub bytes: usize,
    /// Alignment in bytes.
    pub align: usize,
    /// Whether it is a `.reg`.
    pub register: bool,
}

/// State spaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Space {
    /// `.global`.
    Global,
    /// `.const`.
    Const,
    /// `.shared`.
    Shared,
    /// `.local`.
    Local,
    /// `.param`.
    Param,
    /// No space named: the address says it.
    Generic,
}

/// A variable in memory.
#[derive(Debug, Clone, PartialEq)]
pub struct Variable {
    /// Name as spelt.
    pub name: String,
    /// Where it lives.
    pub space: Space,
    /// Element type.
    pub kind: Type,
    /// Bytes in all; 0 for `extern .shared x[]`.
    pub bytes: usize,
    /// Alignment in bytes.
    pub align: usize,
    /// Initial bytes; shorter than `bytes` where the rest is zero.
    pub initial: Vec<u8>,
    /// Addresses of other variables to be put at byte offsets of `initial`.
    pub references: Vec<(usize, String)>,
    /// `.extern`: its size is given at launch or by another module.
    pub external: bool,
}

/// Fundamental types, as far as registers and arithmetic know them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum Type {
    Pred,
    B8,
    B16,
    B32,
    B64,
    B128,
    U8,
    U16,
    U32,
    U64,
    S8,
    S16,
    S32,
    S64,
    F16,
    F16x2,
    Bf16,
    Bf16x2,
    F32,
    F32x2,
    F64,
    U16x2,
    S16x2,
}

impl Type {
    /// From its spelling without the dot.
    #[must_use]
    pub fn named(text: &str) -> Option<Self> {
        Some(match text {
            "pred" => Self::Pred,
            "b8" => Self::B8,
            "b16" => Self::B16,
            "b32" => Self::B32,
            "b64" => Self::B64,
            "b128" => Self::B128,
            "u8" => Self::U8,
            "u16" => Self::U16,
            "u32" => Self::U32,
            "u64" => Self::U64,
            "s8" => Self::S8,
            "s16" => Self::S16,
            "s32" => Self::S32,
            "s64" => Self::S64,
            "f16" => Self::F16,
            "f16x2" => Self::F16x2,
            "bf16" => Self::Bf16,
            "bf16x2" => Self::Bf16x2,
            "f32" => Self::F32,
            "f32x2" => Self::F32x2,
            "f64" => Self::F64,
            "u16x2" => Self::U16x2,
            "s16x2" => Self::S16x2,
            _ => return None,
        })
    }

    /// Width in bytes; a predicate counts as one.
    #[must_use]
    pub const fn bytes(self) -> usize {
        match self {
            Self::Pred | Self::B8 | Self::U8 | Self::S8 => 1,
            Self::B16 | Self::U16 | Self::S16 | Self::F16 | Self::Bf16 => 2,
            Self::B64 | Self::U64 | Self::S64 | Self::F64 | Self::F32x2 => 8,
            Self::B128 => 16,
            _ => 4,
        }
    }

    /// Whether it is a two's complement integer.
    #[must_use]
    pub const fn signed(self) -> bool {
        matches!(self, Self::S8 | Self::S16 | Self::S32 | Self::S64)
    }
}

/// `.reg .b32 %r<8>` or a list of names.
#[derive(Debug, Clone, PartialEq)]
pub struct Registers {
    /// Type of each.
    pub kind: Type,
    /// Names; with a count `n`, `name0` to `name(n-1)`.
    pub names: Vec<(String, Option<u32>)>,
}

/// What a function's body is made of.
#[derive(Debug, Clone, PartialEq)]
pub enum Statement {
    /// `name:`.
    Label(String),
    /// An instruction.
    Instruction(Instruction),
    /// `.reg`.
    Registers(Registers),
    /// `.shared`, `.local`, `.param` inside of the body.
    Variable(Variable),
    /// `{`: names declared from here on end with `}`.
    Open,
    /// `}`.
    Close,
    /// `name: .branchtargets a, b;`.
    Targets(String, Vec<String>),
}

/// `@p` or `@!p`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Guard {
    /// Predicate register.
    pub name: String,
    /// Whether it runs where the predicate is false.
    pub negated: bool,
}

/// One instruction.
#[derive(Debug, Clone, PartialEq)]
pub struct Instruction {
    /// Line in the text, counted from 1.
    pub line: usize,
    /// Guard.
    pub guard: Option<Guard>,
    /// Opcode with all modifiers, as spelt.
    pub opcode: String,
    /// Operands in order.
    pub operands: Vec<Operand>,
}

/// A literal.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Number {
    /// An integer.
    Integer(i128),
    /// Bits of an `f32`.
    Float(u32),
    /// Bits of an `f64`.
    Double(u64),
}

/// An operand.
#[derive(Debug, Clone, PartialEq)]
pub enum Operand {
    /// Register, variable, label or function.
    Name(String),
    /// `name+8`, a variable's address and an offset.
    Sum(String, i64),
    /// `!p`.
    Not(String),
    /// `-r`, as some writers of assembly spell it.
    Literal(Number),
    /// `p|q`.
    Pair(Box<Operand>, Box<Operand>),
    /// `{a, b}`.
    Vector(Vec<Operand>),
    /// `(a, b)` of a call.
    List(Vec<Operand>),
    /// `[base+offset]`; the base is empty for an absolute address.
    Memory {
        /// Register or variable.
        base: String,
        /// Bytes.
        offset: i64,
    },
    /// `[a, {x, y}]` and other forms of tensor copies, taken apart.
    Bracket(Vec<Operand>),
}

impl std::fmt::Display for Instruction {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if let Some(guard) = &self.guard {
            write!(
                f,
                "@{}{} ",
                if guard.negated { "!" } else { "" },
                guard.name
            )?;
        }
        f.write_str(&self.opcode)?;
        for (index, operand) in self.operands.iter().enumerate() {
            write!(f, "{} {operand}", if index == 0 { "" } else { "," })?;
        }
        f.write_str(";")
    }
}

impl std::fmt::Display for Operand {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let list = |f: &mut std::fmt::Formatter<'_>, items: &[Operand], ends: [&str; 2]| {
            let items: Vec<String> = items.iter().map(ToString::to_string).collect();
            write!(f, "{}{}{}", ends[0], items.join(", "), ends[1])
        };
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Sum(name, offset) => write!(f, "{name}+{offset}"),
            Self::Not(name) => write!(f, "!{name}"),
            Self::Literal(Number::Integer(value)) => write!(f, "{value}"),
            Self::Literal(Number::Float(bits)) => write!(f, "0f{bits:08X}"),
            Self::Literal(Number::Double(bits)) => write!(f, "0d{bits:016X}"),
            Self::Pair(first, second) => write!(f, "{first}|{second}"),
            Self::Vector(items) => list(f, items, ["{", "}"]),
            Self::List(items) => list(f, items, ["(", ")"]),
            Self::Memory { base, offset: 0 } => write!(f, "[{base}]"),
            Self::Memory { base, offset } => write!(f, "[{base}+{offset}]"),
            Self::Bracket(items) => list(f, items, ["[", "]"]),
        }
    }
}
