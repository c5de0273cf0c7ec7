//! What a stretch of machine code consists of.

use std::collections::BTreeMap;

use crate::sass::Instruction;

/// The matrix instructions that are told apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Deserialize)]
pub enum Mma {
    /// NVFP4 with block scales, m16n8k64.
    #[serde(rename = "OMMA.SF")]
    OmmaSf,
    /// FP8 with block scales, m16n8k32: full rate on every card with cc 12.
    #[serde(rename = "QMMA.SF")]
    QmmaSf,
    /// FP8 without scales: half rate on GeForce.
    #[serde(rename = "QMMA")]
    Qmma,
    /// bf16 or f16, m16n8k16.
    #[serde(rename = "HMMA")]
    Hmma,
    /// Any other.
    #[serde(rename = "other")]
    Other,
}

impl Mma {
    /// Which one an instruction is.
    pub fn of(instruction: &Instruction) -> Option<Self> {
        let scaled = instruction.has("SF");
        Some(match instruction.base() {
            "OMMA" if scaled => Self::OmmaSf,
            "QMMA" if scaled => Self::QmmaSf,
            "QMMA" => Self::Qmma,
            "HMMA" => Self::Hmma,
            "OMMA" | "IMMA" | "DMMA" | "BMMA" => Self::Other,
            _ => return None,
        })
    }

    /// The name in tables.
    pub fn word(self) -> &'static str {
        match self {
            Self::OmmaSf => "OMMA.SF",
            Self::QmmaSf => "QMMA.SF",
            Self::Qmma => "QMMA",
            Self::Hmma => "HMMA",
            Self::Other => "other",
        }
    }

    /// How deep one instruction multiplies: the k of m16n8k.
    pub fn depth(self) -> usize {
        match self {
            Self::OmmaSf => 64,
            Self::QmmaSf | Self::Qmma => 32,
            Self::Hmma | Self::Other => 16,
        }
    }
}

/// Whether it is a matrix instruction.
pub fn is_mma(instruction: &Instruction) -> bool {
    Mma::of(instruction).is_some()
}

/// Instructions by kind. Only those that can execute are counted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counts {
    /// All instructions.
    pub total: usize,
    /// Those that do nothing: `ptxas` 13.0 puts one behind most products of cc 12. They take an issue slot.
    pub nops: usize,
    /// Matrix instructions.
    pub mma: BTreeMap<Mma, usize>,
    /// `ldmatrix` that brings 512 bytes: four 8x8 matrices of 16 bits, or two 16x16 of 8.
    pub ldsm_full: usize,
    /// Any smaller `ldmatrix`.
    pub ldsm_other: usize,
    /// Loads from shared memory by bytes a lane.
    pub lds: BTreeMap<usize, usize>,
    /// Stores to shared memory by bytes a lane; `stmatrix` is not among them.
    pub sts: BTreeMap<usize, usize>,
    /// Copies from global to shared memory (`cp.async`) by bytes a lane.
    pub ldgsts: BTreeMap<usize, usize>,
    /// Other kinds of interest, by opcode.
    pub other: BTreeMap<&'static str, usize>,
}

/// Opcodes in [`Counts::other`]. `LDL` and `STL` are local memory: spills or indexed arrays.
const WATCHED: [&str; 14] = [
    "LDG", "STG", "STSM", "SHFL", "BAR", "MUFU", "F2FP", "PRMT", "I2F", "I2FP", "F2I", "LDL",
    "STL", "WARPSYNC",
];

impl Counts {
    /// Counts `instructions`.
    pub fn of(instructions: &[Instruction]) -> Self {
        let mut counts = Self::default();
        for instruction in instructions.iter().filter(|i| i.executes()) {
            counts.total += 1;
            counts.add(instruction);
        }
        counts
    }

