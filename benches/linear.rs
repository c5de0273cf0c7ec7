//! Linear layers in every format against candle's F32 matmul, at the published widths, in one run on two threads.
//!
//!     cargo bench --bench linear [-- FILTER]
//!
//! Seen on two cores of an AMD EPYC (Zen 4), candle's time over ours, M = 4096 / 256 / 16 / 1:
//!
//! | | 3072x3072 | 12288x3072 | 3072x12288 |
//! |---|---|---|---|
//! | NVFP4 W4A4 | 2.1 / 3.4 / 16 / 5.5 | 2.2 / 3.8 / 15 / 4.4 to 6.2 | 2.3 / 3.5 / 16 / 6.2 |
//! | FP8 W8A8 | 1.8 / 2.8 / 14 / 3.2 | 1.8 / 3.0 / 11 / 2.7 | 1.9 / 2.8 / 10 / 2.5 |
//! | F32 | 0.96 / 1.4 / 5.2 / 0.4 to 1 | 0.96 / 1.5 / 5.0 / 1.0 | 0.98 / 1.4 / 5.0 / 1.2 |
//!
//! (candle packs the transposed weight for 16 rows, which is why it is so far behind there.)
//!
//! The machine's limits: 16 F32 multiply-adds a cycle and core (94 % of that is candle's tall product), 32 by `vdpbf16ps`, 64 by
//! `vpdpbusd`. A block of 16 columns for 16 outputs of a row costs NVFP4 four `vpdpbusd`, a multiply and a multiply-add on the same
//! two pipes, so 256 in 6 cycles: 2.7 times F32, of which a tall product reaches 2.1 to 2.3.
//!
//! A modulated layer norm and the layer that quantizes it, time by way of the norm's tensor over time row by row (1024 / 4096 rows of
//! 3072; the product by 32 columns is in both): NVFP4 1.7 / 1.9, FP8 1.2 / 2.4, dynamic scales, for which each row is normalised
//! twice, 1.1 to 1.5 / 1.8 and 1.1 / 2.1. A step of two blocks at 1024x1024 has four such norms of its picture, 19 ms each of 8 s: 1 %,
//! which is less than what two runs differ by (medians by tensor and by row: 1.37 and 1.35 s at 512x512, 8.06 and 8.11 s at 1024x1024).
//! What it does give is memory: 48 MiB less at 1024x1024 while a block attends.
//!
//! What was tried:
//! * Block scales by a table of floats, one row at a time: 28 % of one row's time; by shuffles of the stored tiles: 4 %.
//! * Widening FP8 by a table of 256 floats 2.7 ms for one row, by arithmetic 2.4 ms, by byte permutations 1.4 ms.
//! * Prefetching FP8 codes 512 bytes ahead: 3.15 to 2.5 ms for one row by 12288x3072; NVFP4 gained nothing.
//! * Panels of 512 columns of K for F32: 9 % of the time went into carrying unfinished sums; 1024 halves that.
//! * 1024 rows in parts of 1020 and 4: the weight was decoded again for the 4, 2.5 % of an FP8 step; parts are of equal size now.
//! * Looking for NaN in a pass of its own before rows are quantized, not row by row: the same time (3072 to 12288 columns).
//! * A zero step as an argument of the loop that packs rows: filling 75 MB with it took 10 ms more than with a constant.
//! * 16-bit integers in the portable NVFP4 kernel: a third of the speed of F32, since the compiler does not keep them in vectors.
#![allow(clippy::unwrap_used)]

mod common;

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use candle_core::{Device, Tensor};
use common::{Named, bytes, numbers, weights};
use criterion::{Criterion, SamplingMode, criterion_group, criterion_main};
use qwen_nvfp4::checkpoint::Activations;
use qwen_nvfp4::context::{Cx, Observer};
use qwen_nvfp4::numerics::machine::{Level, Machine};
use qwen_nvfp4::ops::Linear;
use qwen_nvfp4::ops::norm::layer_norm_modulate;
use safetensors::Dtype;

