//! `ldmatrix`: rows of shared memory to registers.
//!
//! The caller fetches 16 bytes from each row address and hands them over in the order of the lanes that gave the
//! addresses: `rows[i]` is what lane i points at.

use crate::Lanes;

/// The shapes of `ldmatrix`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Load {
    /// `.m8n8 .b16`: x1, x2, x4, with or without `.trans`.
    M8n8 {
        /// `.trans`
        trans: bool,
    },
    /// `.m16n16 .trans .b8`: x1, x2.
    M16n16Trans,
    /// `.m8n16 .b8x16.b4x16_p64`: x1, x2, x4; a row is 8 bytes of nibbles and 8 of padding.
    M8n16P64,
    /// `.m8n16 .b8x16.b6x16_p32`: x1, x2, x4; a row is 12 bytes of six-bit codes and 4 of padding.
    M8n16P32,
}

/// How many row addresses are used, from lane 0 upwards.
pub fn rows_needed(shape: Load, count: usize) -> Result<usize, String> {
    let _ = (shape, count);
    todo!()
}

/// The registers, in the order in which the instruction names them. `rows` holds [`rows_needed`] rows.
pub fn ldmatrix(shape: Load, count: usize, rows: &[[u8; 16]]) -> Result<Vec<Lanes>, String> {
    let _ = (shape, count, rows);
    todo!()
}
