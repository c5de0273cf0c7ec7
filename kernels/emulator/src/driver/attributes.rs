//! What a card answers to `cuDeviceGetAttribute`, and how many blocks fit on a multiprocessor.

use crate::card::{Card, RESERVED_SHARED};

/// Most threads of a block in each direction.
const BLOCK: [u32; 3] = [1024, 1024, 64];
/// Most blocks of a grid in each direction.
const GRID: [u32; 3] = [i32::MAX as u32, 65_535, 65_535];

impl Card {
    /// Blocks of `threads` threads and `shared` bytes of shared memory that a multiprocessor holds. Registers are not
    /// counted: how many a kernel takes is `ptxas`'s business.
    #[must_use]
    pub fn occupancy(&self, threads: u32, shared: u32) -> u32 {
        if threads == 0 || threads > self.threads_per_block || shared > self.shared_per_block_optin
        {
            return 0;
        }
        let by_threads = self.threads_per_multiprocessor / threads.next_multiple_of(32);
        let by_shared = self.shared_per_multiprocessor / (shared + RESERVED_SHARED);
        by_threads
            .min(by_shared)
            .min(self.blocks_per_multiprocessor)
    }

    /// `CUdevice_attribute`; `None` for those that the emulator has nothing to say of.
    #[must_use]
    pub fn attribute(&self, attribute: u32) -> Option<u32> {
        Some(match attribute {
            1 => self.threads_per_block,
            2..=4 => BLOCK[attribute as usize - 2],
            5..=7 => GRID[attribute as usize - 5],
            8 => self.shared_per_block,
            9 => 64 << 10,
            10 => 32,
            11 => i32::MAX as u32,
            12 | 82 => self.registers_per_block,
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
            39 => self.threads_per_multiprocessor,
            81 => self.shared_per_multiprocessor,
            87 => {
                if matches!(self.capability, (9 | 10, 0) | (8, 0)) {
                    2
                } else {
                    64
                }
            }
            97 => self.shared_per_block_optin,
            106 => self.blocks_per_multiprocessor,
            111 => RESERVED_SHARED,
            // Memory pools: `cuMemAllocAsync` works.
            115 => 1,
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

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
