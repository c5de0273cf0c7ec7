//! Random matrices against f64 products of the decoded numbers.

use half::{bf16, f16};
use ptx_emulator::Lanes;
use ptx_emulator::convert::{Minifloat, decode};
use ptx_emulator::tensor::{
    Accumulator, BlockScales, Eight, Integer, Mxf4, ScaleFormat, ScaleVec, Sixteen, mma_f8,
    mma_f8_f16, mma_int8, mma_k8, mma_k8_f16, mma_k16, mma_k16_f16, mma_mxf4nvf4, mma_mxf8f6f4,
    mma_tf32,
};

use super::Random;
use super::layout::{gather, scatter, table};

type Matrix = Vec<Vec<u32>>;

fn matrix(random: &mut Random, rows: usize, k: usize, code: impl Fn(u64) -> u32) -> Matrix {
    (0..rows)
        .map(|_| (0..k).map(|_| code(random.any())).collect())
        .collect()
}

/// Instructions in a row on one accumulator.
const STEPS: usize = 16;

/// Runs [`STEPS`] instructions of depth `k`; `step` adds one to the accumulator and gives the exact sum of `a * b` and
/// of `|a * b|` of an output. Then the bound: (K / 32) * 2^-20 * sum |a * b|.
fn check_bound(k: usize, mut step: impl FnMut(&[Lanes; 4]) -> ([Lanes; 4], [[(f64, f64); 8]; 16])) {
    let mut d = [[0; 32]; 4];
    let mut sums = [[(0.0, 0.0); 8]; 16];
    for _ in 0..STEPS {
        let (next, exact) = step(&d);
        d = next;
        for (sum, part) in sums.as_flattened_mut().iter_mut().zip(exact.as_flattened()) {
            *sum = (sum.0 + part.0, sum.1 + part.1);
        }
    }
    let bound = (k * STEPS) as f64 / 32.0 * 2f64.powi(-20);
    let mut inexact = 0;
    for (d, (sum, magnitudes)) in gather(&d).as_flattened().iter().zip(sums.as_flattened()) {
        let error = (f64::from(f32::from_bits(*d)) - sum).abs();
        assert!(
            error <= bound * magnitudes,
            "{error:e} over {:e}",
            bound * magnitudes
        );
        inexact += u32::from(error > 0.0);
    }
    // Were every sum exact, the bound would say nothing.
    assert!(inexact > 0);
}

fn exact(
    a: &Matrix,
    b: &Matrix,
    value: impl Fn(usize, usize, bool, u32) -> f64,
) -> [[(f64, f64); 8]; 16] {
    std::array::from_fn(|r| {
        std::array::from_fn(|n| {
            let products =
                (0..a[r].len()).map(|k| value(r, k, true, a[r][k]) * value(n, k, false, b[n][k]));
            products.fold((0.0, 0.0), |(sum, size), p| (sum + p, size + p.abs()))
        })
    })
}

