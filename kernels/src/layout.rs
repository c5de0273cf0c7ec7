//! Where block scales and codes lie: the checkpoint's order, plain rows, and the lane order that the kernels read.
//!
//! Block scales are E4M3 bytes, one for 16 columns of a row. There are three orders of them:
//!
//! * *rows*: `[rows, K/16]`, row-major;
//! * *swizzled*: the checkpoint's, tiles of 128 rows by 4 scales as cuBLAS reads them ("VEC16 block scaling" in the
//!   cuBLAS manual): byte `(r % 32) * 16 + (r / 32) * 4 + c` of a tile, tiles row-major, rows padded to 128 and
//!   columns to 4;
//! * *lane order*: what a lane of `mma.m16n8k64` wants, side by side. 64 rows by 128 columns of the matrix are a tile of
//!   512 bytes, `[lane][word][byte]` = `[32][4][4]`. Lane `4g + t`, word `2s + h`, byte `j` belongs to row
//!   `32h + 8t + g` and to columns `64s + 16j ..+16`. So a warp fetches the scales of a whole K tile with one 16-byte
//!   load a lane, free of bank conflicts, where the swizzled order has a conflict of four lanes. Tiles are ordered
//!   `[row group][K tile]`; rows are padded to 64 and columns to 128, with zero scales: a zero scale makes a zero block.
//!
//! Codes: a byte holds an even column in its high nibble and its right neighbour in the low one, the checkpoint's order.
//! The tensor cores count nibbles from the low one, so they see each pair exchanged. A dot product does not care as long
//! as both operands are in the same order; therefore activations are packed as the checkpoint packs weights.

use crate::error::KernelError;

/// Numbers under one block scale.
pub const BLOCK: usize = 16;
/// Rows of a tile in lane order.
pub const GROUP_ROWS: usize = 64;
/// Columns of the matrix in a tile in lane order.
pub const TILE_K: usize = 128;
/// Bytes of a tile, in lane order as well as swizzled.
const TILE: usize = 512;

/// Bytes of the scales of a `[rows, k]` matrix in lane order; `None` where no memory holds them.
pub fn lane_order_len(rows: usize, k: usize) -> Option<usize> {
    let tiles = rows.div_ceil(GROUP_ROWS).checked_mul(k.div_ceil(TILE_K))?;
    tiles.checked_mul(TILE)
}

/// Where the scale of block `block` (columns `16 block ..+16`) of row `row` lies in lane order, for rows of `k` columns.
pub fn lane_order_offset(row: usize, block: usize, k: usize) -> usize {
    let tile = row / GROUP_ROWS * k.div_ceil(TILE_K) + block / 8;
    let lane = row % 8 * 4 + row % 32 / 8;
    let word = block % 8 / 4 * 2 + row % GROUP_ROWS / 32;
    tile * TILE + lane * 16 + word * 4 + block % 4
}

/// Bytes of the scales of a `[rows, k]` matrix as the checkpoint stores them; `None` where no memory holds them.
pub fn swizzled_len(rows: usize, k: usize) -> Option<usize> {
    let tiles = rows.div_ceil(128).checked_mul((k / BLOCK).div_ceil(4))?;
    tiles.checked_mul(TILE)
}

/// Where the scale of block `block` of row `row` lies in the checkpoint's order, for rows of `k` columns.
pub fn swizzled_offset(row: usize, block: usize, k: usize) -> usize {
    let tile = row / 128 * (k / BLOCK).div_ceil(4) + block / 4;
    tile * TILE + row % 32 * 16 + row % 128 / 32 * 4 + block % 4
}

/// Scales in the checkpoint's order into lane order; `scales` are whole tiles, their padding is not looked at.
///
/// # Errors
/// [`KernelError::Shape`] where `k` is not a multiple of 16 or `scales` has not [`swizzled_len`] bytes.
pub fn lane_order_from_swizzled(
    scales: &[u8],
    rows: usize,
    k: usize,
) -> Result<Vec<u8>, KernelError> {
    check(scales, swizzled_len(rows, k), [rows, k])?;
    to_lane_order(scales, [rows, k], swizzled_offset)
}

/// Row-major scales `[rows, k/16]` into lane order.
///
/// # Errors
/// [`KernelError::Shape`] where `k` is not a multiple of 16 or `scales` has not `rows * k / 16` bytes.
pub fn lane_order_from_rows(scales: &[u8], rows: usize, k: usize) -> Result<Vec<u8>, KernelError> {
    check(scales, rows.checked_mul(k / BLOCK), [rows, k])?;
    to_lane_order(scales, [rows, k], rows_offset)
}

/// The reverse of [`lane_order_from_swizzled`], with zeros for padding.
///
/// # Errors
/// [`KernelError::Shape`] where `k` is not a multiple of 16 or `scales` has not [`lane_order_len`] bytes.
pub fn swizzled_from_lane_order(
    scales: &[u8],
    rows: usize,
    k: usize,
) -> Result<Vec<u8>, KernelError> {
    check(scales, lane_order_len(rows, k), [rows, k])?;
    let mut out = vec![0; sized(swizzled_len(rows, k), [rows, k])?];
    copy(
        (scales, lane_order_offset),
        (&mut out, swizzled_offset),
        [rows, k],
    );
    Ok(out)
}

/// The reverse of [`lane_order_from_rows`].
///
/// # Errors
/// [`KernelError::Shape`] where `k` is not a multiple of 16 or `scales` has not [`lane_order_len`] bytes.
pub fn rows_from_lane_order(scales: &[u8], rows: usize, k: usize) -> Result<Vec<u8>, KernelError> {
    check(scales, lane_order_len(rows, k), [rows, k])?;
    let mut out = vec![0; rows * (k / BLOCK)];
    copy(
        (scales, lane_order_offset),
        (&mut out, rows_offset),
        [rows, k],
    );
    Ok(out)
}

