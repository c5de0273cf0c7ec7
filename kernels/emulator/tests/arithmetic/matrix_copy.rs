//! `ldmatrix` and `stmatrix` against the layouts of CUTLASS's copy atoms.

use ptx_emulator::Lanes;
use ptx_emulator::tensor::ldmatrix::{Load, ldmatrix, movmatrix, rows_needed};
use ptx_emulator::tensor::stmatrix::{Store, stmatrix};

use super::layout::{Table, tables};

const TABLES: &str = include_str!("../fixtures/cutlass_layouts/copy.txt");

fn pair(name: &str) -> (Table, Table) {
    let mut found = tables(TABLES)
        .into_iter()
        .filter(|table| table.name == name);
    let (src, dst) = (found.next().unwrap(), found.next().unwrap());
    assert_eq!((src.operand, dst.operand), ("src", "dst"));
    (src, dst)
}

fn byte_of(registers: &[Lanes], lane: usize, byte: usize) -> usize {
    usize::from(registers[byte / 4][lane].to_le_bytes()[byte % 4])
}

/// Rows that hold the number of each byte, as CUTLASS counts them: once its low and once its high 8 bits.
fn numbered(src: &Table, rows: usize, shift: usize) -> Vec<[u8; 16]> {
    (0..rows)
        .map(|row| std::array::from_fn(|j| (src.threads[row][j] >> shift) as u8))
        .collect()
}

fn check_load(name: &str, shape: Load, count: usize, reorder: impl Fn(Vec<Lanes>) -> Vec<Lanes>) {
    let (src, dst) = pair(name);
    let rows = rows_needed(shape, count).unwrap();
    let [low, high] =
        [0, 8].map(|shift| reorder(ldmatrix(shape, count, &numbered(&src, rows, shift)).unwrap()));
    assert_eq!(4 * low.len(), dst.threads[0].len(), "{name}");
    for (lane, bytes) in dst.threads.iter().enumerate() {
        for (byte, &expected) in bytes.iter().enumerate() {
            let ours = byte_of(&low, lane, byte) | byte_of(&high, lane, byte) << 8;
            assert_eq!(ours, expected, "{name} lane {lane} byte {byte}");
        }
    }
    // Every source byte arrives exactly once.
    let mut all: Vec<usize> = dst.threads.concat();
    all.sort_unstable();
    assert_eq!(all, (0..16 * rows).collect::<Vec<_>>());
}

#[test]
fn ldmatrix_b16() {
    let same = |registers| registers;
    for (count, name) in [
        (1, "SM75_U32x1_LDSM_N"),
        (2, "SM75_U32x2_LDSM_N"),
        (4, "SM75_U32x4_LDSM_N"),
    ] {
        check_load(name, Load::M8n8 { trans: false }, count, same);
    }
    for (count, name) in [
        (1, "SM75_U16x2_LDSM_T"),
        (2, "SM75_U16x4_LDSM_T"),
        (4, "SM75_U16x8_LDSM_T"),
    ] {
        check_load(name, Load::M8n8 { trans: true }, count, same);
    }
}

/// After this instruction CUTLASS (`copy_sm100.hpp`) exchanges the upper half of each even register with the lower half
/// of the odd one; its layout is that of the result.
#[test]
fn ldmatrix_b8_transposed() {
    let exchange = |registers: Vec<Lanes>| {
        let halves = |pair: &[Lanes]| -> [Lanes; 2] {
            [
                std::array::from_fn(|lane| pair[0][lane] & 0xffff | pair[1][lane] << 16),
                std::array::from_fn(|lane| pair[0][lane] >> 16 | pair[1][lane] & 0xffff_0000),
            ]
        };
        registers.chunks_exact(2).flat_map(halves).collect()
    };
    check_load("SM100_U8x8_LDSM_T", Load::M16n16Trans, 1, exchange);
    check_load("SM100_U8x16_LDSM_T", Load::M16n16Trans, 2, exchange);
}

