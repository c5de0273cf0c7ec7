//! `stmatrix`: registers to rows of shared memory.

use crate::Lanes;

/// The shapes of `stmatrix`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Store {
    /// `.m8n8 .b16`: x1, x2, x4, with or without `.trans`.
    M8n8 {
        /// `.trans`
        trans: bool,
    },
    /// `.m16n8 .trans .b8`: x1, x2, x4.
    M16n8Trans,
}

/// The 16-byte rows, `rows[i]` to be written to the address of lane i. There are 8 for each register.
pub fn stmatrix(shape: Store, registers: &[Lanes]) -> Result<Vec<[u8; 16]>, String> {
    let _ = (shape, registers);
    todo!()
}
