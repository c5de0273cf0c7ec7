//! One element of A, one of B: one of D.

use ptx_emulator::convert::Minifloat;
use ptx_emulator::tensor::{
    Accumulator, BlockScales, Eight, Integer, Mxf4, ScaleFormat, ScaleVec, Sixteen, mma_f8,
    mma_int8, mma_k8, mma_k16, mma_mxf4nvf4, mma_mxf8f6f4, mma_tf32,
};

use super::layout::{gather, scatter, table};

/// An instruction with the table that says where its operands lie.
struct Kind {
    table: &'static str,
    bits: usize,
    k: usize,
    /// Codes of 2 and 3.
    two: u32,
    three: u32,
    six: u32,
    run: fn(&A, &B) -> [[u32; 8]; 16],
}

type A = [[u32; 32]; 4];
type B = [[u32; 32]; 2];
const ZERO: A = [[0; 32]; 4];
const ONES: [u32; 32] = [0x7f7f_7f7f; 32];
const UE4M3_ONES: [u32; 32] = [0x3838_3838; 32];
const E4M3: Eight = Eight {
    a: Minifloat::E4m3,
    b: Minifloat::E4m3,
    accumulator: Accumulator::Truncated,
};

fn scales(register: &[u32; 32]) -> BlockScales<'_> {
    BlockScales {
        a: register,
        b: register,
        byte_a: 0,
        thread_a: 0,
        byte_b: 0,
        thread_b: 0,
    }
}

const SUM: Accumulator = Accumulator::Truncated;
const SIX: u32 = 0x40c0_0000;

const KINDS: [Kind; 8] = [
    Kind {
        table: "bf16_k16",
        bits: 16,
        k: 16,
        two: 0x4000,
        three: 0x4040,
        six: SIX,
        run: |a, b| gather(&mma_k16(a, b, &ZERO, Sixteen::Bf16, SUM)),
    },
    Kind {
        table: "f16_k16",
        bits: 16,
        k: 16,
        two: 0x4000,
        three: 0x4200,
        six: SIX,
        run: |a, b| gather(&mma_k16(a, b, &ZERO, Sixteen::F16, SUM)),
    },
    Kind {
        table: "bf16_k8",
        bits: 16,
        k: 8,
        two: 0x4000,
        three: 0x4040,
        six: SIX,
        run: |a, b| gather(&mma_k8(&[a[0], a[1]], &[b[0]], &ZERO, Sixteen::Bf16, SUM)),
    },
    Kind {
        table: "tf32_k8",
        bits: 32,
        k: 8,
        two: 0x4000_0000,
        three: 0x4040_0000,
        six: SIX,
        run: |a, b| gather(&mma_tf32(a, b, &ZERO, SUM)),
    },
    Kind {
        table: "e4m3_k32",
        bits: 8,
        k: 32,
        two: 0x40,
        three: 0x44,
        six: SIX,
        run: |a, b| gather(&mma_f8(a, b, &ZERO, E4M3).unwrap()),
    },
    // The same instruction with scales of 1.
    Kind {
        table: "e4m3_k32",
        bits: 8,
        k: 32,
        two: 0x40,
        three: 0x44,
        six: SIX,
        run: |a, b| gather(&mma_mxf8f6f4(a, b, &ZERO, &scales(&ONES), E4M3).unwrap()),
    },
    Kind {
        table: "s8_k32",
        bits: 8,
        k: 32,
        two: 2,
        three: 3,
        six: 6,
        run: |a, b| {
            gather(&mma_int8(
                a,
                b,
                &ZERO,
                Integer {
                    a_signed: true,
                    b_signed: true,
                    satfinite: false,
                },
            ))
        },
    },
    Kind {
        table: "mxf4nvf4_k64",
        bits: 4,
        k: 64,
        two: 4,
        three: 5,
        six: SIX,
        run: |a, b| {
            let types = Mxf4 {
                vec: ScaleVec::X4,
                scale: ScaleFormat::Ue4m3,
                accumulator: SUM,
            };
            gather(&mma_mxf4nvf4(a, b, &ZERO, &scales(&UE4M3_ONES), types).unwrap())
        },
    },
];

#[test]
fn every_pair_of_elements_meets_in_its_own_output() {
    for kind in &KINDS {
        let (table_a, table_b) = (table(kind.table, "A"), table(kind.table, "B"));
        let hot = |code, at: (usize, usize)| move |row, k| if (row, k) == at { code } else { 0 };
        let columns: Vec<Vec<B>> = (0..8)
            .map(|n| {
                (0..kind.k)
                    .map(|k| scatter(&table_b, 8, kind.bits, hot(kind.three, (n, k))))
                    .collect()
            })
            .collect();
        for r in 0..16 {
            for k in 0..kind.k {
                let a: A = scatter(&table_a, 16, kind.bits, hot(kind.two, (r, k)));
                for (n, column) in columns.iter().enumerate() {
                    let mut expected = [[0; 8]; 16];
                    expected[r][n] = kind.six;
                    assert_eq!(
                        (kind.run)(&a, &column[k]),
                        expected,
                        "{} row {r} column {n} k {k}",
                        kind.table
                    );
                    // Another k: nothing meets.
                    let other = (k + 1 + r) % kind.k;
                    if other != k {
                        assert_eq!(
                            (kind.run)(&a, &column[other]),
                            [[0; 8]; 16],
                            "{} k {k} {other}",
                            kind.table
                        );
                    }
                }
            }
        }
    }
}

/// e2m1 in the middle of its container, six bits at its bottom, padding ignored.
#[test]
fn containers_of_small_formats() {
    let table_b = table("e4m3_k32", "B");
    let table_a = table("e4m3_k32", "A");
    let b: B = scatter(&table_b, 8, 8, |_, _| 0x38);
    for (format, two) in [
        (Minifloat::E2m1, 4 << 2),
        (Minifloat::E2m3, 0x10),
        (Minifloat::E3m2, 0x10),
        (Minifloat::E5m2, 0x40),
    ] {
        let types = Eight { a: format, ..E4M3 };
        let padding = match format {
            Minifloat::E2m1 => 0b1100_0011,
            Minifloat::E5m2 => 0,
            _ => 0b1100_0000,
        };
        for extra in [0, padding] {
            let a: A = scatter(&table_a, 16, 8, |_, _| two | extra);
            let d = gather(&mma_mxf8f6f4(&a, &b, &ZERO, &scales(&ONES), types).unwrap());
            assert_eq!(d, [[64f32.to_bits(); 8]; 16], "{format:?}");
            assert_eq!(gather(&mma_f8(&a, &b, &ZERO, types).unwrap()), d);
        }
    }
    assert!(
        mma_f8(
            &ZERO,
            &b,
            &ZERO,
            Eight {
                b: Minifloat::Ue8m0,
                ..E4M3
            }
        )
        .is_err()
    );
}