#[test]
fn stmatrix_of_all_shapes() {
    let plain = Store::M8n8 { trans: false };
    let trans = Store::M8n8 { trans: true };
    let cases = [
        ("SM90_U32x1_STSM_N", plain),
        ("SM90_U32x2_STSM_N", plain),
        ("SM90_U32x4_STSM_N", plain),
        ("SM90_U16x2_STSM_T", trans),
        ("SM90_U16x4_STSM_T", trans),
        ("SM90_U16x8_STSM_T", trans),
        ("SM100_U8x4_STSM_T", Store::M16n8Trans),
        ("SM100_U8x8_STSM_T", Store::M16n8Trans),
        ("SM100_U8x16_STSM_T", Store::M16n8Trans),
    ];
    for (name, shape) in cases {
        let (src, dst) = pair(name);
        let count = src.threads[0].len() / 4;
        let [low, high] = [0, 8].map(|shift| {
            let registers: Vec<Lanes> = (0..count)
                .map(|r| {
                    std::array::from_fn(|lane| {
                        u32::from_le_bytes(std::array::from_fn(|j| {
                            (src.threads[lane][4 * r + j] >> shift) as u8
                        }))
                    })
                })
                .collect();
            stmatrix(shape, &registers).unwrap()
        });
        assert_eq!(low.len(), 8 * count);
        for row in 0..8 * count {
            for byte in 0..16 {
                let ours = usize::from(low[row][byte]) | usize::from(high[row][byte]) << 8;
                assert_eq!(ours, dst.threads[row][byte], "{name} row {row} byte {byte}");
            }
        }
    }
}

/// Formats that are expanded while loading: code i of a row lands where byte i of a row of bytes would.
#[test]
fn packed_codes_land_where_bytes_would() {
    let code = |row: usize, i: usize, width: u32| (row * 7 + i * 3) as u8 & ((1 << width) - 1);
    let cases = [
        (Load::M8n16P64, Load::M8n8 { trans: false }, 4, 4),
        (Load::M8n16P32, Load::M8n8 { trans: false }, 4, 6),
        (Load::M16n16TransP64, Load::M16n16Trans, 2, 4),
        (Load::M16n16TransP32, Load::M16n16Trans, 2, 6),
    ];
    for (shape, of_bytes, count, width) in cases {
        let rows = rows_needed(shape, count).unwrap();
        assert_eq!(rows, 32);
        let packed: Vec<[u8; 16]> = (0..rows)
            .map(|row| {
                let mut bits = [false; 128];
                // Padding must not matter.
                bits[16 * width as usize..].fill(true);
                for i in 0..16 {
                    for b in 0..width {
                        bits[i * width as usize + b as usize] = code(row, i, width) >> b & 1 == 1;
                    }
                }
                std::array::from_fn(|byte| {
                    (0..8).fold(0, |sum, b| sum | u8::from(bits[8 * byte + b]) << b)
                })
            })
            .collect();
        let bytes: Vec<[u8; 16]> = (0..rows)
            .map(|row| std::array::from_fn(|i| code(row, i, width)))
            .collect();
        let expected = ldmatrix(of_bytes, count, &bytes).unwrap();
        assert_eq!(
            ldmatrix(shape, count, &packed).unwrap(),
            expected,
            "{shape:?}"
        );
    }
}

#[test]
fn counts_that_do_not_exist_are_refused() {
    assert!(rows_needed(Load::M8n8 { trans: false }, 3).is_err());
    assert!(rows_needed(Load::M16n16Trans, 4).is_err());
    assert!(ldmatrix(Load::M8n8 { trans: false }, 2, &[[0; 16]; 8]).is_err());
    assert!(stmatrix(Store::M16n8Trans, &[[0; 32]; 3]).is_err());
}

#[test]
fn movmatrix_is_a_plain_load_turned_into_a_transposed_one() {
    let rows: Vec<[u8; 16]> = (0..8)
        .map(|row| std::array::from_fn(|j| (16 * row + j) as u8))
        .collect();
    let plain = ldmatrix(Load::M8n8 { trans: false }, 1, &rows).unwrap();
    let trans = ldmatrix(Load::M8n8 { trans: true }, 1, &rows).unwrap();
    assert_eq!(movmatrix(&plain[0]), trans[0]);
    assert_ne!(plain, trans);
}