/// A layer in memory.
fn layer(tensors: &[Named<'_>], (n, k): (usize, usize), activations: Activations) -> Linear {
    let weights = weights(tensors).with_activations(activations);
    Linear::load(&weights.pp("l"), n, k, false).unwrap()
}

/// The weight in a format with its record.
fn stored(format: &str, n: usize, k: usize) -> Vec<Named<'static>> {
    let dense = || numbers(n * k);
    let codes: Vec<u8> = (0..n * k).map(|i| (i * 37 % 96) as u8).collect();
    let record = |format: &str| {
        let record = format!(r#"{{"format": "{format}"}}"#).into_bytes();
        ("l.comfy_quant", Dtype::U8, vec![record.len()], record)
    };
    let one = |name, value: f32| (name, Dtype::F32, vec![], bytes(&[value]));
    match format {
        "F32" => vec![("l.weight", Dtype::F32, vec![n, k], bytes(&dense()))],
        "BF16" => {
            let dense = dense();
            let halves = dense.iter().map(|v| half::bf16::from_f32(*v));
            let halves = halves.flat_map(|v| v.to_le_bytes()).collect();
            vec![("l.weight", Dtype::BF16, vec![n, k], halves)]
        }
        "FP8" => vec![
            ("l.weight", Dtype::F8_E4M3, vec![n, k], codes),
            one("l.weight_scale", 0.5),
            one("l.input_scale", 0.01),
            record("float8_e4m3fn"),
        ],
        _ => vec![
            (
                "l.weight",
                Dtype::U8,
                vec![n, k / 2],
                codes[..n * k / 2].to_vec(),
            ),
            (
                "l.weight_scale",
                Dtype::F8_E4M3,
                vec![n.next_multiple_of(128), k / 16],
                vec![0x38; n.next_multiple_of(128) * k / 16],
            ),
            one("l.weight_scale_2", 0.01),
            one("l.input_scale", 0.001),
            record("nvfp4"),
        ],
    }
}

fn linear(c: &mut Criterion) {
    let cx = Cx::default();
    let pool = rayon::ThreadPoolBuilder::new().num_threads(2);
    let pool = pool.build().unwrap();
    for (n, k) in [(3072, 3072), (12_288, 3072), (3072, 12_288)] {
        let formats = [
            ("NVFP4 W4A4", "NVFP4", Activations::Static),
            ("NVFP4 W4A4 dynamic", "NVFP4", Activations::Dynamic),
            ("FP8 W8A8", "FP8", Activations::Static),
            ("F32", "F32", Activations::None),
            ("BF16", "BF16", Activations::None),
            ("FP8 weight-only", "FP8", Activations::None),
            ("NVFP4 weight-only", "NVFP4", Activations::None),
        ]
        .map(|(name, format, activations)| {
            (name, layer(&stored(format, n, k), (n, k), activations))
        });
        let w = Tensor::from_vec(numbers(n * k), (n, k), &Device::Cpu).unwrap();
        let w = w.t().unwrap();
        for m in [4096, 256, 16, 1] {
            let x = Tensor::from_vec(numbers(m * k), (m, k), &Device::Cpu).unwrap();
            let mut group = c.benchmark_group(format!("{m}x{n}x{k}"));
            group
                .sample_size(10)
                .sampling_mode(SamplingMode::Flat)
                .warm_up_time(Duration::from_millis(200))
                .measurement_time(Duration::from_millis(800));
            group.bench_function("candle F32", |b| {
                b.iter(|| pool.install(|| black_box(x.matmul(&w).unwrap())))
            });
            for (name, layer) in &formats {
                group.bench_function(*name, |b| {
                    b.iter(|| pool.install(|| black_box(layer.forward(&x, &cx).unwrap())))
                });
            }
            group.finish();
        }
    }
}

/// The same kernels as a machine with fewer instructions runs them.
fn levels(c: &mut Criterion) {
    let (n, k) = (3072, 3072);
    let pool = rayon::ThreadPoolBuilder::new().num_threads(2);
    let pool = pool.build().unwrap();
    let w = Tensor::from_vec(numbers(n * k), (n, k), &Device::Cpu).unwrap();
    let w = w.t().unwrap();
    let formats = ["NVFP4", "FP8", "F32"].map(|format| {
        (
            format,
            layer(&stored(format, n, k), (n, k), Activations::Static),
        )
    });
    for m in [256, 1] {
        let x = Tensor::from_vec(numbers(m * k), (m, k), &Device::Cpu).unwrap();
        let mut group = c.benchmark_group(format!("levels {m}x{n}x{k}"));
        group
            .sample_size(10)
            .sampling_mode(SamplingMode::Flat)
            .warm_up_time(Duration::from_millis(200))
            .measurement_time(Duration::from_millis(500));
        group.bench_function("candle F32", |b| {
            b.iter(|| pool.install(|| black_box(x.matmul(&w).unwrap())))
        });
        for machine in Level::ALL.into_iter().filter_map(Machine::at) {
            let cx = Cx {
                machine,
                ..Cx::default()
            };
            for (format, layer) in &formats {
                group.bench_function(format!("{format} {}", machine.level()), |b| {
                    b.iter(|| pool.install(|| black_box(layer.forward(&x, &cx).unwrap())))
                });
            }
        }
        group.finish();
    }
}

/// Wants to see every input, so that every input must exist.
struct Watcher;

impl Observer for Watcher {}

/// A norm and a layer that quantizes it: row by row, and by way of the norm's tensor. The layer has 32 outputs: its product takes
/// little beside what is compared.
fn norms(c: &mut Criterion) {
    let (n, k) = (32, 3072);
    let pool = rayon::ThreadPoolBuilder::new().num_threads(2);
    let pool = pool.build().unwrap();
    let by_row = Cx::default();
    let by_tensor = by_row.observed_by(Arc::new(Watcher));
    let vector = Tensor::from_vec(numbers(k), (1, k), &Device::Cpu).unwrap();
    for (name, format, activations) in [
        ("NVFP4", "NVFP4", Activations::Static),
        ("NVFP4 dynamic", "NVFP4", Activations::Dynamic),
        ("FP8", "FP8", Activations::Static),
        ("FP8 dynamic", "FP8", Activations::Dynamic),
    ] {
        let layer = layer(&stored(format, n, k), (n, k), activations);
        for s in [1024, 4096] {
            let x = Tensor::from_vec(numbers(s * k), (1, s, k), &Device::Cpu).unwrap();
            let run = |cx: &Cx| {
                let norm = layer_norm_modulate(&x, &vector, &vector).unwrap();
                layer.forward(&norm, cx).unwrap()
            };
            let mut group = c.benchmark_group(format!("norm and {name}, {s}x{k}"));
            group
                .sample_size(20)
                .sampling_mode(SamplingMode::Flat)
                .warm_up_time(Duration::from_millis(200))
                .measurement_time(Duration::from_millis(800));
            for (name, cx) in [("by row", &by_row), ("by tensor", &by_tensor)] {
                group.bench_function(name, |b| b.iter(|| pool.install(|| black_box(run(cx)))));
            }
            group.finish();
        }
    }
}

criterion_group!(benches, linear, levels, norms);
criterion_main!(benches);