#[test]
fn nvfp4_and_mxfp4_stay_within_the_bound() {
    let (table_a, table_b) = (table("mxf4nvf4_k64", "A"), table("mxf4nvf4_k64", "B"));
    for (vec, scale, blocks) in [
        (ScaleVec::X4, ScaleFormat::Ue4m3, 4),
        (ScaleVec::X2, ScaleFormat::Ue8m0, 2),
    ] {
        let mut random = Random(8);
        check_bound(64, |c| {
            let a = matrix(&mut random, 16, 64, |x| x as u32 & 0xf);
            let b = matrix(&mut random, 8, 64, |x| x as u32 & 0xf);
            let code = |x: u64| {
                if blocks == 4 {
                    0x20 + x as u32 % 0x30
                } else {
                    120 + x as u32 % 16
                }
            };
            let scale_a = matrix(&mut random, 16, blocks, code);
            let scale_b = matrix(&mut random, 8, blocks, code);
            let word = |row: &[u32]| row.iter().rev().fold(0, |word, code| word << 8 | code);
            let mut sfa = [0; 32];
            let mut sfb = [0; 32];
            for row in 0..16 {
                sfa[4 * (row % 8) + row / 8] = word(&scale_a[row]);
            }
            for column in 0..8 {
                sfb[4 * column] = word(&scale_b[column]);
            }
            let scales = BlockScales {
                a: &sfa,
                b: &sfb,
                byte_a: 0,
                thread_a: 0,
                byte_b: 0,
                thread_b: 0,
            };
            let types = Mxf4 {
                vec,
                scale,
                accumulator: Accumulator::Truncated,
            };
            let d = mma_mxf4nvf4(
                &scatter(&table_a, 16, 4, |r, k| a[r][k]),
                &scatter(&table_b, 8, 4, |r, k| b[r][k]),
                c,
                &scales,
                types,
            );
            let format = if blocks == 4 {
                Minifloat::E4m3
            } else {
                Minifloat::Ue8m0
            };
            let value = |row: usize, k: usize, of_a: bool, code: u32| {
                let codes = if of_a { &scale_a } else { &scale_b };
                let scale = decode(format, codes[row][k * blocks / 64] as u8);
                f64::from(decode(Minifloat::E2m1, code as u8)) * f64::from(scale)
            };
            (d.unwrap(), exact(&a, &b, value))
        });
    }
}

/// A code of 8 bits that is finite.
fn finite(format: Minifloat) -> impl Fn(u64) -> u32 {
    move |x| {
        let most = u64::from(format.largest()) + 1;
        ((x >> 8) % most) as u32 | (x as u32 & 0x80)
    }
}

#[test]
fn fp8_with_and_without_scales_stays_within_the_bound() {
    let (table_a, table_b) = (table("e4m3_k32", "A"), table("e4m3_k32", "B"));
    for (left, right) in [
        (Minifloat::E4m3, Minifloat::E4m3),
        (Minifloat::E5m2, Minifloat::E4m3),
    ] {
        for scaled in [false, true] {
            let mut random = Random(9);
            check_bound(32, |c| {
                let a = matrix(&mut random, 16, 32, finite(left));
                let b = matrix(&mut random, 8, 32, finite(right));
                let fragment_a = scatter(&table_a, 16, 8, |r, k| a[r][k]);
                let fragment_b = scatter(&table_b, 8, 8, |r, k| b[r][k]);
                let types = Eight {
                    a: left,
                    b: right,
                    accumulator: Accumulator::Truncated,
                };
                let sfa: Lanes = std::array::from_fn(|_| 124 + random.below(8) as u32);
                let sfb: Lanes = std::array::from_fn(|_| 124 + random.below(8) as u32);
                let scales = BlockScales {
                    a: &sfa,
                    b: &sfb,
                    byte_a: 0,
                    thread_a: 1,
                    byte_b: 0,
                    thread_b: 3,
                };
                let d = if scaled {
                    mma_mxf8f6f4(&fragment_a, &fragment_b, c, &scales, types)
                } else {
                    mma_f8(&fragment_a, &fragment_b, c, types)
                };
                let value = |row: usize, _: usize, of_a: bool, code: u32| {
                    let code8 = if of_a {
                        sfa[4 * (row % 8) + 2 + row / 8]
                    } else {
                        sfb[4 * row + 3]
                    };
                    let scale = if scaled {
                        2f64.powi(code8 as i32 - 127)
                    } else {
                        1.0
                    };
                    f64::from(decode(if of_a { left } else { right }, code as u8)) * scale
                };
                (d.unwrap(), exact(&a, &b, value))
            });
        }
    }
}

