//! Every kernel against its definition, in well under a second: what `doctor` runs on a user's machine.
//!
//! Where the definition fixes every rounding the kernel has to give the same bits; elsewhere the definition is computed
//! in F64 and the difference is held against the size of what was added.

use candle_core::{Device, Tensor};
use safetensors::Dtype;
use safetensors::tensor::TensorView as Plain;

use super::attention::{Attention, Keys};
use super::conv::{Conv2d, Geometry, Map};
use super::linear::Linear;
use super::matmul::{fp8, nvfp4};
use super::{activation, kernels, norm};
use crate::checkpoint::{Component, SafetensorsFile, Weights};
use crate::context::Cx;
use crate::numerics::machine::Machine;
use crate::numerics::nvfp4::{BLOCK, BlockRule, reference};
use crate::numerics::{e4m3, fp8 as fp8_numbers, swizzle, widen};

/// What became of one kernel.
#[derive(Clone, Debug)]
pub struct Check {
    /// What it computes.
    pub operation: &'static str,
    /// What computes it on this machine.
    pub kernel: &'static str,
    /// The largest difference from the definition, relative to the sum of magnitudes; NaN where it could not run.
    pub difference: f64,
    /// The largest that is sound: 0 for the same bits.
    pub allowed: f64,
}

impl Check {
    /// Whether the kernel computes what it should.
    pub fn is_sound(&self) -> bool {
        self.difference <= self.allowed
    }
}

/// Rows, outputs and inputs of the layers that are tried: tile edges in every direction, several chunks of K.
const M: usize = 29;
const N: usize = 97;
const K: usize = 624;

/// Checks every kernel that `machine` uses.
pub fn all(machine: Machine) -> Vec<Check> {
    let rows = |name| Check {
        operation: name,
        kernel: "cpu: vectors of the compiler",
        difference: f64::NAN,
        allowed: 1e-5,
    };
    let run = |check: Check, f: &dyn Fn() -> anyhow::Result<f64>| Check {
        // A kernel that fails to run differs from everything.
        difference: f().unwrap_or(f64::NAN),
        ..check
    };
    let exact = |operation, kernel| Check {
        operation,
        kernel,
        difference: f64::NAN,
        allowed: 0.0,
    };
    let close = |operation, kernel| Check {
        allowed: 2e-6,
        ..exact(operation, kernel)
    };
    vec![
        run(exact("NVFP4 linear", kernels::nvfp4(machine)), &|| {
            nvfp4_linear(machine)
        }),
        run(exact("FP8 linear", kernels::fp8(machine)), &|| {
            fp8_linear(machine)
        }),
        run(
            close("linear of F32 activations", kernels::weight_only(machine)),
            &|| weight_only(machine),
        ),
        run(close("attention", kernels::attention()), &attention),
        run(close("convolution", "cpu: Winograd, f32"), &convolution),
        run(
            Check {
                allowed: 0.0,
                ..rows("NVFP4 quantizer")
            },
            &nvfp4_quantizer,
        ),
        run(
            Check {
                allowed: 0.0,
                ..rows("FP8 quantizer")
            },
            &fp8_quantizer,
        ),
        run(rows("layer norm and modulation"), &layer_norm),
        run(rows("GELU"), &gelu),
    ]
}

/// Numbers between -1 and 1 without a pattern.
fn numbers(n: usize, seed: u32) -> Vec<f32> {
    let mixed = (0..n as u32).map(|i| (i ^ seed).wrapping_mul(2_654_435_761) >> 8);
    mixed.map(|v| v as f32 / (1 << 23) as f32 - 1.0).collect()
}

/// E4M3 codes without a pattern and without NaN.
fn codes(n: usize, seed: u32) -> Vec<u8> {
    let mixed = (0..n as u32).map(|i| ((i ^ seed).wrapping_mul(2_654_435_761) >> 16) as u8);
    mixed
        .map(|c| if c & 0x7f == 0x7f { 0 } else { c })
        .collect()
}

fn bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

/// A component in memory.
fn weights(tensors: &[(&str, Dtype, &[usize], Vec<u8>)]) -> anyhow::Result<Weights> {
    let mut plain = Vec::new();
    for (name, dtype, shape, data) in tensors {
        plain.push((*name, Plain::new(*dtype, shape.to_vec(), data)?));
    }
    let name = "a test in memory";
    let file = SafetensorsFile::from_bytes(name, safetensors::serialize(plain, None)?)?;
    let views = file.views().into_iter().map(|v| (v.name().to_owned(), v));
    Ok(Weights::new(
        Component::Transformer,
        name.as_ref(),
        &Device::Cpu,
        views.collect(),
    ))
}

