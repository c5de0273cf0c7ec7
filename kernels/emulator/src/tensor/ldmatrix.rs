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
    /// `.m16n16 .trans .b8x16.b4x16_p64`: x1, x2.
    M16n16TransP64,
    /// `.m16n16 .trans .b8x16.b6x16_p32`: x1, x2.
    M16n16TransP32,
    /// `.m8n16 .b8x16.b4x16_p64`: x1, x2, x4; a row is 8 bytes of nibbles and 8 of padding.
    /// A code lands in the low four bits of its byte, so `mma` wants it shifted left by two.
    M8n16P64,
    /// `.m8n16 .b8x16.b6x16_p32`: x1, x2, x4; a row is 12 bytes of six-bit codes and 4 of padding.
    M8n16P32,
}

/// How many row addresses are used, from lane 0 upwards. An error for a count that the shape does not have.
pub fn rows_needed(shape: Load, count: usize) -> Result<usize, String> {
    let (rows, counts): (usize, &[usize]) = match shape {
        Load::M16n16Trans | Load::M16n16TransP64 | Load::M16n16TransP32 => (16, &[1, 2]),
        Load::M8n8 { .. } | Load::M8n16P64 | Load::M8n16P32 => (8, &[1, 2, 4]),
    };
    if counts.contains(&count) {
        Ok(rows * count)
    } else {
        Err(format!("ldmatrix: {shape:?} has no .x{count}"))
    }
}

/// The registers, in the order in which the instruction names them. `rows` holds [`rows_needed`] rows.
pub fn ldmatrix(shape: Load, count: usize, rows: &[[u8; 16]]) -> Result<Vec<Lanes>, String> {
    let needed = rows_needed(shape, count)?;
    if rows.len() != needed {
        return Err(format!(
            "ldmatrix: {shape:?} .x{count} takes {needed} rows, not {}",
            rows.len()
        ));
    }
    let expanded: Vec<[u8; 16]> = rows
        .iter()
        .map(|row| match shape {
            Load::M8n8 { .. } | Load::M16n16Trans => *row,
            Load::M8n16P64 | Load::M16n16TransP64 => unpack(row, 4),
            Load::M8n16P32 | Load::M16n16TransP32 => unpack(row, 6),
        })
        .collect();
    Ok(match shape {
        Load::M8n8 { trans: true } => expanded.chunks_exact(8).map(transposed_halves).collect(),
        Load::M8n8 { trans: false } | Load::M8n16P64 | Load::M8n16P32 => expanded
            .chunks_exact(8)
            .map(|rows| lanes(|lane, j| rows[lane / 4][4 * (lane % 4) + j]))
            .collect(),
        Load::M16n16Trans | Load::M16n16TransP64 | Load::M16n16TransP32 => expanded
            .chunks_exact(16)
            .flat_map(transposed_bytes)
            .collect(),
    })
}

/// `movmatrix.sync.aligned.m8n8.trans.b16`: an 8 x 8 matrix of halves in one register, transposed.
pub fn movmatrix(register: &Lanes) -> Lanes {
    let rows: [[u8; 16]; 8] = std::array::from_fn(|row| {
        std::array::from_fn(|byte| register[4 * row + byte / 4].to_le_bytes()[byte % 4])
    });
    transposed_halves(&rows)
}

/// A register from its bytes: byte j of a lane.
fn lanes(byte: impl Fn(usize, usize) -> u8) -> Lanes {
    std::array::from_fn(|lane| u32::from_le_bytes(std::array::from_fn(|j| byte(lane, j))))
}

/// Lane 4g + t gets column g of rows 2t and 2t + 1.
fn transposed_halves(rows: &[[u8; 16]]) -> Lanes {
    lanes(|lane, j| rows[2 * (lane % 4) + j / 2][2 * (lane / 4) + j % 2])
}

/// Lane 4g + t gets rows 4t to 4t + 3 of column g, and in the second register of column g + 8.
fn transposed_bytes(rows: &[[u8; 16]]) -> [Lanes; 2] {
    [0, 8].map(|right| lanes(|lane, j| rows[4 * (lane % 4) + j][lane / 4 + right]))
}

/// Sixteen codes of `width` bits, lowest bits first, to the low bits of a byte each.
fn unpack(row: &[u8; 16], width: u32) -> [u8; 16] {
    let all = u128::from_le_bytes(*row);
    std::array::from_fn(|i| (all >> (width * i as u32)) as u8 & ((1 << width) - 1))
}
