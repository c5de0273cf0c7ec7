//! Kernels whose every rounding is defined.

use safetensors::Dtype;

use super::{K, M, N, Outcome, bytes, codes, layer, numbers};
use crate::numerics::machine::Machine;
use crate::numerics::nvfp4::{self as nvfp4_numbers, BLOCK, BlockRule, reference};
use crate::numerics::{e4m3, fp8 as fp8_numbers, swizzle};
use crate::ops::matmul::{fp8, nvfp4};

/// 0 where all bits are the same, else the largest difference.
pub(super) fn difference_of_bits(got: &[f32], expected: &[f32]) -> f64 {
    if got
        .iter()
        .map(|v| v.to_bits())
        .eq(expected.iter().map(|v| v.to_bits()))
    {
        return 0.0;
    }
    let differences = got
        .iter()
        .zip(expected)
        .map(|(a, b)| f64::from((a - b).abs()));
    differences.fold(f64::MIN_POSITIVE, f64::max)
}

pub(super) fn nvfp4_linear(machine: Machine) -> Outcome {
    let (x, w) = (numbers(M * K, 1), codes(N * K / 2, 2));
    let scales: Vec<u8> = codes(N * K / BLOCK, 3).iter().map(|c| c & 0x7f).collect();
    let [rows, columns] = swizzle::padded(N, K / BLOCK);
    let mut blocked = vec![0; rows * columns];
    swizzle::to_blocked(&scales, K / BLOCK, &mut blocked);
    let (input_scale, scale_2) = (0.001f32, 0.02f32);
    let record = br#"{"format": "nvfp4"}"#.to_vec();
    let got = layer(
        &[
            ("l.weight", Dtype::U8, &[N, K / 2], w.clone()),
            ("l.weight_scale", Dtype::F8_E4M3, &[rows, columns], blocked),
            ("l.weight_scale_2", Dtype::F32, &[], bytes(&[scale_2])),
            ("l.input_scale", Dtype::F32, &[], bytes(&[input_scale])),
            ("l.comfy_quant", Dtype::U8, &[record.len()], record),
        ],
        &x,
        machine,
    )?;
    let (mut a, mut a_scales) = (vec![0; M * K / 2], vec![0; M * K / BLOCK]);
    reference::quantize(&x, input_scale, BlockRule::Six, &mut a, &mut a_scales);
    let left = a.chunks(K / 2).zip(a_scales.chunks(K / BLOCK));
    let expected: Vec<f32> = left
        .flat_map(|left| {
            let right = w.chunks(K / 2).zip(scales.chunks(K / BLOCK));
            right.map(move |right| nvfp4::reference::sum(left, right) * (input_scale * scale_2))
        })
        .collect();
    Ok(difference_of_bits(&got, &expected))
}

pub(super) fn fp8_linear(machine: Machine) -> Outcome {
    let (x, w) = (numbers(M * K, 4), codes(N * K, 5));
    let (input_scale, scale) = (0.003f32, 0.5f32);
    let record = br#"{"format": "float8_e4m3fn"}"#.to_vec();
    let got = layer(
        &[
            ("l.weight", Dtype::F8_E4M3, &[N, K], w.clone()),
            ("l.weight_scale", Dtype::F32, &[], bytes(&[scale])),
            ("l.input_scale", Dtype::F32, &[], bytes(&[input_scale])),
            ("l.comfy_quant", Dtype::U8, &[record.len()], record),
        ],
        &x,
        machine,
    )?;
    let mut a = vec![0; M * K];
    fp8_numbers::quantize(&x, input_scale, &mut a);
    let w = &w;
    let expected: Vec<f32> = a
        .chunks(K)
        .flat_map(|a| {
            w.chunks(K)
                .map(move |w| fp8::reference::sum(a, w) * (input_scale * scale))
        })
        .collect();
    Ok(difference_of_bits(&got, &expected))
}

pub(super) fn nvfp4_quantizer() -> Outcome {
    let x = numbers(M * K, 13);
    let run = |quantize: fn(&[f32], f32, BlockRule, &mut [u8], &mut [u8])| {
        let (mut codes, mut scales) = (vec![0; x.len() / 2], vec![0; x.len() / BLOCK]);
        quantize(&x, 0.0004, BlockRule::Six, &mut codes, &mut scales);
        (codes, scales)
    };
    let same = run(nvfp4_numbers::quantize) == run(reference::quantize);
    Ok(if same { 0.0 } else { 1.0 })
}

pub(super) fn fp8_quantizer() -> Outcome {
    let x = numbers(M * K, 14);
    let mut codes = vec![0; x.len()];
    fp8_numbers::quantize(&x, 0.003, &mut codes);
    let one = |x: &f32| e4m3::encode(x * (1.0 / 0.003f32));
    let same = x.iter().map(one).eq(codes.iter().copied());
    Ok(if same { 0.0 } else { 1.0 })
}
