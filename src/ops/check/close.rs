//! Kernels that may round in their own order, against F64.

use candle_core::{Device, Tensor};
use safetensors::Dtype;

use super::{K, M, N, Outcome, bytes, codes, layer, numbers};
use crate::checkpoint::Weights;
use crate::numerics::machine::Machine;
use crate::numerics::widen;
use crate::ops::attention::{Attention, Keys};
use crate::ops::conv::{Conv2d, Geometry, Map};
use crate::ops::{activation, norm};

/// The largest |got - expected| over what was added up.
pub(super) fn largest(got: &[f32], expected: impl Iterator<Item = (f64, f64)>) -> f64 {
    let each = got.iter().zip(expected);
    let each = each.map(|(got, (expected, size))| (f64::from(*got) - expected).abs() / size);
    // A NaN must not be lost among the numbers.
    each.fold(0.0, |worst: f64, d| match worst.is_nan() || d <= worst {
        true => worst,
        false => d,
    })
}

pub(super) fn weight_only(machine: Machine) -> Outcome {
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

pub(super) fn attention() -> Outcome {
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

pub(super) fn convolution() -> Outcome {
    let (c, side) = (16, 20);
    let (x, w) = (numbers(c * side * side, 11), numbers(c * c * 9, 12));
    let tensors = Weights::in_memory(&[
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

pub(super) fn layer_norm() -> Outcome {
    let (x, shift, scale) = (numbers(M * K, 15), numbers(K, 16), numbers(K, 17));
    let row = |v: &[f32]| Tensor::from_slice(v, (1, K), &Device::Cpu);
    let x_tensor = Tensor::from_slice(&x, (1, M, K), &Device::Cpu)?;
    let got = norm::layer_norm_modulate(&x_tensor, &row(&shift)?, &row(&scale)?)?.tensor()?;
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

pub(super) fn gelu() -> Outcome {
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
