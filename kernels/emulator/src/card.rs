//! The cards that can be stood in for, as far as a driver tells them apart.

/// What `cuDeviceGetAttribute` says of a card.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Card {
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
    /// Memory in bytes.
    pub memory: u64,
}

const KIB: u32 = 1024;

/// GeForce RTX 5090.
pub const RTX_5090: Card = Card {
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
};

/// GeForce RTX 4090.
pub const RTX_4090: Card = Card {
    name: "NVIDIA GeForce RTX 4090",
    capability: (8, 9),
    multiprocessors: 128,
    memory: 24 << 30,
    ..RTX_5090
};

/// H100 SXM.
pub const H100: Card = Card {
    name: "NVIDIA H100 80GB HBM3",
    capability: (9, 0),
    multiprocessors: 132,
    shared_per_block_optin: 227 * KIB,
    shared_per_multiprocessor: 228 * KIB,
    threads_per_multiprocessor: 2048,
    memory: 80 << 30,
    ..RTX_5090
};

/// A100 SXM.
pub const A100: Card = Card {
    name: "NVIDIA A100-SXM4-80GB",
    capability: (8, 0),
    multiprocessors: 108,
    shared_per_block_optin: 163 * KIB,
    shared_per_multiprocessor: 164 * KIB,
    ..H100
};

/// B200.
pub const B200: Card = Card {
    name: "NVIDIA B200",
    capability: (10, 0),
    multiprocessors: 148,
    memory: 180 << 30,
    ..H100
};

impl Card {
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
        if runs { Ok(()) } else { Err(format!("PTX for {target} does not run on compute capability {major}.{minor}")) }
    }
}
