//! The quantizers against comfy-kitchen's bytes, and against the definitions over all numbers and many shapes.

#![allow(clippy::unwrap_used, clippy::panic)]

mod rows;

use half::bf16;
use qwen_nvfp4_kernels::amax::{Format, SCRATCH, dynamic_scale};
use qwen_nvfp4_kernels::operand::{E4m3Out, Matrix, Nvfp4Out};
use qwen_nvfp4_kernels::quantize_e4m3::quantize_e4m3;
use qwen_nvfp4_kernels::quantize_nvfp4::quantize_nvfp4;
use qwen_nvfp4_kernels::{Gpu, KernelError, layout};

use rows::{Random, down, gpu, same, up, zeros};

/// Codes, scales in lane order, and the word of what is not finite.
type Nvfp4 = (Vec<u8>, Vec<u8>, u32);

/// Everything that is written is dirty before.
fn run_nvfp4(gpu: &Gpu, x: &[bf16], k: usize, scale: f32) -> Result<Nvfp4, KernelError> {
    let stream = gpu.stream();
    let (x, scale) = (up(stream, x), up(stream, &[scale]));
    let lanes = layout::lane_order_len(x.len() / k, k).unwrap();
    let mut codes = up(stream, &vec![0xaau8; x.len() / 2]);
    let mut scales = up(stream, &vec![0xaau8; lanes]);
    let mut word = zeros::<u32>(stream, 1);
    let mut out = Nvfp4Out {
        scale: &scale.as_view(),
        codes: codes.as_view_mut(),
        scales: scales.as_view_mut(),
    };
    let values = &x.as_view();
    quantize_nvfp4(
        gpu,
        Matrix { values, width: k },
        &mut out,
        &mut word.as_view_mut(),
    )?;
    Ok((
        down(stream, &codes.as_view()),
        down(stream, &scales.as_view()),
        down(stream, &word.as_view())[0],
    ))
}

fn run_e4m3(gpu: &Gpu, x: &[bf16], k: usize, scale: f32) -> Result<(Vec<u8>, u32), KernelError> {
    let stream = gpu.stream();
    let (x, scale) = (up(stream, x), up(stream, &[scale]));
    let mut codes = up(stream, &vec![0xaau8; x.len()]);
    let mut word = zeros::<u32>(stream, 1);
    let mut out = E4m3Out {
        scale: &scale.as_view(),
        codes: codes.as_view_mut(),
    };
    let values = &x.as_view();
    quantize_e4m3(
        gpu,
        Matrix { values, width: k },
        &mut out,
        &mut word.as_view_mut(),
    )?;
    Ok((
        down(stream, &codes.as_view()),
        down(stream, &word.as_view())[0],
    ))
}

/// `fixtures/quantize.bin`: what comfy-kitchen makes of zeros, ties, denormals, the largest numbers, and rows of all sizes.
#[test]
fn bytes_are_those_of_comfy_kitchen() {
    let mut file: &[u8] = include_bytes!("fixtures/quantize.bin");
    let mut take = |bytes: usize| {
        let (head, tail) = file.split_at(bytes);
        file = tail;
        head
    };
    let (rows, k) = (20, 192);
    let x: Vec<bf16> = take(rows * k * 2)
        .chunks(2)
        .map(|pair| bf16::from_le_bytes([pair[0], pair[1]]))
        .collect();
    for scale in [0.003, 2f32.powi(-10)] {
        let e4m3 = take(rows * k);
        for card in ["rtx4090", "rtx5090"] {
            let (codes, word) = run_e4m3(&gpu(card), &x, k, scale).unwrap();
            same("E4M3 codes", &codes, e4m3);
            assert_eq!(word, 0);
        }
        let (codes, scales) = (take(rows * k / 2), take(128 * 12));
        let got = run_nvfp4(&gpu("rtx5090"), &x, k, scale).unwrap();
        same("NVFP4 codes", &got.0, codes);
        let expected = layout::lane_order_from_swizzled(scales, rows, k).unwrap();
        same("block scales", &got.1, &expected);
        assert_eq!(got.2, 0);
    }
}

