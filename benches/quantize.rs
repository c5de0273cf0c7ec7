//! The number formats, fast and plain, on one core: bytes of source per second.
//!
//!     cargo bench --bench quantize [-- FILTER]
//!
//! One core of an AMD EPYC (Zen 4, AVX2 code), GiB/s. The machine is shared: these are from its quieter minutes, and at
//! full load everything is 0.6 times that.
//!
//! | | fast | plain |
//! |---|---|---|
//! | E4M3 to NVFP4, bytes of E4M3 | 5.0 | 0.15 (through F32) |
//! | E4M3 to NVFP4, four-six, counted too | 0.74 | |
//! | histogram of E4M3 | 2.2 | 1.1 |
//! | search over seven ratios, histogram included | 1.7 | |
//! | F32 to NVFP4, bytes of F32 | 2.9 | 0.58 |
//! | F32 to NVFP4, four-six | 0.81 | 0.30 |
//! | F32 to FP8 | 14 | 2.4 |
//! | F32 search over seven ratios, NVFP4 | 0.65 | |
//! | F32 search over five ratios, FP8 | 1.4 | |
//! | NVFP4 to F32, bytes of F32 | 20 | 3.4 |
//! | block scales into tiles | 1.2 | 0.46 |
//!
//! Learned:
//! * Left to the compiler, seven comparisons of 16 bytes and the packing ran at 1.0 in place of 5.0: it finds neither the
//!   horizontal minimum nor the multiply-add that packs nibbles. That loop alone is written in intrinsics.
//! * Four tables in turn make the histogram twice as fast: a counter that was just written is not read back at once.
//! * The F32 search was 5 times slower while one loop rounded and summed: F64 sums in it kept the F32 part from
//!   becoming vectors. Two loops over 16 KiB, one for each type, do not disturb each other.
//! * Rounding by bits beats rounding by a magic number that depends on the range: the range needs two choices per number.
use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use qwen_nvfp4::numerics::e4m3_source::{FourSix, Histogram, Split, Tables};
use qwen_nvfp4::numerics::error::ErrorStats;
use qwen_nvfp4::numerics::nvfp4::{self, BLOCK, BlockRule};
use qwen_nvfp4::numerics::search::{self, Format, Method, Search};
use qwen_nvfp4::numerics::{e4m3, fp8, swizzle};

/// A quarter of a Qwen-Image projection.
const ROWS: usize = 768;
const COLUMNS: usize = 3072;
const NUMBERS: usize = ROWS * COLUMNS;

/// Numbers that are spread like a weight's: a sum of 12 uniform ones.
fn weight() -> Vec<f32> {
    let mut state = 1u64;
    let mut uniform = move || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1 << 24) as f32 - 0.5
    };
    let mut number = || (0..12).map(|_| uniform()).sum::<f32>() * 0.03;
    (0..NUMBERS).map(|_| number()).collect()
}

fn benches(c: &mut Criterion) {
    let x = weight();
    let mut bytes = vec![0; NUMBERS];
    e4m3::encode_slice(&x, &mut bytes);
    let x_e4m3: Vec<f32> = bytes
        .iter()
        .map(|b| e4m3::E4M3_TO_F32[usize::from(*b)])
        .collect();
    from_e4m3(c, &bytes, &x_e4m3);
    from_f32(c, &x);
    back(c, &x);
}

fn from_e4m3(c: &mut Criterion, bytes: &[u8], x: &[f32]) {
    let scale_2 = nvfp4::scale_2_of(search::amax(x));
    let (mut codes, mut scales) = (vec![0; NUMBERS / 2], vec![0; NUMBERS / BLOCK]);
    let mut group = c.benchmark_group("E4M3 source");
    group
        .sample_size(20)
        .throughput(Throughput::Bytes(NUMBERS as u64));
    let tables = Tables::new(scale_2, 1.0);
    group.bench_function("quantize", |b| {
        b.iter(|| tables.quantize(black_box(bytes), &mut codes, &mut scales))
    });
    let (four_six, mut seen) = (FourSix::new(scale_2, 1.0), Split::default());
    group.bench_function("quantize four-six and count", |b| {
        b.iter(|| four_six.quantize(black_box(bytes), &mut codes, &mut scales, &mut seen))
    });
    group.bench_function("quantize, scalar over F32", |b| {
        b.iter(|| {
            nvfp4::reference::quantize(
                black_box(x),
                scale_2,
                BlockRule::Six,
                &mut codes,
                &mut scales,
            )
        })
    });
    let mut histogram = Histogram::new();
    group.bench_function("histogram", |b| b.iter(|| histogram.add(black_box(bytes))));
    group.bench_function("histogram, scalar", |b| {
        let mut counts = vec![0u64; 128 * 128];
        b.iter(|| {
            for block in black_box(bytes).chunks(BLOCK) {
                let max = block.iter().map(|b| b & 0x7f).max().unwrap_or(0);
                for byte in block {
                    counts[usize::from(max) * 128 + usize::from(byte & 0x7f)] += 1;
                }
            }
        })
    });
    group.bench_function("mse search, histogram included", |b| {
        b.iter(|| {
            let mut histogram = Histogram::new();
            let counted = histogram.add(black_box(bytes));
            (
                counted,
                search::search_e4m3(Format::Nvfp4, Method::Mse, &histogram, 1.0),
            )
        })
    });
    let table = fp8::requantize(1.0, 0.9);
    let mut again = vec![0; NUMBERS];
    group.bench_function("requantize to FP8", |b| {
        b.iter(|| {
            for (to, from) in again.iter_mut().zip(black_box(bytes)) {
                *to = table[usize::from(*from)];
            }
        })
    });
    group.finish();
    c.bench_function("tables for one scale", |b| {
        b.iter(|| Tables::new(black_box(scale_2), 1.0))
    });
}

