//! `qk_norm_rope_fp8.cu` on the emulated card: bit for bit what the separate kernels make, and the definition in f64.
#![allow(clippy::unwrap_used)]

// Each test takes what it needs of it.
#[allow(dead_code)]
mod attention;
mod common;

use attention::fp8::{Codes, quantise, read, round};
use attention::joint::{Ran, Raw, fused, fused_with, normed, separate};
use attention::run;
use attention::{Case, HEAD, Sees};
use qwen_nvfp4_kernels::attention_fp8::Fp8Layout;

/// Text of `text` rows and an image, with NaN in the padding.
fn streams(case: &Case, text: usize, seed: u64) -> Vec<Raw> {
    let mut first = Raw::random(case, text, seed);
    if let Sees::Padded { valid, .. } = &case.sees {
        first.poison(case, valid);
    }
    vec![first, Raw::random(case, case.keys - text, seed + 1)]
}

/// Cases with the length of their first stream.
fn cases() -> Vec<(Case, usize)> {
    let grouped = |kv_heads, case| Case { kv_heads, ..case };
    vec![
        (Case::square(1, 2), 0),
        (Case::square(2, 1), 1),
        (Case::square(21, 2), 5),
        (grouped(1, Case::square(130, 2)), 63),
        // More than one block of statistics, and one that spans both streams.
        (Case::square(330, 1), 129),
        (Case::joint(&[20, 77], 77, 66, 2), 77),
        (grouped(1, Case::joint(&[0, 64, 3], 64, 70, 2)), 64),
        (Case::joint(&[11], 40, 250, 1), 40),
    ]
}

fn same(what: &str, got: &Ran, expected: &Ran) {
    let differ = |a: &[u8], b: &[u8]| a.iter().zip(b).position(|(a, b)| a != b);
    assert_eq!(got.workspace.len(), expected.workspace.len());
    let at = differ(&got.workspace, &expected.workspace);
    assert_eq!(at, None, "{what}: the workspace differs");
    let bits = |ran: &Ran| ran.out.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
    assert!(bits(got) == bits(expected), "{what}: the output differs");
}

#[test]
fn bits_are_those_of_the_separate_kernels() {
    for (i, (case, text)) in cases().into_iter().enumerate() {
        let raw = streams(&case, text, 100 + 2 * i as u64);
        for name in ["rtx5090", "rtx4090"] {
            let card = run::card(name, 0);
            let got = fused(&card.gpu, &case, &raw).unwrap();
            let what = format!("{name}, {case:?}");
            same(&what, &got, &separate(&card.gpu, &case, &raw));
            assert!(got.out.iter().all(|x| x.is_finite()), "{what}");
        }
    }
}

/// One step of bf16, relatively: how far a number is off that lies on a border between two of them.
const STEP: f64 = 1.0 / 256.0;

/// Per channel, how far a key less its mean may be off beside a step of itself: a step of the mean, which it lies beside,
/// and one of each key in the mean. Keys near zero may be off by 2^-20 of their pair, which is shorter than 16.
fn spread(codes: &Codes, head: usize) -> Vec<f64> {
    let (keys, scale) = (&codes.k[head], f64::from(codes.k_scale[head]));
    let count = (keys.len() / HEAD) as f64;
    (0..HEAD)
        .map(|d| {
            let mean = f64::from(codes.k_mean[head][d]).abs();
            let sum: f64 = keys.iter().skip(d).step_by(HEAD).map(|k| k.abs()).sum();
            STEP * (2.0 * mean + sum / count * scale) + 2f64.powi(-16)
        })
        .collect()
}

fn close(what: &str, got: &[f32], expected: &[f32], bound: impl Fn(usize) -> f64) {
    assert_eq!(got.len(), expected.len());
    for (i, (g, e)) in got.iter().zip(expected).enumerate() {
        let bound = bound(i) + 1e-6 * f64::from(e.abs());
        let error = f64::from(g - e).abs();
        assert!(error <= bound, "{what} {i}: {g} for {e}");
    }
}