/// Every bf16 number, in order, so that a block's numbers are of one size, and out of order.
#[test]
fn every_number_is_quantized_as_defined() {
    let finite: Vec<bf16> = (0..=u16::MAX)
        .map(bf16::from_bits)
        .filter(|x| x.is_finite())
        .collect();
    assert_eq!(finite.len(), 65_280);
    let mixed = |i: usize| finite[i * 7919 % finite.len()];
    let mixed: Vec<bf16> = (0..finite.len()).map(mixed).collect();
    let gpu = gpu("rtx5090");
    for (x, scale) in [
        (&finite, 0.003),
        (&finite, 1e-30),
        (&finite, 3e30),
        (&mixed, 2f32.powi(-10)),
    ] {
        let (codes, word) = run_e4m3(&gpu, x, 256, scale).unwrap();
        same("E4M3", &codes, &rows::e4m3(x, scale));
        assert_eq!(word, 0);
        let got = run_nvfp4(&gpu, x, 256, scale).unwrap();
        let (codes, scales) = rows::nvfp4_lanes(x, 256, scale);
        same("NVFP4 codes", &got.0, &codes);
        same("block scales", &got.1, &scales);
        assert_eq!(got.2, 0);
    }
}

#[test]
fn odd_shapes() {
    let gpu = gpu("rtx5090");
    let mut random = Random(1);
    for (m, k) in [
        (1, 16),
        (1, 3072),
        (20, 48),
        (77, 80),
        (77, 192),
        (200, 64),
        (63, 272),
        (4224, 32),
    ] {
        let x = random.bf16s(m * k, 3.0);
        let got = run_nvfp4(&gpu, &x, k, 0.01).unwrap();
        let (codes, scales) = rows::nvfp4_lanes(&x, k, 0.01);
        same("codes", &got.0, &codes);
        same("block scales", &got.1, &scales);
        let (codes, _) = run_e4m3(&gpu, &x, k, 0.01).unwrap();
        same("E4M3", &codes, &rows::e4m3(&x, 0.01));
    }
}

/// A scale that is no number spoils codes, but not the padding behind the last row and column.
#[test]
fn padding_has_no_scales_whatever_the_scale() {
    let (m, k) = (3, 272);
    let x = Random(11).bf16s(m * k, 1.0);
    let (_, scales, _) = run_nvfp4(&gpu("rtx5090"), &x, k, f32::NAN).unwrap();
    let inside = layout::rows_from_lane_order(&scales, m, k).unwrap();
    let expected = layout::lane_order_from_rows(&inside, m, k).unwrap();
    same("block scales", &scales, &expected);
}

/// Whichever number it is; and the other blocks are right all the same.
#[test]
fn what_is_not_finite_is_reported() {
    let gpu = gpu("rtx5090");
    let (m, k) = (3, 272);
    let fine = Random(2).bf16s(m * k, 1.0);
    let (codes, _) = rows::nvfp4_lanes(&fine, k, 0.01);
    for bad in [bf16::NAN, -bf16::NAN, bf16::INFINITY, bf16::NEG_INFINITY] {
        for at in [0, 17, k, 2 * k + 255, m * k - 1] {
            let mut x = fine.clone();
            x[at] = bad;
            assert_eq!(run_e4m3(&gpu, &x, k, 0.01).unwrap().1, 1, "{bad} at {at}");
            let got = run_nvfp4(&gpu, &x, k, 0.01).unwrap();
            assert_eq!(got.2, 1, "{bad} at {at}");
            for (block, (got, expected)) in got.0.chunks(8).zip(codes.chunks(8)).enumerate() {
                assert!(
                    block == at / 16 || got == expected,
                    "block {block} beside {at}"
                );
            }
        }
    }
}