fn from_f32(c: &mut Criterion, x: &[f32]) {
    let amax = search::amax(x);
    let scale_2 = nvfp4::scale_2_of(amax);
    let (mut codes, mut scales) = (vec![0; NUMBERS / 2], vec![0; NUMBERS / BLOCK]);
    let mut group = c.benchmark_group("F32 source");
    group
        .sample_size(20)
        .throughput(Throughput::Bytes(4 * NUMBERS as u64));
    group.bench_function("amax", |b| b.iter(|| search::amax(black_box(x))));
    for (name, rule) in [("six", BlockRule::Six), ("four-six", BlockRule::FourSix)] {
        group.bench_function(format!("quantize {name}"), |b| {
            b.iter(|| nvfp4::quantize(black_box(x), scale_2, rule, &mut codes, &mut scales))
        });
        group.bench_function(format!("quantize {name}, scalar"), |b| {
            b.iter(|| {
                nvfp4::reference::quantize(black_box(x), scale_2, rule, &mut codes, &mut scales)
            })
        });
    }
    let mut fp8_codes = vec![0; NUMBERS];
    group.bench_function("quantize to FP8", |b| {
        b.iter(|| fp8::quantize(black_box(x), fp8::scale_of(amax), &mut fp8_codes))
    });
    group.bench_function("quantize to FP8, scalar", |b| {
        let reciprocal = 1.0 / fp8::scale_of(amax);
        b.iter(|| {
            for (code, x) in fp8_codes.iter_mut().zip(black_box(x)) {
                *code = black_box(e4m3::encode(x * reciprocal));
            }
        })
    });
    for (name, format) in [("NVFP4", Format::Nvfp4), ("FP8", Format::Fp8)] {
        group.bench_function(format!("mse search {name}"), |b| {
            b.iter(|| {
                let mut search = Search::new(format, Method::Mse, amax);
                search.add(black_box(x));
                search.best()
            })
        });
    }
    nvfp4::quantize(x, scale_2, BlockRule::Six, &mut codes, &mut scales);
    group.bench_function("error", |b| {
        b.iter(|| ErrorStats::nvfp4(black_box(x), &codes, &scales, scale_2))
    });
    group.finish();
}

fn back(c: &mut Criterion, x: &[f32]) {
    let scale_2 = nvfp4::scale_2_of(search::amax(x));
    let (mut codes, mut scales) = (vec![0; NUMBERS / 2], vec![0; NUMBERS / BLOCK]);
    nvfp4::quantize(x, scale_2, BlockRule::Six, &mut codes, &mut scales);
    let mut out = vec![0.0; NUMBERS];
    let mut group = c.benchmark_group("NVFP4 to F32, bytes out");
    group
        .sample_size(20)
        .throughput(Throughput::Bytes(4 * NUMBERS as u64));
    group.bench_function("dequantize", |b| {
        b.iter(|| nvfp4::dequantize(black_box(&codes), &scales, scale_2, &mut out))
    });
    group.bench_function("dequantize, scalar", |b| {
        b.iter(|| nvfp4::reference::dequantize(black_box(&codes), &scales, scale_2, &mut out))
    });
    group.finish();

    let columns = COLUMNS / BLOCK;
    let mut blocked = vec![0; scales.len()];
    let mut group = c.benchmark_group("block scales");
    group
        .sample_size(20)
        .throughput(Throughput::Bytes(scales.len() as u64));
    group.bench_function("to tiles", |b| {
        b.iter(|| swizzle::to_blocked(black_box(&scales), columns, &mut blocked))
    });
    group.bench_function("to tiles, scalar", |b| {
        b.iter(|| {
            for (i, scale) in black_box(&scales).iter().enumerate() {
                blocked[swizzle::offset(i / columns, i % columns, columns)] = *scale;
            }
        })
    });
    group.bench_function("from tiles", |b| {
        b.iter(|| swizzle::from_blocked(black_box(&blocked), columns, &mut scales))
    });
    group.finish();
}

criterion_group!(all, benches);
criterion_main!(all);
