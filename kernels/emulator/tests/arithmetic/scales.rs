//! Which byte of which lane scales what.

use ptx_emulator::Lanes;
use ptx_emulator::convert::Minifloat;
use ptx_emulator::tensor::{
    Accumulator, BlockScales, Eight, Mxf4, ScaleFormat, ScaleVec, mma_f8, mma_mxf4nvf4,
    mma_mxf8f6f4,
};

use super::layout::{Table, gather, scatter, table};

const SELECTORS: &str = include_str!("../fixtures/selectors/selectors.txt");
const E4M3: Eight = Eight {
    a: Minifloat::E4m3,
    b: Minifloat::E4m3,
    accumulator: Accumulator::Truncated,
};
const ZERO: [Lanes; 4] = [[0; 32]; 4];

/// A kind of instruction on matrices of ones.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Kind {
    Nvfp4,
    Mxfp4,
    Mxfp8,
}

impl Kind {
    /// Elements of k, and scales of a row.
    fn sizes(self) -> (usize, usize) {
        match self {
            Self::Nvfp4 => (64, 4),
            Self::Mxfp4 => (64, 2),
            Self::Mxfp8 => (32, 1),
        }
    }

    /// Codes of the scales 1 and 2, of NaN, and of the least: zero, or 2^-127.
    fn codes(self) -> [u8; 4] {
        if self == Self::Nvfp4 {
            [0x38, 0x40, 0x7f, 0]
        } else {
            [127, 128, 0xff, 0]
        }
    }

    fn run(self, scales: &BlockScales<'_>) -> Result<[[f32; 8]; 16], String> {
        let (k, _) = self.sizes();
        let name = if k == 64 { "mxf4nvf4_k64" } else { "e4m3_k32" };
        let (bits, one) = if k == 64 { (4, 2) } else { (8, 0x38) };
        let a = scatter(&table(name, "A"), 16, bits, |_, _| one);
        let b = scatter(&table(name, "B"), 8, bits, |_, _| one);
        let mxf4 = |vec, scale| Mxf4 {
            vec,
            scale,
            accumulator: Accumulator::Truncated,
        };
        let d = match self {
            Self::Nvfp4 => mma_mxf4nvf4(
                &a,
                &b,
                &ZERO,
                scales,
                mxf4(ScaleVec::X4, ScaleFormat::Ue4m3),
            ),
            Self::Mxfp4 => mma_mxf4nvf4(
                &a,
                &b,
                &ZERO,
                scales,
                mxf4(ScaleVec::X2, ScaleFormat::Ue8m0),
            ),
            Self::Mxfp8 => mma_mxf8f6f4(&a, &b, &ZERO, scales, E4M3),
        };
        d.map(|d| gather(&d).map(|row| row.map(f32::from_bits)))
    }

    fn scale_table(self, operand: &str) -> Table {
        table(
            if self.sizes().0 == 64 {
                "mxf4nvf4_k64"
            } else {
                "mxf8f6f4_k32"
            },
            operand,
        )
    }
}

/// The lane of `row` for a selector, found in CUTLASS's table: A's selector counts pairs of lanes, B's lanes.
fn lane_of(table: &Table, row: usize, thread: usize) -> usize {
    let lanes: Vec<usize> = (0..32)
        .filter(|&lane| table.threads[lane][0] == row)
        .filter(|lane| {
            if table.operand == "SFA" {
                lane % 4 / 2 == thread
            } else {
                lane % 4 == thread
            }
        })
        .collect();
    assert_eq!(lanes.len(), 1);
    lanes[0]
}

struct Selected {
    byte: usize,
    thread: usize,
}

/// A register whose selected bytes are `code(row, block)`; all others are NaN, so that reading one shows.
fn register(
    kind: Kind,
    operand: &str,
    selected: &Selected,
    code: impl Fn(usize, usize) -> u8,
) -> Lanes {
    let table = kind.scale_table(operand);
    let mut bytes = [[kind.codes()[2]; 4]; 32];
    for row in 0..if operand == "SFA" { 16 } else { 8 } {
        let lane = lane_of(&table, row, selected.thread);
        for block in 0..kind.sizes().1 {
            bytes[lane][selected.byte + block] = code(row, block);
        }
    }
    bytes.map(u32::from_le_bytes)
}

