//! How the matrices of `mma.sync` lie in a warp's registers.
//!
//! Write g = lane / 4 and t = lane % 4. A word is 32 bits: 8 nibbles, 4 bytes, 2 halves or one tf32, the lowest bits
//! being the lowest k. Counted in words, all shapes m16n8k64 (4 bits), m16n8k32 (8), m16n8k16 (16) and m16n8k8 (tf32)
//! have one layout:
//!
//! * A, 16 rows of 8 words: register r of a lane is word t + 4 * (r / 2) of row g + 8 * (r % 2).
//! * B, 8 columns of 8 words: register r is word t + 4 * r of column g.
//! * C and D, 16 x 8 of f32 or s32: register r is row g + 8 * (r / 2), column 2t + r % 2.
//!   Of f16: register r is row g + 8r, columns 2t (low half) and 2t + 1.
//!
//! m16n8k8 on halves has 4 words and half the registers of A and B. Source: PTX ISA, "Matrix Fragments for mma"; the
//! tests compare with the layouts of CUTLASS's `mma_traits_sm80.hpp`, `_sm89.hpp` and `_sm120.hpp`.

use crate::Lanes;

/// A lane's row (of A, C) or column (of B).
const fn group(lane: usize) -> usize {
    lane / 4
}

/// A lane's place in its group of four.
const fn member(lane: usize) -> usize {
    lane % 4
}

/// Rows of A from its R registers: 16 rows of W = 2R words.
pub fn a_words<const R: usize, const W: usize>(registers: &[Lanes; R]) -> [[u32; W]; 16] {
    let mut rows = [[0; W]; 16];
    for (r, lanes) in registers.iter().enumerate() {
        for (lane, &word) in lanes.iter().enumerate() {
            rows[group(lane) + 8 * (r % 2)][member(lane) + 4 * (r / 2)] = word;
        }
    }
    rows
}

/// The registers of A from its rows: the inverse of [`a_words`].
pub fn a_registers<const R: usize, const W: usize>(rows: &[[u32; W]; 16]) -> [Lanes; R] {
    std::array::from_fn(|r| {
        std::array::from_fn(|lane| rows[group(lane) + 8 * (r % 2)][member(lane) + 4 * (r / 2)])
    })
}

/// Columns of B from its R registers: 8 columns of W = 4R words.
pub fn b_words<const R: usize, const W: usize>(registers: &[Lanes; R]) -> [[u32; W]; 8] {
    let mut columns = [[0; W]; 8];
    for (r, lanes) in registers.iter().enumerate() {
        for (lane, &word) in lanes.iter().enumerate() {
            columns[group(lane)][member(lane) + 4 * r] = word;
        }
    }
    columns
}

/// The registers of B from its columns: the inverse of [`b_words`].
pub fn b_registers<const R: usize, const W: usize>(columns: &[[u32; W]; 8]) -> [Lanes; R] {
    std::array::from_fn(|r| std::array::from_fn(|lane| columns[group(lane)][member(lane) + 4 * r]))
}

/// C or D of 32-bit elements, as 16 rows of 8 bit patterns.
pub fn c_words(registers: &[Lanes; 4]) -> [[u32; 8]; 16] {
    let mut rows = [[0; 8]; 16];
    for (r, lanes) in registers.iter().enumerate() {
        for (lane, &word) in lanes.iter().enumerate() {
            rows[group(lane) + 8 * (r / 2)][2 * member(lane) + r % 2] = word;
        }
    }
    rows
}

/// The registers of C or D: the inverse of [`c_words`].
pub fn c_registers(rows: &[[u32; 8]; 16]) -> [Lanes; 4] {
    std::array::from_fn(|r| {
        std::array::from_fn(|lane| rows[group(lane) + 8 * (r / 2)][2 * member(lane) + r % 2])
    })
}

/// C or D of f16, as 16 rows of 8 bit patterns.
pub fn c_halves(registers: &[Lanes; 2]) -> [[u16; 8]; 16] {
    let mut rows = [[0; 8]; 16];
    for (r, lanes) in registers.iter().enumerate() {
        for (lane, &pair) in lanes.iter().enumerate() {
            let row = &mut rows[group(lane) + 8 * r];
            row[2 * member(lane)] = pair as u16;
            row[2 * member(lane) + 1] = (pair >> 16) as u16;
        }
    }
    rows
}

/// The registers of C or D of f16: the inverse of [`c_halves`].
pub fn c_half_registers(rows: &[[u16; 8]; 16]) -> [Lanes; 2] {
    std::array::from_fn(|r| {
        std::array::from_fn(|lane| {
            let row = &rows[group(lane) + 8 * r];
            u32::from(row[2 * member(lane)]) | u32::from(row[2 * member(lane) + 1]) << 16
        })
    })
}

/// The lane that supplies the scales of A's `row`: of each four, `thread` picks the lower or the upper two.
pub const fn scale_lane_a(row: usize, thread: usize) -> usize {
    4 * (row % 8) + 2 * thread + row / 8
}

/// The lane that supplies the scales of B's `column`.
pub const fn scale_lane_b(column: usize, thread: usize) -> usize {
    4 * column + thread
}
