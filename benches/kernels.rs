//! The kernels of `ops` against the same formula by candle's operators, at the published model's sizes, in one run.
//!
//!     cargo bench --bench kernels [-- FILTER]
//!
//! Seen on two cores of an AMD EPYC (Zen 4), candle's time over ours: attention 2.8 at 1044 tokens and 3.0 at 4224, layer norm and
//! modulation 18, gated residual 8.7, RMS norm and rope 29, 3x3 convolution 5.1.
#![allow(clippy::unwrap_used)]

mod common;

use std::hint::black_box;
use std::time::Duration;

use candle_core::{D, Device, Tensor};
use common::{bytes, numbers, weights};
use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, SamplingMode, criterion_group, criterion_main};
use qwen_nvfp4::ops::activation::gated_residual;
use qwen_nvfp4::ops::attention::{Attention, Keys};
use qwen_nvfp4::ops::conv::{Conv2d, Geometry, Map};
use qwen_nvfp4::ops::norm::layer_norm_modulate;
use qwen_nvfp4::ops::rope::{RopeTable, rms_norm_rope};
use safetensors::Dtype;

/// Tokens of a 512x512 picture and a short prompt, and the published width.
const S: usize = 1044;
const HEADS: usize = 24;
const HEAD: usize = 128;
const WIDTH: usize = HEADS * HEAD;

fn tensor(shape: &[usize]) -> Tensor {
    Tensor::from_vec(numbers(shape.iter().product()), shape, &Device::Cpu).unwrap()
}

fn group<'a>(c: &'a mut Criterion, name: &str) -> BenchmarkGroup<'a, WallTime> {
    let mut group = c.benchmark_group(name);
    group
        .sample_size(10)
        .sampling_mode(SamplingMode::Flat)
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_secs(1));
    group
}

/// Ours and candle's in one group, after a look that both compute the same.
fn pair(
    c: &mut Criterion,
    name: &str,
    ours: impl Fn() -> Tensor,
    candle: impl Fn() -> candle_core::Result<Tensor>,
) {
    let (a, b) = (ours(), candle().unwrap());
    let flat = |t: Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    let (a, b) = (flat(a), flat(b));
    let top = b.iter().fold(1.0f32, |m, v| m.max(v.abs()));
    assert_eq!(a.len(), b.len(), "{name}");
    assert!(
        a.iter().zip(&b).all(|(a, b)| (a - b).abs() <= 1e-3 * top),
        "{name} differs"
    );
    let mut group = group(c, name);
    group.bench_function("ours", |b| b.iter(|| black_box(ours())));
    group.bench_function("candle", |b| b.iter(|| black_box(candle().unwrap())));
    group.finish();
}

/// At 512x512 and at 1024x1024.
fn attention(c: &mut Criterion) {
    for s in [S, 4224] {
        attention_of(c, s);
    }
}

fn attention_of(c: &mut Criterion, s: usize) {
    let [q, k, v] = std::array::from_fn(|_| tensor(&[1, s, WIDTH]));
    let attention = Attention {
        heads: HEADS,
        kv_heads: HEADS,
        keys: Keys::All,
    };
    let heads = |x: &Tensor| {
        x.reshape((1, s, HEADS, HEAD))?
            .transpose(1, 2)?
            .contiguous()
    };
    pair(
        c,
        &format!("attention of {s}"),
        || attention.forward(&q, &k, &v).unwrap(),
        || {
            let scores = heads(&q)?.matmul(&heads(&k)?.t()?)?;
            let scores = (scores * (HEAD as f64).powf(-0.5))?;
            let out = candle_nn::ops::softmax_last_dim(&scores)?.matmul(&heads(&v)?)?;
            out.transpose(1, 2)?.reshape((1, s, WIDTH))
        },
    );
}

