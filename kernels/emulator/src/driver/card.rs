//! The cards that the emulator can pretend to be.
//!
//! Limits per multiprocessor are those of the CUDA C++ Programming Guide, table "Technical Specifications per Compute
//! Capability"; counts, clocks and sizes those of NVIDIA's data sheets and architecture white papers.

/// A card, as far as `cuDeviceGetAttribute` and launch limits say it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Card {
    /// What `PTX_EMULATOR_CARD` calls it.
    pub key: &'static str,
    /// What `cuDeviceGetName` says.
    pub name: &'static str,
    /// Compute capability.
    pub capability: (u32, u32),
    /// Multiprocessors.
    pub multiprocessors: u32,
    /// Bytes of memory.
    pub memory: u64,
    /// Most bytes of shared memory of a block that asks for it.
    pub shared_per_block: u32,
    /// Bytes of shared memory of a multiprocessor; each block takes 1 KiB more than it uses.
    pub shared_per_multiprocessor: u32,
    /// Most threads of a multiprocessor.
    pub threads: u32,
    /// Most blocks of a multiprocessor.
    pub blocks: u32,
    /// Bytes of the L2 cache.
    pub l2: u32,
    /// Boost clock in kHz.
    pub clock: u32,
    /// Memory clock in kHz (half the data rate) and bus width in bits.
    pub bus: (u32, u32),
}

const GIB: u64 = 1 << 30;
const MIB: u32 = 1 << 20;

/// All of them; the first is the default.
pub const CARDS: [Card; 5] = [
    Card {
        key: "rtx5090",
        name: "NVIDIA GeForce RTX 5090",
        capability: (12, 0),
        multiprocessors: 170,
        memory: 32 * GIB,
        shared_per_block: 99 << 10,
        shared_per_multiprocessor: 100 << 10,
        threads: 1536,
        blocks: 24,
        l2: 96 * MIB,
        clock: 2_407_000,
        bus: (14_001_000, 512),
    },
    Card {
        key: "rtx4090",
        name: "NVIDIA GeForce RTX 4090",
        capability: (8, 9),
        multiprocessors: 128,
        memory: 24 * GIB,
        shared_per_block: 99 << 10,
        shared_per_multiprocessor: 100 << 10,
        threads: 1536,
        blocks: 24,
        l2: 72 * MIB,
        clock: 2_520_000,
        bus: (10_501_000, 384),
    },
    Card {
        key: "h100",
        name: "NVIDIA H100 80GB HBM3",
        capability: (9, 0),
        multiprocessors: 132,
        memory: 80 * GIB,
        shared_per_block: 227 << 10,
        shared_per_multiprocessor: 228 << 10,
        threads: 2048,
        blocks: 32,
        l2: 50 * MIB,
        clock: 1_980_000,
        bus: (2_619_000, 5120),
    },
    Card {
        key: "a100",
        name: "NVIDIA A100-SXM4-80GB",
        capability: (8, 0),
        multiprocessors: 108,
        memory: 80 * GIB,
        shared_per_block: 163 << 10,
        shared_per_multiprocessor: 164 << 10,
        threads: 2048,
        blocks: 32,
        l2: 40 * MIB,
        clock: 1_410_000,
        bus: (1_593_000, 5120),
    },
    Card {
        key: "b200",
        name: "NVIDIA B200",
        capability: (10, 0),
        multiprocessors: 148,
        memory: 180 * GIB,
        shared_per_block: 227 << 10,
        shared_per_multiprocessor: 228 << 10,
        threads: 2048,
        blocks: 32,
        l2: 126 * MIB,
        clock: 1_965_000,
        bus: (3_996_000, 8192),
    },
];

/// Shared memory of a block that does not ask for more.
pub const SHARED_PER_BLOCK: u32 = 48 << 10;
/// Shared memory that the system takes of each block.
pub const RESERVED_SHARED: u32 = 1 << 10;
/// Most threads of a block.
pub const THREADS_PER_BLOCK: u32 = 1024;
/// Most threads of a block in each direction.
pub const BLOCK_LIMIT: [u32; 3] = [1024, 1024, 64];
/// Most blocks of a grid in each direction.
pub const GRID_LIMIT: [u32; 3] = [i32::MAX as u32, 65_535, 65_535];