/// Runs `kind` with A's and B's scales by these functions, at every pair of legal selectors.
fn at_every_selector(
    kind: Kind,
    a: impl Fn(usize, usize) -> u8,
    b: impl Fn(usize, usize) -> u8,
    check: impl Fn(&[[f32; 8]; 16]),
) {
    let (_, blocks) = kind.sizes();
    let mut runs = 0;
    for (byte_a, thread_a) in (0..4)
        .step_by(blocks)
        .flat_map(|byte| [(byte, 0), (byte, 1)])
    {
        for (byte_b, thread_b) in (0..4)
            .step_by(blocks)
            .flat_map(|byte| (0..4).map(move |t| (byte, t)))
        {
            let sfa = register(
                kind,
                "SFA",
                &Selected {
                    byte: byte_a,
                    thread: thread_a,
                },
                &a,
            );
            let sfb = register(
                kind,
                "SFB",
                &Selected {
                    byte: byte_b,
                    thread: thread_b,
                },
                &b,
            );
            let scales = BlockScales {
                a: &sfa,
                b: &sfb,
                byte_a: byte_a as u16,
                thread_a: thread_a as u16,
                byte_b: byte_b as u16,
                thread_b: thread_b as u16,
            };
            check(&kind.run(&scales).unwrap());
            runs += 1;
        }
    }
    assert_eq!(runs, 8 * (4 / blocks) * (4 / blocks));
}

const KINDS: [Kind; 3] = [Kind::Nvfp4, Kind::Mxfp4, Kind::Mxfp8];

#[test]
fn one_doubled_scale_shows_in_its_row_or_column_only() {
    for kind in KINDS {
        let ([one, two, ..], (k, blocks)) = (kind.codes(), kind.sizes());
        let more = (k + k / blocks) as f32;
        let hot = |at: (usize, usize)| move |row, block| if (row, block) == at { two } else { one };
        for block in 0..blocks {
            for row in 0..16 {
                at_every_selector(
                    kind,
                    hot((row, block)),
                    |_, _| one,
                    |d| {
                        let mut expected = [[k as f32; 8]; 16];
                        expected[row] = [more; 8];
                        assert_eq!(*d, expected, "{kind:?} SFA row {row} block {block}");
                    },
                );
            }
            for column in 0..8 {
                at_every_selector(
                    kind,
                    |_, _| one,
                    hot((column, block)),
                    |d| {
                        let mut expected = [[k as f32; 8]; 16];
                        expected.iter_mut().for_each(|row| row[column] = more);
                        assert_eq!(*d, expected, "{kind:?} SFB column {column} block {block}");
                    },
                );
            }
        }
    }
}

#[test]
fn a_nan_scale_poisons_exactly_its_row_or_column() {
    for kind in KINDS {
        let [one, _, nan, _] = kind.codes();
        let last = kind.sizes().1 - 1;
        at_every_selector(
            kind,
            |row, block| if (row, block) == (9, last) { nan } else { one },
            |_, _| one,
            |d| {
                for (r, row) in d.iter().enumerate() {
                    assert!(row.iter().all(|x| x.is_nan() == (r == 9)));
                }
            },
        );
        at_every_selector(
            kind,
            |_, _| one,
            |row, block| if (row, block) == (5, last) { nan } else { one },
            |d| {
                for row in d {
                    assert!(row.iter().enumerate().all(|(n, x)| x.is_nan() == (n == 5)));
                }
            },
        );
    }
}

#[test]
fn a_zero_scale_gives_zero_and_2_to_minus_127_is_not_zero() {
    let [one, _, _, least] = Kind::Nvfp4.codes();
    at_every_selector(
        Kind::Nvfp4,
        |row, _| if row < 8 { least } else { one },
        |_, _| one,
        |d| {
            assert_eq!(d[..8], [[0.0; 8]; 8]);
            assert_eq!(d[8..], [[64.0; 8]; 8]);
        },
    );
    let [one, _, _, least] = Kind::Mxfp8.codes();
    at_every_selector(
        Kind::Mxfp8,
        |_, _| least,
        |_, _| one,
        |d| assert_eq!(*d, [[32.0 * 2f32.powi(-127); 8]; 16]),
    );
}