fn rows(c: &mut Criterion) {
    let (x, y) = (tensor(&[1, S, WIDTH]), tensor(&[1, S, WIDTH]));
    let (shift, scale) = (tensor(&[1, WIDTH]), tensor(&[1, WIDTH]));
    pair(
        c,
        "layer norm and modulation",
        || {
            let norm = layer_norm_modulate(&x, &shift, &scale);
            norm.and_then(|norm| norm.tensor()).unwrap()
        },
        || {
            let centred = x.broadcast_sub(&x.mean_keepdim(D::Minus1)?)?;
            let variance = centred.sqr()?.mean_keepdim(D::Minus1)?;
            centred
                .broadcast_div(&(variance + 1e-6)?.sqrt()?)?
                .broadcast_mul(&(&scale + 1.0)?.unsqueeze(1)?)?
                .broadcast_add(&shift.unsqueeze(1)?)
        },
    );
    pair(
        c,
        "gated residual",
        || gated_residual(&x, &scale, &y).unwrap(),
        || &x + y.broadcast_mul(&scale.unsqueeze(1)?)?,
    );
    let (weight, axes) = (tensor(&[HEAD]), [16, 56, 56]);
    let positions = || (0..S as i32).map(|s| [0, s / 32, s % 32]);
    let table = RopeTable::new(axes, positions());
    // The same angles, for candle: frequencies as in diffusers' `rope_params`.
    let angles: Vec<f32> = positions()
        .flat_map(|p| {
            p.into_iter().zip(axes).flat_map(|(p, dim)| {
                let frequency = move |j| 10_000f64.powf(-2.0 * j as f64 / dim as f64) as f32;
                (0..dim / 2).map(move |j| p as f32 * frequency(j))
            })
        })
        .collect();
    let angles = Tensor::from_vec(angles, (S, HEAD / 2), &Device::Cpu).unwrap();
    let (cos, sin) = (angles.cos().unwrap(), angles.sin().unwrap());
    pair(
        c,
        "rms norm and rope",
        || rms_norm_rope(&x, &weight, &table).unwrap(),
        || {
            let x = x.reshape((1, S, HEADS, HEAD))?;
            let x = candle_nn::ops::rms_norm(&x, &weight, 1e-6)?;
            let x = x.transpose(1, 2)?.contiguous()?;
            let x = candle_nn::rotary_emb::rope_i(&x, &cos, &sin)?;
            x.transpose(1, 2)?.reshape((1, S, WIDTH))
        },
    );
}

fn convolution(c: &mut Criterion) {
    let (side, channels) = (64, 96);
    let w = numbers(channels * channels * 9);
    let w = weights(&[
        (
            "c.weight",
            Dtype::F32,
            vec![channels, channels, 3, 3],
            bytes(&w),
        ),
        (
            "c.bias",
            Dtype::F32,
            vec![channels],
            bytes(&vec![0.0; channels]),
        ),
    ]);
    let ours = Conv2d::load(&w.pp("c"), (channels, channels), Geometry::Same).unwrap();
    let planes = numbers(channels * side * side);
    let map = Map::from_planes(&planes, (side, side), channels);
    let x = tensor(&[1, channels, side, side]);
    let kernel = tensor(&[channels, channels, 3, 3]);
    // Planes in and out on neither side of the clock: ours keeps its own layout through the decoder.
    let planes = ours.forward(&map).unwrap().to_planes();
    let expected = x.conv2d(&kernel, 1, 1, 1, 1).unwrap();
    let expected = expected.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    let top = expected.iter().fold(1.0f32, |m, v| m.max(v.abs()));
    let near = planes
        .iter()
        .zip(&expected)
        .all(|(a, b)| (a - b).abs() <= 1e-3 * top);
    assert!(near, "the convolution differs");
    let mut group = group(c, "3x3 convolution, 96 channels, 64x64");
    group.bench_function("ours", |b| {
        b.iter(|| black_box(ours.forward(&map).unwrap()))
    });
    group.bench_function("candle", |b| {
        b.iter(|| black_box(x.conv2d(&kernel, 1, 1, 1, 1).unwrap()))
    });
    group.finish();
}

criterion_group!(benches, attention, rows, convolution);
criterion_main!(benches);