/// The place of (row, block) among the scales of rows of `k` columns.
type Offset = fn(usize, usize, usize) -> usize;

fn rows_offset(row: usize, block: usize, k: usize) -> usize {
    row * (k / BLOCK) + block
}

fn to_lane_order(scales: &[u8], shape: [usize; 2], offset: Offset) -> Result<Vec<u8>, KernelError> {
    let mut out = vec![0; sized(lane_order_len(shape[0], shape[1]), shape)?];
    copy((scales, offset), (&mut out, lane_order_offset), shape);
    Ok(out)
}

fn copy(from: (&[u8], Offset), to: (&mut [u8], Offset), [rows, k]: [usize; 2]) {
    for row in 0..rows {
        for block in 0..k / BLOCK {
            to.0[to.1(row, block, k)] = from.0[from.1(row, block, k)];
        }
    }
}

fn check(scales: &[u8], expected: Option<usize>, shape: [usize; 2]) -> Result<(), KernelError> {
    let [rows, k] = shape;
    if !k.is_multiple_of(BLOCK) {
        return Err(KernelError::shape(
            "layout",
            format!("rows of {k} numbers are not whole blocks of 16"),
        ));
    }
    let expected = sized(expected, shape)?;
    if scales.len() != expected {
        return Err(KernelError::shape(
            "layout",
            format!(
                "{} block scales for a matrix of {rows} x {k}, expected {expected}",
                scales.len()
            ),
        ));
    }
    Ok(())
}

fn sized(len: Option<usize>, [rows, k]: [usize; 2]) -> Result<usize, KernelError> {
    len.ok_or_else(|| {
        KernelError::shape("layout", format!("a matrix of {rows} x {k} fits no memory"))
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Worked by hand from the definitions in the head of this file, for K = 3072 (24 tiles in lane order, 48 swizzled).
    #[test]
    fn landmarks() {
        for (row, block, lane_order, swizzled) in [
            (0, 0, 0, 0),
            (0, 3, 3, 3),
            // The second k64 step is two words on, and a tile on in the checkpoint's order.
            (0, 4, 8, 512),
            (0, 8, 512, 1024),
            // Row 1: lane 4. Row 8: lane 1. Row 32: the second word.
            (1, 0, 64, 16),
            (8, 0, 16, 128),
            (32, 0, 4, 4),
            (63, 7, 511, 512 + 31 * 16 + 4 + 3),
            (64, 0, 24 * 512, 8),
            (128, 0, 48 * 512, 48 * 512),
            (3071, 191, 589_823, 589_823),
        ] {
            assert_eq!(
                lane_order_offset(row, block, 3072),
                lane_order,
                "({row}, {block})"
            );
            assert_eq!(
                swizzled_offset(row, block, 3072),
                swizzled,
                "({row}, {block})"
            );
        }
    }

    #[test]
    fn wrong_sizes_are_told() {
        let told = |scales: usize, rows, k| {
            lane_order_from_rows(&vec![0; scales], rows, k)
                .unwrap_err()
                .to_string()
        };
        assert!(told(3, 1, 40).contains("whole blocks of 16"));
        assert!(told(3, 1, 64).contains("3 block scales for a matrix of 1 x 64, expected 4"));
        assert!(told(0, usize::MAX, 1 << 20).contains("no memory"));
        assert!(lane_order_from_swizzled(&[0; 4], 1, 64).is_err());
        assert!(rows_from_lane_order(&[0; 4], 1, 64).is_err());
        assert!(swizzled_from_lane_order(&[0; 4], 1, 64).is_err());
    }

    #[test]
    fn nothing_has_no_scales() {
        assert_eq!(lane_order_from_rows(&[], 0, 64).unwrap(), [0u8; 0]);
        assert_eq!(lane_order_from_swizzled(&[], 5, 0).unwrap(), [0u8; 0]);
    }

    proptest! {
        #[test]
        fn round_trips_and_pads_with_zero(rows in 1usize..300, blocks in 1usize..40, seed in 1u8..) {
            let k = blocks * BLOCK;
            let scales: Vec<u8> = (0..rows * blocks).map(|i| (i * 31 % 251) as u8 ^ seed).collect();
            let lanes = lane_order_from_rows(&scales, rows, k).unwrap();
            prop_assert_eq!(lanes.len(), rows.next_multiple_of(64) * k.next_multiple_of(128) / 16);
            for row in 0..rows.next_multiple_of(64) {
                for block in 0..k.next_multiple_of(128) / 16 {
                    let inside = row < rows && block < blocks;
                    let expected = if inside { scales[row * blocks + block] } else { 0 };
                    prop_assert_eq!(lanes[lane_order_offset(row, block, k)], expected);
                }
            }
            prop_assert_eq!(&rows_from_lane_order(&lanes, rows, k).unwrap(), &scales);

            let mut swizzled = swizzled_from_lane_order(&lanes, rows, k).unwrap();
            let mut padding = vec![true; swizzled.len()];
            for row in 0..rows {
                for block in 0..blocks {
                    let at = swizzled_offset(row, block, k);
                    prop_assert_eq!(swizzled[at], scales[row * blocks + block]);
                    prop_assert!(padding[at]);
                    padding[at] = false;
                }
            }
            // What lies in the padding of a file is nobody's business.
            for (byte, padding) in swizzled.iter_mut().zip(padding) {
                if padding {
                    prop_assert_eq!(*byte, 0);
                    *byte = 0xaa;
                }
            }
            prop_assert_eq!(lane_order_from_swizzled(&swizzled, rows, k).unwrap(), lanes);
        }
    }
}