/// What a layer of `tensors` makes of `x`.
fn layer(
    tensors: &[(&str, Dtype, &[usize], Vec<u8>)],
    x: &[f32],
    machine: Machine,
) -> anyhow::Result<Vec<f32>> {
    let layer = Linear::load(&weights(tensors)?.pp("l"), N, K, false)?;
    let cx = Cx {
        machine,
        ..Cx::default()
    };
    let x = Tensor::from_slice(x, (M, K), &Device::Cpu)?;
    Ok(layer.forward(&x, &cx)?.flatten_all()?.to_vec1()?)
}

/// 0 where all bits are the same, else the largest difference.
fn difference_of_bits(got: &[f32], expected: &[f32]) -> f64 {
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

/// The largest |got - expected| over what was added up.
fn largest(got: &[f32], expected: impl Iterator<Item = (f64, f64)>) -> f64 {
    let each = got.iter().zip(expected);
    let each = each.map(|(got, (expected, size))| (f64::from(*got) - expected).abs() / size);
    // A NaN must not be lost among the numbers.
    each.fold(0.0, |worst: f64, d| match worst.is_nan() || d <= worst {
        true => worst,
        false => d,
    })
}

fn nvfp4_linear(machine: Machine) -> anyhow::Result<f64> {
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

fn fp8_linear(machine: Machine) -> anyhow::Result<f64> {
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

fn weight_only(machine: Machine) -> anyhow::Result<f64> {
    let (x, w) = (numbers(M * K, 6), codes(N * K, 7));
    let got = layer(
        &[("l.weight", Dtype::F8_E4M3, &[N, K], w.clone())],
        &x,
        machine,
    )?;
    let expected = x.chunks(K).flat_map(|x| w.chunks(K).map(move |w| (x, w)));
    Ok(largest(
        &got,
        expected.map(|(x, w)| {
            let number = |c: &u8| f64::from(widen::E4M3_TO_F32[usize::from(*c)]);
            let products = x.iter().zip(w).map(|(x, w)| f64::from(*x) * number(w));
            let size: f64 = products.clone().map(f64::abs).sum();
            (products.sum(), size)
        }),
    ))
}

fn attention() -> anyhow::Result<f64> {
    let (s, heads, d) = (75, 2, 40);
    let [q, k, v] = [8, 9, 10].map(|seed| numbers(s * heads * d, seed));
    let tensor = |v: &[f32]| Tensor::from_slice(v, (1, s, heads * d), &Device::Cpu);
    let attention = Attention {
        heads,
        kv_heads: heads,
        keys: Keys::All,
    };
    let got = attention.forward(&tensor(&q)?, &tensor(&k)?, &tensor(&v)?)?;
    let got = got.flatten_all()?.to_vec1::<f32>()?;
    let at = |x: &[f32], row: usize, i: usize| f64::from(x[row * heads * d + i]);
    let mut expected = Vec::new();
    for row in 0..s {
        for head in 0..heads {
            let columns = head * d..(head + 1) * d;
            let score = |key: usize| {
                let dot: f64 = columns
                    .clone()
                    .map(|i| at(&q, row, i) * at(&k, key, i))
                    .sum();
                (dot / (d as f64).sqrt()).exp()
            };
            let scores: Vec<f64> = (0..s).map(score).collect();
            let total: f64 = scores.iter().sum();
            for i in columns.clone() {
                let terms = scores
                    .iter()
                    .enumerate()
                    .map(|(key, p)| p / total * at(&v, key, i));
                let size: f64 = terms.clone().map(f64::abs).sum();
                expected.push((terms.sum(), size));
            }
        }
    }
    Ok(largest(&got, expected.into_iter()))
}

fn convolution() -> anyhow::Result<f64> {
    let (c, side) = (16, 20);
    let (x, w) = (numbers(c * side * side, 11), numbers(c * c * 9, 12));
    let tensors = weights(&[
        ("c.weight", Dtype::F32, &[c, c, 3, 3], bytes(&w)),
        ("c.bias", Dtype::F32, &[c], bytes(&vec![0.0; c])),
    ])?;
    let conv = Conv2d::load(&tensors.pp("c"), (c, c), Geometry::Same)?;
    let got = conv
        .forward(&Map::from_planes(&x, (side, side), c))?
        .to_planes();
    let mut expected = Vec::new();
    for out in 0..c {
        for at in 0..side * side {
            let (row, column) = (at / side, at % side);
            let (mut sum, mut size) = (0.0, 0.0);
            for (tap, w) in w[out * c * 9..(out + 1) * c * 9].iter().enumerate() {
                let (plane, r, s) = (tap / 9, row + tap % 9 / 3, column + tap % 3);
                if (1..=side).contains(&r) && (1..=side).contains(&s) {
                    let x = x[(plane * side + r - 1) * side + s - 1];
                    let product = f64::from(*w) * f64::from(x);
                    sum += product;
                    size += product.abs();
                }
            }
            expected.push((sum, size));
        }
    }
    Ok(largest(&got, expected.into_iter()))
}

fn nvfp4_quantizer() -> anyhow::Result<f64> {
    let x = numbers(M * K, 13);
    let run = |quantize: fn(&[f32], f32, BlockRule, &mut [u8], &mut [u8])| {
        let (mut codes, mut scales) = (vec![0; x.len() / 2], vec![0; x.len() / BLOCK]);
        quantize(&x, 0.0004, BlockRule::Six, &mut codes, &mut scales);
        (codes, scales)
    };
    let same = run(crate::numerics::nvfp4::quantize) == run(reference::quantize);
    Ok(if same { 0.0 } else { 1.0 })
}

fn fp8_quantizer() -> anyhow::Result<f64> {
    let x = numbers(M * K, 14);
    let mut codes = vec![0; x.len()];
    fp8_numbers::quantize(&x, 0.003, &mut codes);
    let one = |x: &f32| e4m3::encode(x * (1.0 / 0.003f32));
    let same = x.iter().map(one).eq(codes.iter().copied());
    Ok(if same { 0.0 } else { 1.0 })
}

fn layer_norm() -> anyhow::Result<f64> {
    let (x, shift, scale) = (numbers(M * K, 15), numbers(K, 16), numbers(K, 17));
    let row = |v: &[f32]| Tensor::from_slice(v, (1, K), &Device::Cpu);
    let x_tensor = Tensor::from_slice(&x, (1, M, K), &Device::Cpu)?;
    let got = norm::layer_norm_modulate(&x_tensor, &row(&shift)?, &row(&scale)?)?;
    let got = got.flatten_all()?.to_vec1::<f32>()?;
    let expected = x.chunks(K).flat_map(|x| {
        let mean = x.iter().map(|v| f64::from(*v)).sum::<f64>() / K as f64;
        let variance = x
            .iter()
            .map(|v| (f64::from(*v) - mean).powi(2))
            .sum::<f64>()
            / K as f64;
        let (shift, scale) = (&shift, &scale);
        x.iter().enumerate().map(move |(i, v)| {
            let normed = (f64::from(*v) - mean) / (variance + 1e-6).sqrt();
            let (shift, scale) = (f64::from(shift[i]), f64::from(scale[i]));
            (normed * (1.0 + scale) + shift, 1.0 + normed.abs())
        })
    });
    Ok(largest(&got, expected))
}

fn gelu() -> anyhow::Result<f64> {
    let x: Vec<f32> = numbers(M * K, 18).iter().map(|v| 8.0 * v).collect();
    let mut got = x.clone();
    activation::gelu_tanh(&mut got);
    let expected = x.iter().map(|x| {
        let x = f64::from(*x);
        let u = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x.powi(3));
        (0.5 * x * (1.0 + u.tanh()), 1.0 + x.abs())
    });
    Ok(largest(&got, expected))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::numerics::machine::Level;

    #[test]
    fn every_kernel_of_this_machine_is_sound() {
        for machine in Level::ALL.into_iter().filter_map(Machine::at) {
            let checks = all(machine);
            assert_eq!(checks.len(), 9);
            for check in checks {
                assert!(check.is_sound(), "{}: {check:?}", machine.level());
            }
        }
    }

    /// A check that cannot fail proves nothing.
    #[test]
    fn a_difference_and_a_nan_are_seen() {
        assert!(difference_of_bits(&[1.0, 2.0], &[1.0, 2.000_001]) > 0.0);
        assert!(difference_of_bits(&[0.0], &[-0.0]) > 0.0);
        let nan = largest(&[1.0, f32::NAN, 1.0], [(1.0, 1.0); 3].into_iter());
        let check = Check {
            operation: "",
            kernel: "",
            difference: nan,
            allowed: 1.0,
        };
        assert!(nan.is_nan() && !check.is_sound());
        assert!(largest(&[1.0, 1.1], [(1.0, 1.0); 2].into_iter()) > 0.09);
    }
}
