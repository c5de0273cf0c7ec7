#![allow(clippy::unwrap_used)]
use candle_core::{Device, Tensor};

use super::tile::{KEYS, QUERIES};
use super::*;

fn random(shape: &[usize], seed: u64) -> Tensor {
    let mut state = seed;
    let n = shape.iter().product::<usize>();
    let values: Vec<f32> = (0..n)
        .map(|_| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            (state >> 40) as f32 / (1u64 << 22) as f32 - 2.0
        })
        .collect();
    Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
}

/// The definition in f64, one query at a time.
fn reference(a: &Attention, q: &Tensor, k: &Tensor, v: &Tensor) -> Vec<f64> {
    let (b, sq, qw) = q.dims3().unwrap();
    let (_, sk, kw) = k.dims3().unwrap();
    let d = qw / a.heads;
    let [q, k, v] = [q, k, v].map(|t| t.flatten_all().unwrap().to_vec1::<f32>().unwrap());
    let mut out = vec![0.0; b * sq * qw];
    for (row, h) in (0..b * sq).flat_map(|row| (0..a.heads).map(move |h| (row, h))) {
        let (batch, kv) = (row / sq, h / (a.heads / a.kv_heads));
        let seen = |j: usize| match &a.keys {
            Keys::All => true,
            Keys::Causal => j <= row % sq,
            Keys::PaddedPrefix { valid, padded } => j < valid[batch] || j >= *padded,
        };
        let at = |j: usize| (batch * sk + j) * kw + kv * d;
        let weights: Vec<f64> = (0..sk)
            .map(|j| match seen(j) {
                true => {
                    let dot: f64 = (0..d)
                        .map(|c| f64::from(q[row * qw + h * d + c]) * f64::from(k[at(j) + c]))
                        .sum();
                    (dot / (d as f64).sqrt()).exp()
                }
                false => 0.0,
            })
            .collect();
        let sum: f64 = weights.iter().sum();
        for c in 0..d {
            out[row * qw + h * d + c] = (0..sk)
                .map(|j| weights[j] / sum * f64::from(v[at(j) + c]))
                .sum();
        }
    }
    out
}

#[test]
fn tiles_equal_the_definition() {
    let form = |heads, kv_heads, keys| Attention {
        heads,
        kv_heads,
        keys,
    };
    let padded = Keys::PaddedPrefix {
        valid: vec![3, 0],
        padded: 7,
    };
    let mut worst = 0.0f64;
    for (a, sq, sk, d) in [
        (form(1, 1, Keys::All), 1, 1, 1),
        (form(3, 3, Keys::All), QUERIES + 5, 2 * KEYS + 3, 20),
        (form(2, 2, padded), 9, KEYS + 9, 16),
        (form(4, 2, Keys::Causal), KEYS + 37, KEYS + 37, 8),
    ] {
        let q = random(&[2, sq, a.heads * d], 1);
        let (k, v) = (
            random(&[2, sk, a.kv_heads * d], 2),
            random(&[2, sk, a.kv_heads * d], 3),
        );
        let got = a
            .forward(&q, &k, &v)
            .unwrap()
            .flatten_all()
            .unwrap()
            .to_vec1::<f32>()
            .unwrap();
        for (got, expected) in got.iter().zip(reference(&a, &q, &k, &v)) {
            worst = worst.max((f64::from(*got) - expected).abs());
        }
    }
    println!("largest difference from the definition: {worst:.2e}");
    assert!(worst < 2e-6, "{worst:e}");
}

#[test]
fn a_nan_is_not_hidden() {
    let q = Tensor::full(f32::NAN, (1, 2, 4), &Device::Cpu).unwrap();
    let a = Attention {
        heads: 1,
        kv_heads: 1,
        keys: Keys::All,
    };
    let out = a
        .forward(&q, &random(&[1, 3, 4], 1), &random(&[1, 3, 4], 2))
        .unwrap();
    assert!(
        out.flatten_all()
            .unwrap()
            .to_vec1::<f32>()
            .unwrap()
            .iter()
            .all(|v| v.is_nan())
    );
}

#[test]
fn the_result_does_not_depend_on_the_thread_count() {
    let a = Attention {
        heads: 2,
        kv_heads: 2,
        keys: Keys::All,
    };
    let (q, k, v) = (
        random(&[1, 300, 32], 1),
        random(&[1, 300, 32], 2),
        random(&[1, 300, 32], 3),
    );
    let run = |threads| {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .unwrap();
        pool.install(|| {
            a.forward(&q, &k, &v)
                .unwrap()
                .flatten_all()
                .unwrap()
                .to_vec1::<f32>()
                .unwrap()
        })
    };
    assert_eq!(run(1), run(3));
}
