//! What watching costs: `cargo bench --bench calibrate`.
//!
//! The first line is one generation on two threads without and with an observer, decoding included, of the tiny model or of the
//! folder in `QWEN_NVFP4_MODEL` (one step, 512x512, no guidance). Then what one number costs in a small and in a large input.
//!
//! Learned, in the tiny model, where a number that is watched is worth 128 to 512 multiplications only (3072 to 12288 in the
//! published one): counting straight into the 64-bit counts of a layer cost 1.7 ns a number and 13 % of a generation, most of it
//! misses of the first cache and loads that waited for wide stores. Bins of 16 blocks first, then counting them in two tables of
//! 16 kB that all layers share: 0.8 ns. Handing small inputs to a thread of their own: from 11 % to 7 %.

#![allow(clippy::expect_used)]

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use qwen_nvfp4::calibrate::Watch;
use qwen_nvfp4::checkpoint::ModelSource;
use qwen_nvfp4::context::Cx;
use qwen_nvfp4::numerics::tally::{Scratch, Tally};
use qwen_nvfp4::pipeline::request::{Request, Settings};
use qwen_nvfp4::pipeline::{Engine, Silent};
use qwen_nvfp4::quantize::calibration::Capture;

/// Alternates, so that a slow spell of the machine meets both, and prints the ratio of the medians.
fn overhead(_: &mut Criterion) {
    // As the program does.
    qwen_nvfp4::cli::keep_freed_memory();
    let pool = rayon::ThreadPoolBuilder::new().num_threads(2).build();
    let pool = pool.expect("two threads");
    let other = std::env::var("QWEN_NVFP4_MODEL").ok();
    let source = match &other {
        None => ModelSource::Embedded,
        Some(path) => ModelSource::Files {
            model: path.into(),
            text_encoder: None,
            vae: None,
        },
    };
    let engine = Engine::load(&source).expect("the model");
    let (settings, runs) = match other {
        None => (engine.defaults(), 150),
        Some(_) => {
            let settings = Settings {
                width: 512,
                height: 512,
                steps: 1,
                cfg: 1.0,
                ..engine.defaults()
            };
            (settings, 7)
        }
    };
    let request = Request {
        prompts: vec![
            "a large red star above a small blue circle on a plain yellow background".to_owned(),
        ],
        negatives: None,
        seeds: vec![0],
        settings,
        latents: None,
    };
    let watch = Arc::new(Watch::new(
        engine.checkpoint().transformer_layers(),
        Capture::default(),
    ));
    let plain = Cx::default();
    let watched = plain.observed_by(watch.clone());
    let time = |cx: &Cx| {
        let start = Instant::now();
        pool.install(|| engine.generate(&request, cx, &mut Silent))
            .map(drop)
            .expect("a picture");
        start.elapsed()
    };
    let (mut without, mut with) = (Vec::new(), Vec::new());
    time(&watched);
    for _ in 0..runs {
        without.push(time(&plain));
        with.push(time(&watched));
    }
    let middle = |times: &mut Vec<Duration>| {
        times.sort();
        (times[times.len() / 2], times[times.len() / 10])
    };
    let (a, a_fast) = middle(&mut without);
    let (b, b_fast) = middle(&mut with);
    let percent = |a: Duration, b: Duration| 100.0 * (b.as_secs_f64() / a.as_secs_f64() - 1.0);
    println!(
        "watch/generation: {a:.1?} without, {b:.1?} with, {:+.1} %; fastest tenth {a_fast:.1?}, {b_fast:.1?}, {:+.1} %",
        percent(a, b),
        percent(a_fast, b_fast)
    );
}

fn numbers(c: &mut Criterion) {
    let mut group = c.benchmark_group("watch");
    let x: Vec<f32> = (0..4096 * 3072u32)
        .map(|i| ((i.wrapping_mul(2_654_435_761) >> 9) as f32 / 4_194_304.0 - 1.0).powi(3) * 8.0)
        .collect();
    let mut scratch = Scratch::default();
    let mut taps = vec![Tally::default(); 97];
    let small = &x[..16 * 128];
    group.throughput(Throughput::Elements(97 * small.len() as u64));
    group.bench_function("16 x 128 of 97 layers in turn", |b| {
        b.iter(|| {
            taps.iter_mut().for_each(|tap| {
                black_box(tap.add(small, 128, 0, &mut scratch));
            })
        })
    });
    group.throughput(Throughput::Elements(x.len() as u64));
    group.sample_size(10);
    group.bench_function("4096 x 3072, one thread", |b| {
        b.iter(|| black_box(taps[0].add(&x, 3072, 0, &mut scratch)))
    });
    group.finish();
}

criterion_group!(benches, overhead, numbers);
criterion_main!(benches);
