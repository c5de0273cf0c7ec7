//! Every method against the definition in F64.

#![allow(clippy::unwrap_used)]

use std::path::Path;

use candle_core::Device;
use safetensors::Dtype;
use safetensors::tensor::TensorView as Plain;

use super::*;
use crate::checkpoint::{Component, SafetensorsFile};
use crate::numerics::widen::{E4M3_TO_F32, E5M2_TO_F32};
use crate::ops::product::{COLUMNS, Left, ROWS, portable, product};

fn random(count: usize, seed: u32) -> Vec<f32> {
    (0..count as u32)
        .map(|i| {
            let mut x = i.wrapping_mul(0x9E37_79B9).wrapping_add(seed);
            x = (x ^ (x >> 16)).wrapping_mul(0x85EB_CA6B);
            x = (x ^ (x >> 13)).wrapping_mul(0xC2B2_AE35);
            ((x ^ (x >> 16)) >> 8) as f32 * 2f32.powi(-23) - 1.0
        })
        .collect()
}

fn bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

/// A convolution whose stored weight is `stored`, of `dtype`.
fn conv(
    (dtype, stored): (Dtype, Vec<u8>),
    bias: &[f32],
    shape: &[usize],
    geometry: Geometry,
) -> Conv2d {
    let bias = bytes(bias);
    let plain = [
        (
            "weight",
            Plain::new(dtype, shape.to_vec(), &stored).unwrap(),
        ),
        (
            "bias",
            Plain::new(Dtype::F32, vec![shape[0]], &bias).unwrap(),
        ),
    ];
    let file = safetensors::serialize(plain, None).unwrap().leak();
    let file = SafetensorsFile::from_static("memory", file).unwrap();
    let views = file
        .names()
        .map(|n| (n.to_owned(), file.view(n).unwrap()))
        .collect();
    let weights = Weights::new(Component::Vae, Path::new("memory"), &Device::Cpu, views);
    Conv2d::load(&weights, (shape[0], shape[1]), geometry).unwrap()
}

/// The definition: `kernel` `[O, I, k, k]`.
fn reference(x: &Map, kernel: &[f32], bias: &[f32], geometry: Geometry) -> Vec<f64> {
    let (c_in, c_out, k) = (x.channels, bias.len(), geometry.kernel());
    let (step, border, zoom) = match geometry {
        Geometry::Pointwise => (1, 0, 1),
        Geometry::Same => (1, 1, 1),
        Geometry::Halve => (2, 0, 1),
        Geometry::Double => (1, 1, 2),
    };
    let (height, width) = (geometry.output(x.height), geometry.output(x.width));
    let mut out = Vec::new();
    for (y, column, o) in (0..height)
        .flat_map(|y| (0..width).map(move |c| (y, c)))
        .flat_map(|(y, c)| (0..c_out).map(move |o| (y, c, o)))
    {
        let mut sum = f64::from(bias[o]);
        for (ky, kx) in (0..k).flat_map(|ky| (0..k).map(move |kx| (ky, kx))) {
            let (sy, sx) = (y * step + ky, column * step + kx);
            let inside = (border..border + zoom * x.height).contains(&sy)
                && (border..border + zoom * x.width).contains(&sx);
            if inside {
                let pixel = (sy - border) / zoom * x.width + (sx - border) / zoom;
                for i in 0..c_in {
                    sum += f64::from(x.data[pixel * c_in + i])
                        * f64::from(kernel[((o * c_in + i) * k + ky) * k + kx]);
                }
            }
        }
        out.push(sum);
    }
    out
}

const GEOMETRIES: [Geometry; 4] = [
    Geometry::Pointwise,
    Geometry::Same,
    Geometry::Halve,
    Geometry::Double,
];

#[test]
fn every_geometry_equals_the_definition() {
    for geometry in GEOMETRIES {
        let (mut direct, mut winograd) = (0.0f64, 0.0f64);
        for (size, c_in, c_out) in [
            ((4, 6), 1, 1),
            ((5, 7), 3, 17),
            ((9, 14), 24, 40),
            ((13, 3), 16, 16),
            ((31, 33), 64, 48),
            ((18, 6), 20, 33),
        ] {
            let k = geometry.kernel();
            let kernel = random(c_out * c_in * k * k, 1);
            let bias = random(c_out, 2);
            let mut x = Map::zeros(size, 0..size.0, c_in);
            x.data = random(x.data.len(), 3);
            let conv = conv(
                (Dtype::F32, bytes(&kernel)),
                &bias,
                &[c_out, c_in, k, k],
                geometry,
            );
            let got = conv.forward(&x).unwrap();
            let expected = reference(&x, &kernel, &bias, geometry);
            assert_eq!(got.data.len(), expected.len());
            let rms = (expected.iter().map(|v| v * v).sum::<f64>() / expected.len() as f64).sqrt();
            let worst = match winograd::serves(geometry, c_in, c_out) {
                true => &mut winograd,
                false => &mut direct,
            };
            for (a, b) in got.data.iter().zip(&expected) {
                *worst = worst.max((f64::from(*a) - b).abs() / rms);
            }
        }
        println!(
            "{geometry:?}: largest difference over rms: direct {direct:.2e}, winograd {winograd:.2e}"
        );
        assert!(direct < 5e-6 && winograd < 2e-5, "{geometry:?}");
    }
}

