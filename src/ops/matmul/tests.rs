//! Every kernel that this machine has, held to the definition bit for bit.
#![allow(clippy::unwrap_used)]

use candle_core::{Device, Tensor};
use proptest::prelude::*;
use safetensors::Dtype;

use super::{fp8, nvfp4};
use crate::checkpoint::{Adapter, Lora, LoraLabel, Stored, Weights};
use crate::context::Cx;
use crate::numerics::e4m3::E4M3_TO_F32;
use crate::numerics::machine::{Level, Machine};
use crate::numerics::nvfp4::{BLOCK, BlockRule, reference};
use crate::numerics::{fp8 as fp8_numbers, nvfp4 as nvfp4_numbers, swizzle};
use crate::ops::Linear;

fn machines() -> impl Iterator<Item = Machine> {
    Level::ALL.into_iter().filter_map(Machine::at)
}

/// Bytes without a pattern.
fn bytes(n: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8
    };
    (0..n).map(|_| next()).collect()
}

/// Numbers of many magnitudes.
fn numbers(n: usize, seed: u64) -> Vec<f32> {
    let codes = bytes(2 * n, seed);
    codes
        .as_chunks::<2>()
        .0
        .iter()
        .map(|[a, b]| {
            let v = E4M3_TO_F32[usize::from(*a)];
            let v = if v.is_nan() { 0.0 } else { v };
            v * (1.0 + f32::from(*b) / 256.0)
        })
        .collect()
}

struct Case {
    m: usize,
    n: usize,
    k: usize,
    x: Vec<f32>,
    bias: Vec<f32>,
}

impl Case {
    fn new(m: usize, n: usize, k: usize) -> Self {
        let x = numbers(m * k, (m * 31 + n * 7 + k) as u64);
        let bias = numbers(n, 5);
        Self { m, n, k, x, bias }
    }