#[test]
fn halves_and_tf32_stay_within_the_bound() {
    // Between 2^-4 and 2^4.
    let f16_code = |x: u64| (x as u32 & 0x83ff) | (11 + (x >> 32) as u32 % 8) << 10;
    let bf16_code = |x: u64| (x as u32 & 0x807f) | (123 + (x >> 32) as u32 % 8) << 7;
    let tf32_code = |x: u64| (x as u32 & 0x807f_e000) | (123 + (x >> 32) as u32 % 8) << 23;
    let sum = Accumulator::Truncated;
    for inputs in [Sixteen::F16, Sixteen::Bf16] {
        let code = move |x| {
            if inputs == Sixteen::F16 {
                f16_code(x)
            } else {
                bf16_code(x)
            }
        };
        let value = |_, _, _, code: u32| match inputs {
            Sixteen::F16 => f16::from_bits(code as u16).to_f64(),
            Sixteen::Bf16 => bf16::from_bits(code as u16).to_f64(),
        };
        let mut random = Random(10);
        check_bound(16, |c| {
            let (a, b) = (
                matrix(&mut random, 16, 16, code),
                matrix(&mut random, 8, 16, code),
            );
            let fragment_a = scatter(&table("bf16_k16", "A"), 16, 16, |r, k| a[r][k]);
            let fragment_b = scatter(&table("bf16_k16", "B"), 8, 16, |r, k| b[r][k]);
            (
                mma_k16(&fragment_a, &fragment_b, c, inputs, sum),
                exact(&a, &b, value),
            )
        });
        check_bound(8, |c| {
            let (a, b) = (
                matrix(&mut random, 16, 8, code),
                matrix(&mut random, 8, 8, code),
            );
            let fragment_a = scatter(&table("bf16_k8", "A"), 16, 16, |r, k| a[r][k]);
            let fragment_b = scatter(&table("bf16_k8", "B"), 8, 16, |r, k| b[r][k]);
            (
                mma_k8(&fragment_a, &fragment_b, c, inputs, sum),
                exact(&a, &b, value),
            )
        });
    }
    let mut random = Random(11);
    check_bound(8, |c| {
        let (a, b) = (
            matrix(&mut random, 16, 8, tf32_code),
            matrix(&mut random, 8, 8, tf32_code),
        );
        let fragment_a = scatter(&table("tf32_k8", "A"), 16, 32, |r, k| a[r][k]);
        let fragment_b = scatter(&table("tf32_k8", "B"), 8, 32, |r, k| b[r][k]);
        (
            mma_tf32(&fragment_a, &fragment_b, c, sum),
            exact(&a, &b, |_, _, _, code| f32::from_bits(code).into()),
        )
    });
}

/// The nearest f16, ties to even. (`f16::from_f64` looks at the upper half of the f64 only.)
fn nearest_f16(value: f64) -> f16 {
    if value.abs() >= 65520.0 {
        return f16::INFINITY.copysign(f16::from_f64(value));
    }
    let near = f16::from_f64(value).to_bits();
    let distance = |bits: u16| (f16::from_bits(bits).to_f64() - value).abs();
    let candidates = [near.wrapping_sub(1), near, near + 1]
        .into_iter()
        .filter(|&x| f16::from_bits(x).is_finite());
    let best = candidates.min_by(|&x, &y| {
        distance(x)
            .total_cmp(&distance(y))
            .then((x & 1).cmp(&(y & 1)))
    });
    f16::from_bits(best.unwrap())
}

/// One instruction on e4m3: 32 products between 2^-18 and 2^18 are exact in f64, so its sum is the truth.
#[test]
fn the_exact_accumulator_is_the_rounded_f64_sum() {
    let mut random = Random(12);
    let types = Eight {
        a: Minifloat::E4m3,
        b: Minifloat::E4m3,
        accumulator: Accumulator::Exact,
    };
    for _ in 0..50 {
        let a = matrix(&mut random, 16, 32, finite(Minifloat::E4m3));
        let b = matrix(&mut random, 8, 32, finite(Minifloat::E4m3));
        let fragment_a = scatter(&table("e4m3_k32", "A"), 16, 8, |r, k| a[r][k]);
        let fragment_b = scatter(&table("e4m3_k32", "B"), 8, 8, |r, k| b[r][k]);
        let sums = exact(&a, &b, |_, _, _, code| {
            decode(Minifloat::E4m3, code as u8).into()
        });
        let d = gather(&mma_f8(&fragment_a, &fragment_b, &[[0; 32]; 4], types).unwrap());
        let halves = mma_f8_f16(&fragment_a, &fragment_b, &[[0; 32]; 2], types).unwrap();
        for r in 0..16 {
            for n in 0..8 {
                assert_eq!(f32::from_bits(d[r][n]), sums[r][n].0 as f32);
                let pair = halves[r / 8][4 * (r % 8) + n / 2];
                let half = f16::from_bits((pair >> (16 * (n % 2))) as u16);
                assert_eq!(half, nearest_f16(sums[r][n].0));
            }
        }
    }
}