/// Codes against norms, rotations and scales in f64. Queries and keys are rounded to bf16 from f32 and not from f64: a few
/// lie on a border of two bf16 numbers.
#[test]
fn codes_are_those_of_the_definition() {
    for (i, (case, text)) in cases().into_iter().enumerate() {
        let raw = streams(&case, text, 200 + 2 * i as u64);
        let card = run::card("rtx5090", 0);
        let ran = fused(&card.gpu, &case, &raw).unwrap();
        let layout = run::with_form(&card.gpu, &case, Fp8Layout::of);
        let got = read(&case, &layout, &ran.workspace);
        let expected = quantise(&case, &normed(&case, &raw), true, |x| x);
        assert_eq!(got.q.len(), expected.q.len());
        assert_eq!(got.k.len(), expected.k.len());
        let (mut off, mut all) = (0, 0);
        let mut codes = |got: &[f64], expected: &[f64], (step, beside): (f64, &[f64])| {
            assert_eq!(got.len(), expected.len());
            for (i, (g, e)) in got.iter().zip(expected).enumerate() {
                let loose = step * e.abs() + beside[i % HEAD];
                let range = round(e - loose)..=round(e + loose);
                assert!(range.contains(g), "{case:?}: code {g} for {e}");
                (off, all) = (off + usize::from(*g != round(*e)), all + 1);
            }
        };
        for head in 0..expected.q.len() {
            let scales = &expected.q_scale[head];
            let bound = |i: usize| STEP * f64::from(scales[i]);
            close("q_scale", &got.q_scale[head], scales, bound);
            // A step of the number and one of its scale; 2^-20 of a pair of codes.
            let bound = (2.0 * STEP, &[1e-3; HEAD][..]);
            codes(&got.q[head], &expected.q[head], bound);
        }
        for head in 0..expected.k.len() {
            let (scale, beside) = (f64::from(expected.k_scale[head]), spread(&expected, head));
            let most = beside.iter().copied().fold(0.0, f64::max);
            let bound = |_| STEP * scale + most / 448.0;
            let [got_scale, scales] = [&got, &expected].map(|c| &c.k_scale[head..=head]);
            close("k_scale", got_scale, scales, bound);
            let mean = |d: usize| beside[d];
            close("k_mean", &got.k_mean[head], &expected.k_mean[head], mean);
            close(
                "v_scale",
                &got.v_scale[head],
                &expected.v_scale[head],
                |_| 0.0,
            );
            // A single key is its own mean, and has no scale.
            let in_codes: Vec<f64> = beside.iter().map(|x| x / scale.max(1e-30)).collect();
            let step = 2.0 * STEP + most / 448.0 / scale.max(1e-30);
            codes(&got.k[head], &expected.k[head], (step, &in_codes));
            codes(&got.v[head], &expected.v[head], (1e-6, &[0.0; HEAD]));
        }
        // Borders are rare: the bounds are not what the numbers use.
        assert!(off * 200 <= all, "{case:?}: {off} of {all} codes");
    }
}

/// A last block asks nothing of its text: the image's rows are what they were.
#[test]
fn a_first_stream_without_queries() {
    let all = Case::joint(&[20, 77], 77, 66, 2);
    let raw = streams(&all, 77, 300);
    let card = run::card("rtx5090", 0);
    let full = fused(&card.gpu, &all, &raw).unwrap().out;
    let image = Case {
        queries: 66,
        ..all.clone()
    };
    let got = fused_with(&card.gpu, &image, &raw, |s| s[0].q = None).unwrap();
    let row = all.heads * HEAD;
    for batch in 0..2 {
        let expected = &full[(batch * 143 + 77) * row..][..66 * row];
        assert!(got.out[batch * 66 * row..][..66 * row] == *expected);
    }
}

/// One stream is a second one behind nothing.
#[test]
fn a_single_stream() {
    let case = Case::square(70, 2);
    let raw = streams(&case, 0, 310);
    let card = run::card("rtx5090", 0);
    let alone = fused(&card.gpu, &case, &raw[1..]).unwrap();
    same("alone", &alone, &fused(&card.gpu, &case, &raw).unwrap());
}

#[test]
fn the_order_of_warps_does_not_matter() {
    let case = Case::joint(&[13, 70], 70, 210, 1);
    let raw = streams(&case, 70, 320);
    let first = fused(&run::card("rtx5090", 0).gpu, &case, &raw).unwrap();
    for seed in [1, 12345] {
        let card = run::card("rtx5090", seed);
        same("seed", &fused(&card.gpu, &case, &raw).unwrap(), &first);
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    let case = Case::square(12, 1);
    let raw = streams(&case, 5, 330);
    let card = run::card("rtx5090", 0);
    let told = |case: &Case, raw: &[Raw], drop_queries: Option<usize>| {
        let told = fused_with(&card.gpu, case, raw, |streams| {
            if let Some(stream) = drop_queries {
                streams[stream].q = None;
            }
        });
        told.err().unwrap().to_string()
    };
    let causal = Case {
        sees: Sees::Causal,
        ..case.clone()
    };
    assert!(told(&causal, &raw, None).contains("no causal form"));
    assert!(told(&case, &raw[1..], None).contains("0 and 7 rows"));
    assert!(told(&case, &raw, Some(0)).contains("for 12 queries"));
    assert!(told(&case, &raw, Some(1)).contains("for 12 queries"));
    let three = [&raw[..], &raw[..1]].concat();
    assert!(told(&case, &three, None).contains("3 streams"));
    assert!(told(&case, &[], None).contains("0 streams"));
    let mut wrong = raw.clone();
    wrong[1].sin.pop();
    assert!(told(&case, &wrong, None).contains("the sines"));
    let mut wrong = raw.clone();
    wrong[0].weights[1].pop();
    assert!(told(&case, &wrong, None).contains("k's weight"));
    let mut wrong = raw.clone();
    wrong[0].qkv.truncate(4 * (3 * HEAD + 8));
    assert!(told(&case, &wrong, None).contains("q: 1 x 5 rows"));
}