impl Card {
    /// By its key.
    #[must_use]
    pub fn named(key: &str) -> Option<&'static Self> {
        CARDS.iter().find(|card| card.key.eq_ignore_ascii_case(key))
    }

    /// Whether it can run PTX for `target`, for example `sm_120a`: any card from that capability on runs a plain one, the
    /// same family (`f`) or exactly that capability (`a`) the others.
    #[must_use]
    pub fn runs(&self, target: &str) -> bool {
        let digits = target
            .trim_start_matches("sm_")
            .trim_end_matches(char::is_alphabetic);
        let Ok(number) = digits.parse::<u32>() else {
            return false;
        };
        let wanted = (number / 10, number % 10);
        match target.chars().last() {
            Some('a') => self.capability == wanted,
            Some('f') => self.capability.0 == wanted.0 && self.capability >= wanted,
            _ => self.capability >= wanted,
        }
    }

    /// Blocks of `threads` threads and `shared` bytes of shared memory that a multiprocessor holds. Registers are not
    /// counted: how many a kernel takes is `ptxas`'s business.
    #[must_use]
    pub fn occupancy(&self, threads: u32, shared: u32) -> u32 {
        if threads == 0 || threads > THREADS_PER_BLOCK || shared > self.shared_per_block {
            return 0;
        }
        let by_threads = self.threads / threads.next_multiple_of(32);
        let by_shared = self.shared_per_multiprocessor / (shared + RESERVED_SHARED);
        by_threads.min(by_shared).min(self.blocks)
    }

    /// `CUdevice_attribute`; `None` for those that the emulator has nothing to say of.
    #[must_use]
    pub fn attribute(&self, attribute: u32) -> Option<u32> {
        Some(match attribute {
            1 => THREADS_PER_BLOCK,
            2..=4 => BLOCK_LIMIT[attribute as usize - 2],
            5..=7 => GRID_LIMIT[attribute as usize - 5],
            8 => SHARED_PER_BLOCK,
            9 => 64 << 10,
            10 => 32,
            11 => i32::MAX as u32,
            12 | 82 => 65_536,
            13 => self.clock,
            14 | 30 => 512,
            16 => self.multiprocessors,
            31 | 41 | 75..=76 | 78..=80 => match attribute {
                75 => self.capability.0,
                76 => self.capability.1,
                _ => 1,
            },
            // Time limit, integrated, mapped host memory, compute mode, ECC, PCI numbers, TCC, managed memory, several
            // GPUs on a board, pageable access, cooperative launch, clusters, pools shared between processes: none.
            15
            | 17..=20
            | 32..=35
            | 40
            | 50
            | 83..=86
            | 88..=96
            | 98..=105
            | 107..=110
            | 112..=114
            | 116..=120 => 0,
            36 => self.bus.0,
            37 => self.bus.1,
            38 => self.l2,
            39 => self.threads,
            81 => self.shared_per_multiprocessor,
            87 => {
                if matches!(self.capability, (9 | 10, 0) | (8, 0)) {
                    2
                } else {
                    64
                }
            }
            97 => self.shared_per_block,
            106 => self.blocks,
            111 => RESERVED_SHARED,
            // Memory pools: `cuMemAllocAsync` works.
            115 => 1,
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_run_where_the_ptx_manual_says() {
        let runs = |card: &str, target: &str| Card::named(card).unwrap().runs(target);
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

    /// CUDA occupancy calculator, registers aside.
    #[test]
    fn occupancy_is_limited_by_threads_shared_memory_and_blocks() {
        let occupancy =
            |card: &str, threads, shared| Card::named(card).unwrap().occupancy(threads, shared);
        assert_eq!(occupancy("rtx5090", 256, 0), 6);
        assert_eq!(occupancy("rtx5090", 32, 0), 24);
        assert_eq!(occupancy("rtx5090", 128, 49 << 10), 2);
        assert_eq!(occupancy("rtx5090", 128, 50 << 10), 1);
        assert_eq!(occupancy("rtx5090", 128, 100 << 10), 0);
        assert_eq!(occupancy("h100", 256, 0), 8);
        assert_eq!(occupancy("h100", 256, 113 << 10), 2);
        assert_eq!(occupancy("a100", 1024, 0), 2);
    }
}