#[test]
fn dynamic_scales_are_those_of_the_largest_magnitude() {
    let tiny = bf16::from_bits(1);
    let mut random = Random(3);
    let mut cases: Vec<Vec<bf16>> = vec![vec![bf16::ZERO; 8], vec![tiny; 8], vec![bf16::MAX; 16]];
    for (len, at) in [
        (8, 7),
        (4096, 0),
        (77 * 192, 77 * 192 - 1),
        (300_000, 171_717),
    ] {
        let mut x = random.bf16s(len, 1.0);
        x[at] = bf16::from_f32(-123.5);
        cases.push(x);
    }
    for card in ["rtx5090", "rtx4090"] {
        let gpu = gpu(card);
        let stream = gpu.stream();
        for x in &cases {
            let amax = x.iter().fold(0f32, |most, x| most.max(x.to_f32().abs()));
            let nvfp4 = amax / 2688.0;
            let e4m3 = amax / 448.0;
            for (format, expected) in [
                (Format::Nvfp4, if nvfp4 == 0.0 { 1.0 } else { nvfp4 }),
                (
                    Format::E4m3,
                    if (1.0 / e4m3).is_finite() { e4m3 } else { 1.0 },
                ),
            ] {
                let values = up(stream, x);
                let mut scale = zeros::<f32>(stream, 1);
                let mut scratch = up(stream, &vec![u32::MAX; SCRATCH]);
                let x = Matrix {
                    values: &values.as_view(),
                    width: 8,
                };
                let (scale_view, scratch) = (&mut scale.as_view_mut(), &mut scratch.as_view_mut());
                dynamic_scale(&gpu, x, format, scale_view, scratch).unwrap();
                let got = down(stream, &scale.as_view())[0];
                assert_eq!(got.to_bits(), expected.to_bits(), "{format:?} of {amax}");
            }
        }
    }
}

#[test]
fn no_rows_are_no_work() {
    let gpu = gpu("rtx5090");
    let stream = gpu.stream();
    let (values, given) = (up(stream, &[bf16::NAN; 8]), up(stream, &[1f32]));
    let (mut codes, mut scales) = (up(stream, &[7u8]), up(stream, &[7u8]));
    let mut word = zeros::<u32>(stream, 1);
    let (values, given) = (values.slice(0..0), given.as_view());
    let x = Matrix {
        values: &values,
        width: 64,
    };
    let mut out = Nvfp4Out {
        scale: &given,
        codes: codes.slice_mut(0..0),
        scales: scales.slice_mut(0..0),
    };
    quantize_nvfp4(&gpu, x, &mut out, &mut word.as_view_mut()).unwrap();
    let mut out = E4m3Out {
        scale: &given,
        codes: codes.slice_mut(0..0),
    };
    quantize_e4m3(&gpu, x, &mut out, &mut word.as_view_mut()).unwrap();
    assert_eq!(down(stream, &word.as_view()), [0]);

    let mut scale = zeros::<f32>(stream, 1);
    let mut scratch = zeros::<u32>(stream, SCRATCH);
    let (scale_view, scratch) = (&mut scale.as_view_mut(), &mut scratch.as_view_mut());
    dynamic_scale(&gpu, x, Format::Nvfp4, scale_view, scratch).unwrap();
    assert_eq!(down(stream, &scale.as_view()), [1.0]);
}

#[test]
fn what_does_not_fit_is_refused() {
    let told = |result: Result<Nvfp4, KernelError>| result.unwrap_err().to_string();
    let x = vec![bf16::ONE; 48];
    assert!(told(run_nvfp4(&gpu("rtx5090"), &x, 24, 1.0)).contains("multiple of 16"));
    assert!(told(run_nvfp4(&gpu("rtx5090"), &x, 32, 1.0)).contains("48 numbers in rows of 32"));
    assert!(told(run_nvfp4(&gpu("rtx4090"), &x, 48, 1.0)).contains("not built for sm_89"));
    let ampere = run_e4m3(&gpu("a100"), &x, 48, 1.0).unwrap_err().to_string();
    assert!(ampere.contains("not built for sm_80"), "{ampere}");

    let gpu = gpu("rtx5090");
    let stream = gpu.stream();
    let (values, scale) = (up(stream, &x), up(stream, &[1f32]));
    let (mut codes, mut word) = (zeros::<u8>(stream, 48), zeros::<u32>(stream, 1));
    let mut out = E4m3Out {
        scale: &scale.as_view(),
        codes: codes.as_view_mut(),
    };
    let x = Matrix {
        values: &values.slice(8..40),
        width: 32,
    };
    let error = quantize_e4m3(&gpu, x, &mut out, &mut word.as_view_mut()).unwrap_err();
    assert!(
        error.to_string().contains("48 E4M3 codes, expected 32"),
        "{error}"
    );
    let x = Matrix {
        values: &values.slice(4..36),
        width: 32,
    };
    let error = quantize_e4m3(&gpu, x, &mut out, &mut word.as_view_mut()).unwrap_err();
    assert!(error.to_string().contains("no multiple of 16"), "{error}");
}
