//! The order in which NVFP4 block scales are stored: tiles of 128 rows by 4 columns, as cuBLAS reads them.
//!
//! Inside of a tile of 512 bytes row r and column c lie at `(r % 32) * 16 + (r / 32) * 4 + c`. Tiles follow each other
//! along a row of tiles, so that 128 rows of scales are one run of bytes: a weight may be converted 128 rows at a time.

/// Rows of a tile.
pub const TILE_ROWS: usize = 128;
/// Columns of a tile.
pub const TILE_COLUMNS: usize = 4;

/// The shape in which [rows, columns] scales are stored: whole tiles. (A side that no memory holds stays as it is.)
pub fn padded(rows: usize, columns: usize) -> [usize; 2] {
    let whole = |side: usize, tile| side.checked_next_multiple_of(tile).unwrap_or(side);
    [whole(rows, TILE_ROWS), whole(columns, TILE_COLUMNS)]
}

/// Where the scale of (`row`, `column`) lies among those of a weight that has `columns` scales a row, padding not counted.
#[inline(always)]
pub fn offset(row: usize, column: usize, columns: usize) -> usize {
    let tiles = columns.div_ceil(TILE_COLUMNS);
    let tile = (row / TILE_ROWS) * tiles + column / TILE_COLUMNS;
    tile * (TILE_ROWS * TILE_COLUMNS)
        + (row % 32) * 16
        + (row % TILE_ROWS) / 32 * TILE_COLUMNS
        + column % TILE_COLUMNS
}

/// Rows of `columns` scales into tiles; the padding becomes zero.
///
/// # Panics
/// If `scales` is not whole rows or `blocked` has not the [`padded`] size.
pub fn to_blocked(scales: &[u8], columns: usize, blocked: &mut [u8]) {
    let rows = check(scales, columns, blocked);
    if padded(rows, columns) != [rows, columns] {
        blocked.fill(0);
    }
    for (row, scales) in scales.chunks_exact(columns.max(1)).enumerate() {
        for (group, scales) in scales.chunks(TILE_COLUMNS).enumerate() {
            let at = offset(row, group * TILE_COLUMNS, columns);
            blocked[at..at + scales.len()].copy_from_slice(scales);
        }
    }
}

/// The reverse of [`to_blocked`]; the padding is not looked at.
///
/// # Panics
/// If `scales` is not whole rows or `blocked` has not the [`padded`] size.
pub fn from_blocked(blocked: &[u8], columns: usize, scales: &mut [u8]) {
    check(scales, columns, blocked);
    for (row, scales) in scales.chunks_exact_mut(columns.max(1)).enumerate() {
        for (group, scales) in scales.chunks_mut(TILE_COLUMNS).enumerate() {
            let at = offset(row, group * TILE_COLUMNS, columns);
            scales.copy_from_slice(&blocked[at..at + scales.len()]);
        }
    }
}

/// The rows of `scales`, once the sizes fit together.
fn check(scales: &[u8], columns: usize, blocked: &[u8]) -> usize {
    let rows = scales.len() / columns.max(1);
    assert_eq!(scales.len(), rows * columns, "whole rows of scales");
    let [padded_rows, padded_columns] = padded(rows, columns);
    assert_eq!(blocked.len(), padded_rows * padded_columns, "whole tiles");
    rows
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Worked by hand from cuBLAS' description of the 128x4 layout, for 192 columns (a weight with K = 3072).
    #[test]
    fn landmarks() {
        for (row, column, expected) in [
            (0, 0, 0),
            (0, 3, 3),
            (0, 4, 512),
            (1, 0, 16),
            (32, 0, 4),
            (31, 3, 499),
            (127, 3, 511),
            (128, 0, 24_576),
            (3071, 191, 589_823),
        ] {
            assert_eq!(offset(row, column, 192), expected, "({row}, {column})");
        }
        assert_eq!(padded(3072, 192), [3072, 192]);
        assert_eq!(padded(1, 2), [128, 4]);
    }

    proptest! {
        #[test]
        fn round_trips_and_pads_with_zero(rows in 1usize..300, columns in 1usize..20, seed in any::<u8>()) {
            let scales: Vec<u8> = (0..rows * columns).map(|i| (i * 31 % 255) as u8 ^ seed | 1).collect();
            let [padded_rows, padded_columns] = padded(rows, columns);
            let mut blocked = vec![0xaa; padded_rows * padded_columns];
            to_blocked(&scales, columns, &mut blocked);
            for row in 0..padded_rows {
                for column in 0..padded_columns {
                    let inside = row < rows && column < columns;
                    let expected = if inside { scales[row * columns + column] } else { 0 };
                    prop_assert_eq!(blocked[offset(row, column, columns)], expected);
                }
            }
            let mut again = vec![0; scales.len()];
            from_blocked(&blocked, columns, &mut again);
            prop_assert_eq!(again, scales);
        }
    }
}
