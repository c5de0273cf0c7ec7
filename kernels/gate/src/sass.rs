//! The listing of `cuobjdump -sass`.

/// One machine instruction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Instruction {
    /// Byte address in its function.
    pub address: u64,
    /// The predicate with its sign (`P0`, `!PT`), or nothing.
    pub predicate: Option<String>,
    /// The opcode with its modifiers, as `LDGSTS.E.BYPASS.LTC128B.128`.
    pub opcode: String,
    /// Operands, as printed.
    pub operands: String,
}

impl Instruction {
    /// Whether it can execute. `ptxas` places some instructions predicated off for good (`@!PT`).
    pub fn executes(&self) -> bool {
        self.predicate.as_deref() != Some("!PT")
    }

    /// The opcode without its modifiers.
    pub fn base(&self) -> &str {
        self.opcode.split('.').next().unwrap_or_default()
    }

    /// Whether the opcode has the modifier `.word`.
    pub fn has(&self, word: &str) -> bool {
        self.opcode.split('.').skip(1).any(|m| m == word)
    }

    /// Where a direct branch goes, as a byte address.
    pub fn target(&self) -> Option<u64> {
        if self.base() != "BRA" {
            return None;
        }
        let last = self.operands.rsplit([' ', ',']).find(|w| !w.is_empty())?;
        u64::from_str_radix(last.strip_prefix("0x")?, 16).ok()
    }
}

/// The instructions of one kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Function {
    /// Its name in the binary.
    pub name: String,
    /// In the order of their addresses.
    pub instructions: Vec<Instruction>,
}

/// Reads a listing. Lines that are no instructions (encodings, headers) are passed over.
pub fn parse(listing: &str) -> Vec<Function> {
    let mut functions: Vec<Function> = Vec::new();
    for line in listing.lines() {
        let line = line.trim();
        if let Some(name) = line.strip_prefix("Function :") {
            functions.push(Function {
                name: name.trim().to_owned(),
                instructions: Vec::new(),
            });
        } else if let (Some(function), Some(instruction)) =
            (functions.last_mut(), instruction(line))
        {
            function.instructions.push(instruction);
        }
    }
    functions
}

/// `/*00b0*/  @P0 EXIT ;  /* 0x.. */`
fn instruction(line: &str) -> Option<Instruction> {
    let (address, rest) = line.strip_prefix("/*")?.split_once("*/")?;
    let address = u64::from_str_radix(address, 16).ok()?;
    let text = rest.split_once(';').map_or(rest, |(text, _)| text).trim();
    let (predicate, text) = match text.strip_prefix('@') {
        Some(guarded) => {
            let (predicate, text) = guarded.split_once(char::is_whitespace)?;
            (Some(predicate.to_owned()), text.trim_start())
        }
        None => (None, text),
    };
    let (opcode, operands) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
    if !opcode.starts_with(|c: char| c.is_ascii_uppercase()) {
        return None;
    }
    Some(Instruction {
        address,
        predicate,
        opcode: opcode.to_owned(),
        operands: operands.trim().to_owned(),
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const LISTING: &str = r#"
	code for sm_120
		Function : gate_residual_bf16
	.headerflags	@"EF_CUDA_SM120 EF_CUDA_VIRTUAL_SM(EF_CUDA_SM120)"
        /*0000*/                   LDC R1, c[0x0][0x37c] ;                               /* 0x0000df00ff017b82 */
                                                                                         /* 0x000fe20000000800 */
        /*00b0*/               @P0 EXIT ;                                                /* 0x000000000000094d */
                                                                                         /* 0x002fea0003800000 */
        /*00c0*/              @!PT LDS RZ, [RZ] ;                                        /* 0x00000000fffff984 */
        /*01f0*/               @P1 BRA P2, 0xc0 ;                                        /* 0xfffffffc00b81947 */
        /*0200*/                   BRA 0x200;                                            /* 0xfffffffc00fc7947 */
"#;

    #[test]
    fn a_listing_is_read() {
        let functions = parse(LISTING);
        assert_eq!(functions.len(), 1);
        let Function { name, instructions } = &functions[0];
        assert_eq!(name, "gate_residual_bf16");
        let told: Vec<_> = instructions
            .iter()
            .map(|i| (i.address, i.predicate.as_deref(), i.opcode.as_str()))
            .collect();
        assert_eq!(
            told,
            [
                (0, None, "LDC"),
                (0xb0, Some("P0"), "EXIT"),
                (0xc0, Some("!PT"), "LDS"),
                (0x1f0, Some("P1"), "BRA"),
                (0x200, None, "BRA"),
            ]
        );
        assert_eq!(instructions[0].operands, "R1, c[0x0][0x37c]");
        assert_eq!(instructions[3].target(), Some(0xc0));
        assert_eq!(instructions[4].target(), Some(0x200));
        assert_eq!(instructions[1].target(), None);
        assert!(!instructions[2].executes());
        assert!(instructions[1].executes());
    }

    #[test]
    fn modifiers_are_whole_words() {
        let line = "/*0010*/ LDGSTS.E.BYPASS.LTC128B.128 [R1], desc[UR4][R2.64] ;";
        let copy = instruction(line).unwrap();
        assert_eq!(copy.base(), "LDGSTS");
        assert!(copy.has("128") && !copy.has("128B") && !copy.has("LDGSTS"));
    }
}