    fn add(&mut self, instruction: &Instruction) {
        if let Some(mma) = Mma::of(instruction) {
            *self.mma.entry(mma).or_default() += 1;
            return;
        }
        let base = instruction.base();
        match base {
            "NOP" => self.nops += 1,
            "LDSM" => {
                let full = (instruction.has("4")
                    && (instruction.has("M88") || instruction.has("MT88")))
                    || (instruction.has("2") && instruction.has("MT1616"));
                *(if full {
                    &mut self.ldsm_full
                } else {
                    &mut self.ldsm_other
                }) += 1;
            }
            "LDS" => *self.lds.entry(width(instruction)).or_default() += 1,
            "STS" => *self.sts.entry(width(instruction)).or_default() += 1,
            "LDGSTS" => *self.ldgsts.entry(width(instruction)).or_default() += 1,
            _ => {
                if let Some(word) = WATCHED.iter().find(|w| **w == base) {
                    *self.other.entry(word).or_default() += 1;
                }
            }
        }
    }

    /// Matrix instructions of all kinds.
    pub fn all_mma(&self) -> usize {
        self.mma.values().sum()
    }

    /// How many there are of `opcode` (one of those watched).
    pub fn of_opcode(&self, opcode: &str) -> usize {
        self.other.get(opcode).copied().unwrap_or(0)
    }

    /// Instructions that do something for each matrix instruction, itself among them; nothing where there is none.
    pub fn per_mma(&self) -> Option<f64> {
        let mma = self.all_mma();
        (mma > 0).then(|| (self.total - self.nops) as f64 / mma as f64)
    }
}

/// Bytes a lane of a memory access.
fn width(instruction: &Instruction) -> usize {
    let bytes = [
        ("256", 32),
        ("128", 16),
        ("64", 8),
        ("U16", 2),
        ("S16", 2),
        ("U8", 1),
        ("S8", 1),
    ];
    let stated = bytes.iter().find(|(word, _)| instruction.has(word));
    stated.map_or(4, |(_, bytes)| *bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sass::parse;

    #[test]
    fn kinds_and_widths() {
        let lines = [
            "OMMA.SF.16864.F32.E2M1.E2M1.UE4M3.4X R4, R4, R8, R4, R2, R3, URZ",
            "QMMA.SF.16832.F32.E4M3.E4M3.E8 R4, R4, R8, R4, R3, R3, URZ",
            "QMMA.16832.F32.E4M3.E4M3 R4, R4, R8, R4",
            "HMMA.16816.F32.BF16 R4, R4, R8, R4",
            "LDSM.16.M88.4 R4, [R2]",
            "LDSM.16.MT88.4 R4, [R2]",
            "LDSM.8.MT1616.2 R4, [R2]",
            "LDSM.16.M88.2 R4, [R2]",
            "LDSM.16.M88 R4, [R2]",
            "LDS.128 R4, [R2]",
            "LDS R4, [R2]",
            "LDS.U16 R4, [R2]",
            "@!PT LDS RZ, [RZ]",
            "LDGSTS.E.BYPASS.LTC128B.128 [R2], desc[UR4][R4.64]",
            "LDGSTS.E.64 [R2], desc[UR4][R4.64]",
            "STS.64 [R2], R4",
            "SHFL.BFLY PT, R1, R2, 0x1, 0x1f",
            "BAR.SYNC.DEFER_BLOCKING 0x0",
            "LDL R1, [R2]",
            "IMAD.MOV.U32 R1, RZ, RZ, R2",
            "NOP",
        ];
        let mut text = "Function : f\n".to_owned();
        for (i, line) in lines.iter().enumerate() {
            text += &format!("/*{:04x}*/ {line} ;\n", i * 16);
        }
        let functions = parse(&text);
        let counts = Counts::of(&functions[0].instructions);
        assert_eq!((counts.total, counts.nops), (20, 1));
        assert_eq!(
            counts.mma,
            BTreeMap::from([
                (Mma::OmmaSf, 1),
                (Mma::QmmaSf, 1),
                (Mma::Qmma, 1),
                (Mma::Hmma, 1)
            ])
        );
        assert_eq!((counts.ldsm_full, counts.ldsm_other), (3, 2));
        assert_eq!(counts.lds, BTreeMap::from([(16, 1), (4, 1), (2, 1)]));
        assert_eq!(counts.ldgsts, BTreeMap::from([(16, 1), (8, 1)]));
        assert_eq!(counts.sts, BTreeMap::from([(8, 1)]));
        assert_eq!(counts.of_opcode("LDL"), 1);
        assert_eq!(counts.of_opcode("SHFL"), 1);
        assert_eq!(counts.of_opcode("STG"), 0);
        assert_eq!(counts.per_mma(), Some(4.75));
    }
}
