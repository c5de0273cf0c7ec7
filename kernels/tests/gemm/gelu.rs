//! The products whose epilogue is GELU and the consumer's format.

use crate::case::{Case, Matrix};
use crate::numbers::{E2M1, Noise, e4m3, gelu, to_e2m1, to_e4m3, to_nvfp4};
use crate::run::{Encoded, How, gelu_of};
use qwen_nvfp4_kernels::gemm::{Format, Shape, Tile};

const RUNS: [(Format, usize, How); 6] = [
    (Format::Nvfp4, 200, (Tile::Rows128, 1)),
    (Format::Nvfp4, 270, (Tile::Rows256, 1)),
    (Format::Nvfp4, 20, (Tile::Rows32, 2)),
    (Format::Fp8, 77, (Tile::Rows64, 3)),
    (Format::Fp8, 130, (Tile::Rows128, 1)),
    (Format::Fp8, 260, (Tile::Rows256, 1)),
];

/// GELU of the reference, and how far the kernel may be from it: the sum's error (GELU's slope is below 1.13) and
/// 2^-16 of the number, since the exponent is near 20 where GELU is near 0 and keeps 24 bits.
fn wanted(case: &Case) -> Vec<(f64, f64)> {
    let of = |(exact, error): (f64, f64)| {
        let y = gelu(exact);
        (y, 1.13 * error + 2f64.powi(-16) * y.abs() + 1e-7)
    };
    case.reference().into_iter().map(of).collect()
}

fn nvfp4_code(encoded: &Encoded, i: usize) -> u8 {
    let byte = encoded.codes[i / 2];
    if i.is_multiple_of(2) {
        byte >> 4
    } else {
        byte & 15
    }
}

/// Each code is one that some number within the error has.
#[test]
fn e4m3_of_random_products() {
    let gpu = crate::card("rtx5090");
    for (format, m, how) in RUNS {
        let case = Case::random(format, Shape { m, n: 144, k: 320 }, 61);
        let scale = 0.037f32;
        let got = gelu_of(&gpu, &case, how, (Format::Fp8, scale)).unwrap();
        assert!(!got.non_finite);
        for (i, (y, error)) in wanted(&case).into_iter().enumerate() {
            let value = |y: f64| e4m3(to_e4m3(y / f64::from(scale)));
            let code = e4m3(got.codes[i]);
            assert!(
                value(y - error) <= code && code <= value(y + error),
                "{format:?} {how:?} number {i}: {y} became {code}"
            );
        }
    }
}

#[test]
fn nvfp4_of_random_products() {
    let gpu = crate::card("rtx5090");
    for (format, m, how) in RUNS {
        let case = Case::random(format, Shape { m, n: 192, k: 320 }, 71);
        let scale_2 = 0.0021f32;
        let got = gelu_of(&gpu, &case, how, (Format::Nvfp4, scale_2)).unwrap();
        assert!(!got.non_finite);
        for (block, numbers) in wanted(&case).chunks(16).enumerate() {
            let most = |sign: f64| {
                let of = |(y, error): &(f64, f64)| y.abs() + sign * error;
                let most = numbers.iter().map(of).fold(0.0, f64::max);
                e4m3(to_e4m3(most / 6.0 / f64::from(scale_2)))
            };
            let scale = e4m3(got.scales[block]);
            assert!(
                most(-1.0) <= scale && scale <= most(1.0),
                "{format:?} {how:?} block {block}: a scale of {scale}, not {} to {}",
                most(-1.0),
                most(1.0)
            );
            let total = f64::from(scale_2) * scale;
            for (i, (y, error)) in numbers.iter().enumerate() {
                let value = |y: f64| E2M1[usize::from(to_e2m1(y / total))];
                let code = E2M1[usize::from(nvfp4_code(&got, block * 16 + i))];
                let right = value(y - error) <= code && code <= value(y + error);
                assert!(
                    if total == 0.0 { code == 0.0 } else { right },
                    "{format:?} {how:?} block {block}, number {i}: {y} became {code} x {total}"
                );
            }
        }
    }
}

/// Whether all rows of `got` are `row`; the message names the first byte that is not.
fn assert_bytes(got: &[u8], row: &[u8], name: &str) {
    let wrong = got.iter().zip(row.iter().cycle()).position(|(a, b)| a != b);
    let say = |i: usize| format!("byte {i} is {:#x}, not {:#x}", got[i], row[i % row.len()]);
    assert!(
        wrong.is_none(),
        "{name}: {}",
        wrong.map(say).unwrap_or_default()
    );
}

/// Where GELU is the identity (above 8) or rounds to -0, the bytes are those of the quantizers in F32 steps, for numbers
/// of all 24 bits: the product is 0 and the bias is everything.
#[test]
fn bytes_of_known_numbers() {
    let gpu = crate::card("rtx5090");
    let (m, n, k) = (20, 1024, 64);
    let mut noise = Noise(81);
    let bias: Vec<f32> = (0..n)
        .map(|i| match noise.below(16) {
            0 => -100.0 - noise.signed(),
            // Blocks of numbers of one size, and of very different ones.
            _ if i / 16 % 2 == 0 => 36.5 + 28.0 * noise.signed(),
            _ => 8.0 + (10.0 * (1.0 + noise.signed())).exp2(),
        })
        .collect();
    let zero = |rows| {
        let mut matrix = Matrix::random(Format::Nvfp4, rows, k, 1);
        matrix.codes.fill(0);
        matrix
    };
    let case = Case {
        a: zero(m),
        b: Matrix::random(Format::Nvfp4, n, k, 2),
        bias: Some(bias.clone()),
    };
    let held: Vec<f32> = bias
        .iter()
        .map(|x| if *x < 0.0 { -0.0 } else { *x })
        .collect();
    for scale in [0.0107f32, 0.9, 2.75, 300.0, 1e-4] {
        for how in [(Tile::Rows128, 1), (Tile::Rows32, 1)] {
            let got = gelu_of(&gpu, &case, how, (Format::Fp8, scale)).unwrap();
            let reciprocal = 1.0 / scale;
            let row: Vec<u8> = held
                .iter()
                .map(|x| to_e4m3(f64::from(x * reciprocal)))
                .collect();
            assert_bytes(&got.codes, &row, &format!("E4M3 under {scale}"));

            let got = gelu_of(&gpu, &case, how, (Format::Nvfp4, scale)).unwrap();
            let blocks: Vec<_> = held
                .chunks(16)
                .map(|block| to_nvfp4(block, scale))
                .collect();
            let scales: Vec<u8> = blocks.iter().map(|(scale, _)| *scale).collect();
            assert_bytes(&got.scales, &scales, &format!("block scales under {scale}"));
            let codes: Vec<u8> = blocks
                .iter()
                .flat_map(|(_, codes)| codes.chunks(2).map(|pair| pair[0] << 4 | pair[1]))
                .collect();
            assert_bytes(&got.codes, &codes, &format!("NVFP4 under {scale}"));
        }
    }
}

/// A number that is not finite is reported, and only then.
#[test]
fn what_is_not_finite_is_reported() {
    let gpu = crate::card("rtx5090");
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        for to in [Format::Fp8, Format::Nvfp4] {
            for how in [(Tile::Rows128, 1), (Tile::Rows32, 1)] {
                let mut case = Case::random(Format::Fp8, Shape { m: 3, n: 64, k: 64 }, 91);
                case.bias = Some((0..64).map(|i| if i == 37 { bad } else { 0.5 }).collect());
                assert!(
                    gelu_of(&gpu, &case, how, (to, 1.0)).unwrap().non_finite,
                    "{bad}"
                );
            }
        }
    }
}
