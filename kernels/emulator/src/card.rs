//! The cards that can be stood in for, as far as a driver tells them apart.
//!
//! Limits per multiprocessor are those of the CUDA C++ Programming Guide, table "Technical Specifications per Compute
//! Capability"; counts, clocks and sizes those of NVIDIA's data sheets and architecture white papers.

/// What `cuDeviceGetAttribute` says of a card.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Card {
    /// What `PTX_EMULATOR_CARD` calls it.
    pub key: &'static str,
    /// Name.
    pub name: &'static str,
    /// Compute capability, major and minor.
    pub capability: (u32, u32),
    /// Streaming multiprocessors.
    pub multiprocessors: u32,
    /// Shared memory of a block that asks for more than [`Card::shared_per_block`], in bytes.
    pub shared_per_block_optin: u32,
    /// Shared memory that any block may have, in bytes.
    pub shared_per_block: u32,
    /// Shared memory of a multiprocessor, in bytes.
    pub shared_per_multiprocessor: u32,
    /// 32-bit registers of a block, and of a multiprocessor.
    pub registers_per_block: u32,
    /// Threads of a block.
    pub threads_per_block: u32,
    /// Threads of a multiprocessor.
    pub threads_per_multiprocessor: u32,
    /// Blocks of a multiprocessor.
    pub blocks_per_multiprocessor: u32,
    /// Memory in bytes.
    pub memory: u64,
    /// Bytes of the L2 cache.
    pub l2: u32,
    /// Boost clock in kHz.
    pub clock: u32,
    /// Memory clock in kHz (half the data rate per pin) and bus width in bits.
    pub bus: (u32, u32),
}

const KIB: u32 = 1024;
const MIB: u32 = 1024 * KIB;

/// Shared memory that the system takes of each block, in bytes.
pub const RESERVED_SHARED: u32 = KIB;

/// All of them; the first is the default.
pub const CARDS: [Card; 5] = [RTX_5090, RTX_4090, H100, A100, B200];

/// GeForce RTX 5090.
pub const RTX_5090: Card = Card {
    key: "rtx5090",
    name: "NVIDIA GeForce RTX 5090",
    capability: (12, 0),
    multiprocessors: 170,
    shared_per_block_optin: 99 * KIB,
    shared_per_block: 48 * KIB,
    shared_per_multiprocessor: 100 * KIB,
    registers_per_block: 65536,
    threads_per_block: 1024,
    threads_per_multiprocessor: 1536,
    memory: 32 << 30,
    blocks_per_multiprocessor: 24,
    l2: 96 * MIB,
    clock: 2_407_000,
    bus: (14_001_000, 512),
};

/// GeForce RTX 4090.
pub const RTX_4090: Card = Card {
    key: "rtx4090",
    name: "NVIDIA GeForce RTX 4090",
    capability: (8, 9),
    multiprocessors: 128,
    memory: 24 << 30,
    l2: 72 * MIB,
    clock: 2_520_000,
    bus: (10_501_000, 384),
    ..RTX_5090
};

/// H100 SXM.
pub const H100: Card = Card {
    key: "h100",
    name: "NVIDIA H100 80GB HBM3",
    capability: (9, 0),
    multiprocessors: 132,
    shared_per_block_optin: 227 * KIB,
    shared_per_multiprocessor: 228 * KIB,
    threads_per_multiprocessor: 2048,
    memory: 80 << 30,
    blocks_per_multiprocessor: 32,
    l2: 50 * MIB,
    clock: 1_980_000,
    bus: (2_619_000, 5120),
    ..RTX_5090
};

/// A100 SXM.
pub const A100: Card = Card {
    key: "a100",
    name: "NVIDIA A100-SXM4-80GB",
    capability: (8, 0),
    multiprocessors: 108,
    shared_per_block_optin: 163 * KIB,
    shared_per_multiprocessor: 164 * KIB,
    l2: 40 * MIB,
    clock: 1_410_000,
    bus: (1_593_000, 5120),
    ..H100
};

/// B200.
pub const B200: Card = Card {
    key: "b200",
    name: "NVIDIA B200",
    capability: (10, 0),
    multiprocessors: 148,
    memory: 180 << 30,
    l2: 126 * MIB,
    clock: 1_965_000,
    bus: (3_996_000, 8192),
    ..H100
};

impl Card {
    /// By its key.
    #[must_use]
    pub fn named(key: &str) -> Option<&'static Self> {
        CARDS.iter().find(|card| card.key.eq_ignore_ascii_case(key))
    }

    /// Whether the card runs PTX of a `.target`: plain targets run on everything newer, `f` ones within their family,
    /// `a` ones on that very capability.
    ///
    /// # Errors
    /// In words, why not.
    pub fn accepts(&self, target: &str) -> Result<(), String> {
        let digits = target.strip_prefix("sm_").unwrap_or_default();
        let number = digits.trim_end_matches(['a', 'f']);
        let suffix = &digits[number.len()..];
        let Ok(value) = number.parse::<u32>() else {
            return Err(format!("target {target} is not known"));
        };
        let asked = (value / 10, value % 10);
        let runs = match suffix {
            "" => asked <= self.capability,
            "f" => asked.0 == self.capability.0 && asked.1 <= self.capability.1,
            "a" => asked == self.capability,
            _ => false,
        };
        let (major, minor) = self.capability;
        if runs {
            Ok(())
        } else {
            Err(format!(
                "PTX for {target} does not run on compute capability {major}.{minor}"
            ))
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn targets_run_where_the_ptx_manual_says() {
        let runs = |card: &str, target: &str| Card::named(card).unwrap().accepts(target).is_ok();
        for (card, target, expected) in [
            ("rtx5090", "sm_120a", true),
            ("rtx5090", "sm_120f", true),
            ("rtx5090", "sm_89", true),
            ("rtx5090", "sm_100f", false),
            ("rtx5090", "sm_90a", false),
            ("rtx5090", "sm_121", false),
            ("rtx4090", "sm_120", false),
            ("rtx4090", "sm_89", true),
            ("h100", "sm_90a", true),
            ("b200", "sm_100a", true),
            ("b200", "sm_120f", false),
            ("a100", "sm_80", true),
            ("a100", "compute", false),
        ] {
            assert_eq!(runs(card, target), expected, "{target} on {card}");
        }
    }
}