#[test]
fn f16_accumulators_of_both_depths() {
    let mut random = Random(13);
    let code = |x: u64| (x as u32 & 0x83ff) | (13 + (x >> 32) as u32 % 4) << 10;
    let c: [Lanes; 2] = std::array::from_fn(|_| {
        std::array::from_fn(|_| code(random.any()) | code(random.any()) << 16)
    });
    let check = |d: [Lanes; 2], sums: [[(f64, f64); 8]; 16]| {
        for r in 0..16 {
            for n in 0..8 {
                let half = |x: &[Lanes; 2]| {
                    f16::from_bits((x[r / 8][4 * (r % 8) + n / 2] >> (16 * (n % 2))) as u16)
                };
                // Products are multiples of 2^-24 and c of 2^-12: exact in f64.
                assert_eq!(half(&d), nearest_f16(half(&c).to_f64() + sums[r][n].0));
            }
        }
    };
    let value = |_, _, _, code: u32| f16::from_bits(code as u16).to_f64();
    let (a, b) = (
        matrix(&mut random, 16, 16, code),
        matrix(&mut random, 8, 16, code),
    );
    let fragment_a = scatter(&table("f16_k16", "A"), 16, 16, |r, k| a[r][k]);
    let fragment_b = scatter(&table("f16_k16", "B"), 8, 16, |r, k| b[r][k]);
    check(
        mma_k16_f16(&fragment_a, &fragment_b, &c, Accumulator::Exact),
        exact(&a, &b, value),
    );
    let (a, b) = (
        matrix(&mut random, 16, 8, code),
        matrix(&mut random, 8, 8, code),
    );
    let fragment_a = scatter(&table("bf16_k8", "A"), 16, 16, |r, k| a[r][k]);
    let fragment_b = scatter(&table("bf16_k8", "B"), 8, 16, |r, k| b[r][k]);
    check(
        mma_k8_f16(&fragment_a, &fragment_b, &c, Accumulator::Exact),
        exact(&a, &b, value),
    );
}

#[test]
fn integers_are_exact_wrap_and_saturate() {
    let mut random = Random(14);
    let (table_a, table_b) = (table("s8_k32", "A"), table("s8_k32", "B"));
    for (a_signed, b_signed, satfinite) in [
        (true, true, false),
        (false, true, false),
        (true, false, true),
        (false, false, true),
    ] {
        let a = matrix(&mut random, 16, 32, |x| x as u32 & 0xff);
        let b = matrix(&mut random, 8, 32, |x| x as u32 & 0xff);
        let value = |signed: bool, code: u32| {
            if signed {
                i64::from(code as u8 as i8)
            } else {
                i64::from(code)
            }
        };
        for c in [0, 12345, i32::MAX - 5, i32::MIN + 5] {
            let d = gather(&mma_int8(
                &scatter(&table_a, 16, 8, |r, k| a[r][k]),
                &scatter(&table_b, 8, 8, |r, k| b[r][k]),
                &[[c as u32; 32]; 4],
                Integer {
                    a_signed,
                    b_signed,
                    satfinite,
                },
            ));
            for r in 0..16 {
                for n in 0..8 {
                    let dot: i64 = (0..32)
                        .map(|k| value(a_signed, a[r][k]) * value(b_signed, b[n][k]))
                        .sum();
                    let sum = dot + i64::from(c);
                    let expected = if satfinite {
                        sum.clamp(i32::MIN.into(), i32::MAX.into()) as i32
                    } else {
                        sum as i32
                    };
                    assert_eq!(d[r][n] as i32, expected);
                }
            }
        }
    }
}
