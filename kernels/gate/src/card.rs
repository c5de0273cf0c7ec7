//! How many blocks of a kernel one multiprocessor holds.

/// What a multiprocessor has. Source: the table of compute capabilities in the CUDA C++ programming guide.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Card {
    /// 32-bit registers.
    pub registers: usize,
    /// Resident threads.
    pub threads: usize,
    /// Resident blocks.
    pub blocks: usize,
    /// Shared memory, bytes.
    pub shared: usize,
    /// Shared memory that one block may have, bytes.
    pub shared_of_block: usize,
}

/// Shared memory that the system keeps of every block, bytes.
const RESERVED: usize = 1024;
/// Shared memory is given in pieces of this size, bytes.
const SHARED_UNIT: usize = 128;
/// Registers are given to a warp in pieces of this size.
const REGISTER_UNIT: usize = 256;

impl Card {
    /// The card that `arch` (`sm_120f`) is built for; of families, the one with the least.
    pub fn of(arch: &str) -> Option<Self> {
        let digits: String = arch
            .strip_prefix("sm_")?
            .chars()
            .take_while(char::is_ascii_digit)
            .collect();
        let kib = 1024;
        let (threads, blocks, shared) = match digits.as_str() {
            "80" => (2048, 32, 164 * kib),
            "86" => (1536, 16, 100 * kib),
            "89" | "120" | "121" => (1536, 24, 100 * kib),
            "90" => (2048, 32, 228 * kib),
            _ => return None,
        };
        Some(Self {
            registers: 65536,
            threads,
            blocks,
            shared,
            shared_of_block: shared - RESERVED,
        })
    }

    /// Blocks that fit at once; 0 if not even one does.
    ///
    /// `registers` of a thread, `threads` of a block, `shared` bytes of a block, static and dynamic.
    pub fn blocks(&self, registers: usize, threads: usize, shared: usize) -> usize {
        if threads == 0 || shared > self.shared_of_block {
            return 0;
        }
        let warps = threads.div_ceil(32);
        let of_warp = (registers * 32).next_multiple_of(REGISTER_UNIT);
        // Registers are dealt to the four quarters of a multiprocessor, a warp never straddles them.
        let warps_by_registers = (self.registers / 4)
            .checked_div(of_warp)
            .map_or(usize::MAX, |w| w * 4);
        let of_block = (shared + RESERVED).next_multiple_of(SHARED_UNIT);
        [
            self.blocks,
            self.threads / (warps * 32),
            warps_by_registers / warps,
            self.shared / of_block,
        ]
        .into_iter()
        .min()
        .unwrap_or(0)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn each_resource_limits_in_its_turn() {
        let card = Card::of("sm_120f").unwrap();
        // 216 registers are 27 pieces a warp; a quarter has 64 pieces, two warps; four quarters, two blocks of four.
        assert_eq!(card.blocks(216, 128, 0), 2);
        assert_eq!(card.blocks(255, 256, 0), 1);
        assert_eq!(card.blocks(16, 1024, 0), 1);
        assert_eq!(card.blocks(16, 256, 0), 6);
        assert_eq!(card.blocks(16, 32, 0), 24);
        // 99 KB and the reserved one are all there is.
        assert_eq!(card.blocks(32, 128, 101_376), 1);
        assert_eq!(card.blocks(32, 128, 101_377), 0);
        assert_eq!(card.blocks(32, 128, 49 * 1024), 2);
        assert_eq!(card.blocks(32, 128, 49 * 1024 + 1), 1);
    }

    #[test]
    fn unknown_cards_are_not_guessed() {
        assert_eq!(Card::of("sm_100a"), None);
        assert_eq!(Card::of("120"), None);
        assert_eq!(Card::of("sm_80").unwrap().shared_of_block, 163 * 1024);
    }
}