/// On a single frame, only the last slice in time of a kernel acts.
#[test]
fn the_last_slice_in_time_acts() {
    for (geometry, k, c) in [
        (Geometry::Pointwise, 1, 5),
        (Geometry::Same, 3, 5),
        (Geometry::Same, 3, 16),
    ] {
        let (flat, bias) = (random(c * c * k * k, 1), random(c, 2));
        let deep: Vec<f32> = flat
            .chunks_exact(k * k)
            .flat_map(|slice| {
                let earlier = vec![f32::NAN; (k - 1) * k * k];
                earlier
                    .into_iter()
                    .chain(slice.iter().copied())
                    .collect::<Vec<_>>()
            })
            .collect();
        let mut x = Map::zeros((6, 5), 0..6, c);
        x.data = random(x.data.len(), 3);
        let flat = conv((Dtype::F32, bytes(&flat)), &bias, &[c, c, k, k], geometry);
        let deep = conv(
            (Dtype::F32, bytes(&deep)),
            &bias,
            &[c, c, k, k, k],
            geometry,
        );
        assert_eq!(flat.forward(&x).unwrap(), deep.forward(&x).unwrap());
    }
}

#[test]
fn every_stored_format_is_read() {
    let codes: Vec<u8> = (0..16 * 16 * 9)
        .map(|i| (i * 37 % 120) as u8 | ((i % 2) << 7) as u8)
        .collect();
    let bias = random(16, 2);
    let mut x = Map::zeros((5, 6), 0..5, 16);
    x.data = random(x.data.len(), 3);
    let run = |dtype, stored| {
        let conv = conv((dtype, stored), &bias, &[16, 16, 3, 3], Geometry::Same);
        conv.forward(&x).unwrap()
    };
    let e4m3: Vec<f32> = codes.iter().map(|c| E4M3_TO_F32[usize::from(*c)]).collect();
    let e5m2: Vec<f32> = codes
        .iter()
        .map(|c| E5M2_TO_F32[usize::from(*c & 0xbf)])
        .collect();
    let expected = run(Dtype::F32, bytes(&e4m3));
    let bf16 = e4m3
        .iter()
        .flat_map(|v| half::bf16::from_f32(*v).to_le_bytes());
    let f16 = e4m3
        .iter()
        .flat_map(|v| half::f16::from_f32(*v).to_le_bytes());
    assert_eq!(run(Dtype::BF16, bf16.collect()), expected);
    assert_eq!(run(Dtype::F16, f16.collect()), expected);
    assert_eq!(run(Dtype::F8_E4M3, codes.clone()), expected);
    let codes = codes.iter().map(|c| c & 0xbf).collect();
    assert_eq!(run(Dtype::F8_E5M2, codes), run(Dtype::F32, bytes(&e5m2)));
}

#[test]
fn the_product_equals_its_portable_form() {
    for (rows, runs, len) in (1..=ROWS).flat_map(|r| [(r, 1, 1), (r, 3, 29), (r, 1, 64)]) {
        let (row, run) = (7, 2 * ROWS * 7 + 64);
        let data = random(ROWS * row + runs * run + len, 1);
        let right = random(runs * len * COLUMNS, 2);
        let left = Left {
            data: &data,
            rows,
            row,
            runs,
            run,
            len,
        };
        let (mut a, mut b) = ([0.0; ROWS * COLUMNS], [0.0; ROWS * COLUMNS]);
        product(&left, &right, &mut a, COLUMNS);
        portable(&left, &right, &mut b, COLUMNS);
        for (a, b) in a.iter().zip(&b) {
            assert!((a - b).abs() <= 1e-6 * (runs * len) as f32, "{a} {b}");
        }
    }
}

/// `x / max(|x|, 1e-12) * sqrt(C) * gamma`, then SiLU, in F64; a pixel of zeros stays zero.
#[test]
fn the_norm_equals_its_formula() {
    for channels in [1, 3, 16, 37] {
        let mut x = Map::zeros((2, 5), 0..2, channels);
        x.data = random(x.data.len(), 4);
        x.data[..channels].fill(0.0);
        let gamma = random(channels, 5);
        let (plain, silu) = (x.norm(&gamma, false), x.norm(&gamma, true));
        for ((pixel, plain), silu) in x
            .data
            .chunks_exact(channels)
            .zip(plain.data.chunks_exact(channels))
            .zip(silu.data.chunks_exact(channels))
        {
            let length = pixel
                .iter()
                .map(|v| f64::from(*v).powi(2))
                .sum::<f64>()
                .sqrt();
            for c in 0..channels {
                let expected = f64::from(pixel[c]) / length.max(1e-12)
                    * (channels as f64).sqrt()
                    * f64::from(gamma[c]);
                assert!((f64::from(plain[c]) - expected).abs() < 2e-6);
                let expected = expected / (1.0 + (-expected).exp());
                assert!((f64::from(silu[c]) - expected).abs() < 2e-6);
            }
        }
        assert_eq!(x.norm_silu(&gamma), silu);
    }
}
