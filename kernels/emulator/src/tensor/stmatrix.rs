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

/// The 16-byte rows, `rows[i]` to be written to the address of lane i. There are 8 for each register, which are 1, 2
/// or 4.
pub fn stmatrix(shape: Store, registers: &[Lanes]) -> Result<Vec<[u8; 16]>, String> {
    if ![1, 2, 4].contains(&registers.len()) {
        return Err(format!(
            "stmatrix: {} registers; there are .x1, .x2 and .x4",
            registers.len()
        ));
    }
    let mut rows = vec![[0; 16]; 8 * registers.len()];
    for (register, rows) in registers.iter().zip(rows.chunks_exact_mut(8)) {
        for (lane, word) in register.iter().enumerate() {
            let (g, t) = (lane / 4, lane % 4);
            for (j, byte) in word.to_le_bytes().into_iter().enumerate() {
                let (row, column) = match shape {
                    Store::M8n8 { trans: false } => (g, 4 * t + j),
                    Store::M8n8 { trans: true } => (2 * t + j / 2, 2 * g + j % 2),
                    Store::M16n8Trans => (2 * t + j % 2, g + 8 * (j / 2)),
                };
                rows[row][column] = byte;
            }
        }
    }
    Ok(rows)
}