#[test]
fn selectors_and_types_are_legal_where_ptxas_says_so() {
    let mut answers = [0; 2];
    for line in SELECTORS.lines().filter(|line| !line.starts_with('#')) {
        let words: Vec<&str> = line.split(' ').collect();
        let [byte_a, thread_a, byte_b, thread_b] =
            [3, 4, 5, 6].map(|i| words[i].parse::<u16>().unwrap());
        let legal = words[7] == "yes";
        let ones = if words[2] == "ue4m3" {
            [0x3838_3838; 32]
        } else {
            [0x7f7f_7f7f; 32]
        };
        let scales = BlockScales {
            a: &ones,
            b: &ones,
            byte_a,
            thread_a,
            byte_b,
            thread_b,
        };
        let vec = match words[1] {
            "1X" => ScaleVec::X1,
            "2X" => ScaleVec::X2,
            _ => ScaleVec::X4,
        };
        let scale = if words[2] == "ue4m3" {
            ScaleFormat::Ue4m3
        } else {
            ScaleFormat::Ue8m0
        };
        let ours = match words[0] {
            "mxf8f6f4" => mma_mxf8f6f4(&ZERO, &[[0; 32]; 2], &ZERO, &scales, E4M3),
            _ => {
                let types = Mxf4 {
                    vec,
                    scale,
                    accumulator: Accumulator::Truncated,
                };
                mma_mxf4nvf4(&ZERO, &[[0; 32]; 2], &ZERO, &scales, types)
            }
        };
        assert_eq!(ours.is_ok(), legal, "{line}");
        answers[usize::from(legal)] += 1;
    }
    assert_eq!(answers, [79, 23]);
}

#[test]
fn a_ue4m3_scale_with_a_sign_is_refused_only_where_it_is_read() {
    let mut ones = [0x3838_3838; 32];
    // Lane 2 belongs to thread-id-a 1, and to thread-id-b 2.
    ones[2] = 0xb838_3838;
    let scales = |thread_a, thread_b| BlockScales {
        a: &ones,
        b: &ones,
        byte_a: 0,
        thread_a,
        byte_b: 0,
        thread_b,
    };
    assert!(Kind::Nvfp4.run(&scales(0, 0)).is_ok());
    assert!(Kind::Nvfp4.run(&scales(1, 0)).is_err());
    assert!(Kind::Nvfp4.run(&scales(0, 2)).is_err());
}

#[test]
fn nan_elements_poison_exactly_their_row_or_column() {
    let (table_a, table_b) = (table("e4m3_k32", "A"), table("e4m3_k32", "B"));
    let ones_a: [Lanes; 4] = scatter(&table_a, 16, 8, |_, _| 0x38);
    let ones_b: [Lanes; 2] = scatter(&table_b, 8, 8, |_, _| 0x38);
    for nan in [0x7f, 0xff] {
        let a = scatter(&table_a, 16, 8, |row, k| {
            if (row, k) == (11, 30) { nan } else { 0x38 }
        });
        let b = scatter(
            &table_b,
            8,
            8,
            |row, k| if (row, k) == (3, 17) { nan } else { 0x38 },
        );
        let value =
            |d: Result<[Lanes; 4], String>| gather(&d.unwrap()).map(|row| row.map(f32::from_bits));
        for (r, row) in value(mma_f8(&a, &ones_b, &ZERO, E4M3)).iter().enumerate() {
            assert!(
                row.iter()
                    .all(|x| if r == 11 { x.is_nan() } else { *x == 32.0 })
            );
        }
        for row in value(mma_f8(&ones_a, &b, &ZERO, E4M3)) {
            assert!(row.iter().enumerate().all(|(n, x)| if n == 3 {
                x.is_nan()
            } else {
                *x == 32.0
            }));
        }
    }
    // e5m2 has infinities: inf * 1 is inf, inf - inf is NaN.
    let types = Eight {
        a: Minifloat::E5m2,
        ..E4M3
    };
    let a = scatter(&table_a, 16, 8, |row, k| match (row, k) {
        (2, 0) | (4, 0) => 0x7c,
        (4, 1) => 0xfc,
        _ => 0x3c,
    });
    let d = gather(&mma_f8(&a, &ones_b, &ZERO, types).unwrap()).map(|row| row.map(f32::from_bits));
    assert_eq!(d[2], [f32::INFINITY; 8]);
    assert!(d[4].iter().all(|x| x.is_nan()));
    assert_eq!(d[5], [32.0; 8]);
}
