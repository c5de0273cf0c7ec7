//! What watching costs: `cargo bench --bench calibrate`.
//!
//! `watch/*` is one generation of the tiny model on two threads without and with an observer (the limit is 5 %), and what one
//! number costs in a small and in a large input. `state/*` is what is written after every sample.
//!
//! Learned: counting straight into the 64-bit counts of a layer cost 1.0 ns a number in the tiny model, most of it misses of
//! the first cache, since each layer has 37 kB of them. Counting in 12 kB that all layers share, and adding the octaves that
//! were met, is what is here.

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use qwen_nvfp4::calibrate::Watch;
use qwen_nvfp4::checkpoint::ModelSource;
use qwen_nvfp4::context::Cx;
use qwen_nvfp4::numerics::tally::{Scratch, Tally};
use qwen_nvfp4::pipeline::request::Request;
use qwen_nvfp4::pipeline::{Engine, Progress};
use qwen_nvfp4::quantize::calibration::Capture;

struct Silent;
impl Progress for Silent {}

/// Alternates, so that a slow spell of the machine meets both, and prints the ratio of the medians.
fn overhead(_: &mut Criterion) {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(2).build();
    let pool = pool.expect("two threads");
    let engine = Engine::load(&ModelSource::Embedded).expect("the tiny model");
    let request = Request {
        prompts: vec![
            "a large red star above a small blue circle on a plain yellow background".to_owned(),
        ],
        negatives: None,
        seeds: vec![0],
        settings: engine.defaults(),
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
    for _ in 0..150 {
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
            taps.iter_mut()
                .for_each(|tap| drop(black_box(tap.add(small, 128, 0, &mut scratch))))
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