    /// What a layer makes of it on each kind of machine and with several numbers of threads.
    fn check(&self, tensors: &[Stored<'_>], expected: &[f32]) {
        let Self { m, n, k, .. } = *self;
        let mut tensors = tensors.to_vec();
        let bias = self.bias.iter().flat_map(|b| b.to_le_bytes()).collect();
        let shape = [n];
        tensors.push(("l.bias", Dtype::F32, &shape, bias));
        let layer =
            Linear::load(&Weights::in_memory(&tensors).unwrap().pp("l"), n, k, true).unwrap();
        let x = Tensor::from_slice(&self.x, (m, k), &Device::Cpu).unwrap();
        for machine in machines() {
            for threads in [1, 3] {
                let cx = Cx {
                    machine,
                    ..Cx::default()
                };
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
                let y = pool
                    .build()
                    .unwrap()
                    .install(|| layer.forward(&x, &cx).unwrap());
                let y = y.flatten_all().unwrap().to_vec1::<f32>().unwrap();
                for (i, (y, expected)) in y.iter().zip(expected).enumerate() {
                    assert_eq!(
                        y.to_bits(),
                        expected.to_bits(),
                        "{} with {threads} threads, [{m}, {n}, {k}], row {}, column {}: {y} {expected}",
                        machine.level(),
                        i / n,
                        i % n
                    );
                }
            }
        }
    }
}

fn scalar(value: f32) -> Vec<u8> {
    value.to_le_bytes().to_vec()
}

fn nvfp4_case(m: usize, n: usize, k: usize, input_scale: Option<f32>) {
    let case = Case::new(m, n, k);
    let codes = bytes(n * k / 2, 2);
    let scales: Vec<u8> = bytes(n * k / BLOCK, 3).iter().map(|c| c % 0x7f).collect();
    let [rows, columns] = swizzle::padded(n, k / BLOCK);
    let mut blocked = vec![0; rows * columns];
    swizzle::to_blocked(&scales, k / BLOCK, &mut blocked);
    let amax = case.x.iter().fold(0.0f32, |a, v| a.max(v.abs()));
    let scale_2 = input_scale.unwrap_or_else(|| nvfp4_numbers::scale_2_of(amax));
    let (mut a, mut a_scales) = (vec![0; m * k / 2], vec![0; m * k / BLOCK]);
    reference::quantize(&case.x, scale_2, BlockRule::Six, &mut a, &mut a_scales);

    let weight_scale_2 = 0.0123;
    let (half, blocks) = (k / 2, k / BLOCK);
    let mut expected = Vec::new();
    let (mut worst, mut x_row, mut w_row) = (0.0f64, vec![0.0; k], vec![0.0; k]);
    for row in 0..m {
        for column in 0..n {
            let left = (
                &a[row * half..][..half],
                &a_scales[row * blocks..][..blocks],
            );
            let right = (
                &codes[column * half..][..half],
                &scales[column * blocks..][..blocks],
            );
            let sum = nvfp4::reference::sum(left, right);
            let y = sum * (scale_2 * weight_scale_2) + case.bias[column];
            // The same in F64 of what the formats stand for.
            reference::dequantize(left.0, left.1, 1.0, &mut x_row);
            reference::dequantize(right.0, right.1, 1.0, &mut w_row);
            let products = x_row
                .iter()
                .zip(&w_row)
                .map(|(a, b)| f64::from(*a) * f64::from(*b));
            let size: f64 = products.clone().map(f64::abs).sum();
            worst = worst.max((f64::from(sum) - products.sum::<f64>()).abs() / size.max(1e-30));
            expected.push(y);
        }
    }
    assert!(worst < 2e-6, "the definition is off by {worst:e}");
    let record = br#"{"format": "nvfp4"}"#.to_vec();
    let mut tensors = vec![
        ("l.weight", Dtype::U8, vec![n, k / 2], codes),
        (
            "l.weight_scale",
            Dtype::F8_E4M3,
            vec![rows, columns],
            blocked,
        ),
        (
            "l.weight_scale_2",
            Dtype::F32,
            vec![],
            scalar(weight_scale_2),
        ),
        ("l.comfy_quant", Dtype::U8, vec![record.len()], record),
    ];
    tensors.extend(input_scale.map(|s| ("l.input_scale", Dtype::F32, vec![], scalar(s))));
    let tensors: Vec<_> = tensors
        .iter()
        .map(|(n, d, s, b)| (*n, *d, s.as_slice(), b.clone()))
        .collect();
    case.check(&tensors, &expected);
}

fn fp8_case(m: usize, n: usize, k: usize, input_scale: Option<f32>) {
    let case = Case::new(m, n, k);
    let codes: Vec<u8> = bytes(n * k, 4)
        .iter()
        .map(|c| if c & 0x7f == 0x7f { 0x80 } else { *c })
        .collect();
    // As ComfyUI: without a scale in the file, 1.
    let scale = input_scale.unwrap_or(1.0);
    let mut a = vec![0; m * k];
    fp8_numbers::quantize(&case.x, scale, &mut a);
    let weight_scale = 0.37;
    let mut expected = Vec::new();
    let mut worst = 0.0f64;
    for row in a.chunks(k) {
        for (column, weight) in codes.chunks(k).enumerate() {
            let sum = fp8::reference::sum(row, weight);
            let number = |c: &u8| f64::from(E4M3_TO_F32[usize::from(*c)]);
            let products = row.iter().zip(weight).map(|(a, b)| number(a) * number(b));
            let size: f64 = products.clone().map(f64::abs).sum();
            worst = worst.max((f64::from(sum) - products.sum::<f64>()).abs() / size.max(1e-30));
            expected.push(sum * (scale * weight_scale) + case.bias[column]);
        }
    }
    assert!(worst < 2e-6, "the definition is off by {worst:e}");
    let record = br#"{"format": "float8_e4m3fn"}"#.to_vec();
    let shapes = ([n, k], [record.len()]);
    let mut tensors = vec![
        ("l.weight", Dtype::F8_E4M3, &shapes.0[..], codes),
        ("l.weight_scale", Dtype::F32, &[], scalar(weight_scale)),
        ("l.comfy_quant", Dtype::U8, &shapes.1[..], record),
    ];
    tensors.extend(input_scale.map(|s| ("l.input_scale", Dtype::F32, &[][..], scalar(s))));
    case.check(&tensors, &expected);
}

#[test]
fn nvfp4_equals_its_definition_at_every_tile_edge() {
    for m in 1..=9 {
        nvfp4_case(m, 33, 48, None);
    }
    for (m, n, k) in [
        (1, 1, 16),
        (5, 70, 256),
        (17, 31, 272),
        (3, 32, 1552),
        (27, 65, 144),
    ] {
        nvfp4_case(m, n, k, Some(0.01));
        nvfp4_case(m, n, k, None);
    }
}

#[test]
fn fp8_equals_its_definition_at_every_tile_edge() {
    for m in 1..=13 {
        fp8_case(m, 33, 47, None);
    }
    for (m, n, k) in [
        (1, 1, 1),
        (5, 70, 256),
        (17, 31, 259),
        (3, 32, 1031),
        (27, 65, 130),
    ] {
        fp8_case(m, n, k, Some(0.01));
    }
}

/// A thousand equal products: the sum of sums must not drift.
#[test]
fn long_sums_of_one_sign_do_not_drift() {
    let (k, sign_free) = (12_288, 0x35);
    let sum = fp8::reference::sum(&vec![sign_free; k], &vec![0x2b; k]);
    let exact = f64::from(E4M3_TO_F32[0x35]) * f64::from(E4M3_TO_F32[0x2b]) * k as f64;
    assert!(
        (f64::from(sum) - exact).abs() / exact < 2e-6,
        "{sum} {exact}"
    );
    let (codes, scales) = (vec![0x53; k / 2], vec![0x2d; k / BLOCK]);
    let other = vec![0x3b; k / BLOCK];
    let sum = nvfp4::reference::sum((&codes, &scales), (&codes, &other));
    let number = |c: u8| f64::from(E4M3_TO_F32[usize::from(c)]);
    let exact = (9.0 + 2.25) / 2.0 * k as f64 * number(0x2d) * number(0x3b);
    assert!(
        (f64::from(sum) - exact).abs() / exact < 2e-6,
        "{sum} {exact}"
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn any_shape(m in 1usize..40, n in 1usize..90, blocks in 1usize..40, scale in 1e-3f32..1.0) {
        nvfp4_case(m, n, blocks * BLOCK, Some(scale));
        fp8_case(m, n, blocks * 7 + m, Some(scale));
    }
}

#[test]
fn activations_that_are_no_numbers_are_refused_by_name() {
    let record = br#"{"format": "float8_e4m3fn"}"#.to_vec();
    let w = Weights::in_memory(&[
        ("l.weight", Dtype::F8_E4M3, &[1, 4], vec![0x38; 4]),
        ("l.weight_scale", Dtype::F32, &[], scalar(1.0)),
        ("l.comfy_quant", Dtype::U8, &[record.len()], record),
    ])
    .unwrap();
    let layer = Linear::load(&w.pp("l"), 1, 4, false).unwrap();
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let x = Tensor::new(&[[0.0, 1.0, 2.0, 3.0], [0.0, 1.0, bad, 3.0]], &Device::Cpu).unwrap();
        let error = layer.forward(&x, &Cx::default()).unwrap_err().to_string();
        assert!(
            error.contains("row 1, column 2") || error.contains("row: 1, column: 2"),
            "{error}"
        );
    }
}

/// Adapters see the unquantized activations, and add up.
#[test]
fn adapters_act_beside_a_quantized_weight() {
    let (m, n, k, rank) = (5, 40, 64, 3);
    let x = numbers(m * k, 1);
    let record = br#"{"format": "nvfp4"}"#.to_vec();
    let [down, up] = [bytes(rank * k, 7), bytes(n * rank, 8)].map(|c| {
        c.iter()
            .map(|c| f32::from(*c) / 256.0 - 0.5)
            .collect::<Vec<_>>()
    });
    let stored = |v: &[f32]| v.iter().flat_map(|v| v.to_le_bytes()).collect();
    let w = Weights::in_memory(&[
        ("l.weight", Dtype::U8, &[n, k / 2], bytes(n * k / 2, 9)),
        ("l.weight_scale", Dtype::F8_E4M3, &[128, 4], vec![0x38; 512]),
        ("l.weight_scale_2", Dtype::F32, &[], scalar(0.1)),
        ("l.comfy_quant", Dtype::U8, &[record.len()], record),
        ("down", Dtype::F32, &[rank, k], stored(&down)),
        ("up", Dtype::F32, &[n, rank], stored(&up)),
    ])
    .unwrap();
    let lora = |scale| Lora {
        label: LoraLabel {
            name: "l".to_owned(),
            scale,
            hash: String::new(),
        },
        adapters: [(
            "l".to_owned(),
            Adapter {
                down: w.get("down").unwrap(),
                up: w.get("up").unwrap(),
                scale,
            },
        )]
        .into(),
    };
    let input = Tensor::from_slice(&x, (m, k), &Device::Cpu).unwrap();
    let run = |w: &Weights| {
        let layer = Linear::load(&w.pp("l"), n, k, false).unwrap();
        let y = layer.forward(&input, &Cx::default()).unwrap();
        y.flatten_all().unwrap().to_vec1::<f32>().unwrap()
    };
    let plain = run(&w);
    let adapted = run(&w.adapted_by(&lora(0.5)).adapted_by(&lora(-2.0)));
    for row in 0..m {
        for column in 0..n {
            let term: f64 = (0..rank)
                .map(|r| {
                    let hidden =
                        (0..k).map(|i| f64::from(x[row * k + i]) * f64::from(down[r * k + i]));
                    hidden.sum::<f64>() * f64::from(up[column * rank + r])
                })
                .sum();
            let expected = f64::from(plain[row * n + column]) + (0.5 - 2.0) * term;
            let got = f64::from(adapted[row * n + column]);
            assert!(
                (got - expected).abs() <= 1e-4 * (1.0 + expected.abs()),
                "{got} {expected}"
            );
        }
    }
}
