//! `qk_norm_rope_fp8.cu` on the emulated card: bit for bit what the separate kernels make, and the definition in f64.
#![allow(clippy::unwrap_used)]

// Each test takes what it needs of it.
#[allow(dead_code)]
mod attention;
mod common;

use attention::fp8::{quantise, read, round};
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

/// Codes against norms, rotations and scales in f64.
///
/// Queries and keys are rounded to bf16 from f32 and not from f64: a few lie on the border of two bf16 numbers, 2^-8 apart
/// (and 2^-20 of the pair's length, which a near-zero number may have as its error). Scales may be off by as much.
#[test]
fn codes_are_those_of_the_definition() {
    for (i, (case, text)) in cases().into_iter().enumerate() {
        let raw = streams(&case, text, 200 + 2 * i as u64);
        let card = run::card("rtx5090", 0);
        let ran = fused(&card.gpu, &case, &raw).unwrap();
        let layout = run::with_form(&card.gpu, &case, Fp8Layout::of);
        let got = read(&case, &layout, &ran.workspace);
        let expected = quantise(&case, &normed(&case, &raw), true, |x| x);
        let close = |got: &[f32], expected: &[f32], by: [f32; 2], what: &str| {
            assert_eq!(got.len(), expected.len());
            for (g, e) in got.iter().zip(expected) {
                let bound = by[0] * e.abs() + by[1];
                assert!((g - e).abs() <= bound, "{case:?}: {what} {g} for {e}");
            }
        };
        let step = 2f32.powi(-8);
        close(&got.k_scale, &expected.k_scale, [step, 1e-5], "k_scale");
        for head in 0..expected.k.len() {
            close(
                &got.v_scale[head],
                &expected.v_scale[head],
                [1e-6, 0.0],
                "v_scale",
            );
            // The rare border cases of a mean: far below a step of each number.
            close(
                &got.k_mean[head],
                &expected.k_mean[head],
                [step, 2e-3],
                "k_mean",
            );
        }
        for head in 0..expected.q.len() {
            close(
                &got.q_scale[head],
                &expected.q_scale[head],
                [step, 0.0],
                "q_scale",
            );
        }
        // In codes: keys and their mean are below 8, a border case of both is 2^-5 at most; of a scale above 1/448.
        let keys = |head: usize| 2.0 * 2f64.powi(-8) / f64::from(expected.k_scale[head].max(1e-3));
        let (mut off, mut all) = (0, 0);
        for (got, expected, loose) in [
            (&got.q, &expected.q, &(|_| 1e-3) as &dyn Fn(usize) -> f64),
            (&got.k, &expected.k, &keys),
            (&got.v, &expected.v, &|_| 0.0),
        ] {
            assert_eq!(got.len(), expected.len());
            for (head, (g, e)) in got.iter().zip(expected).enumerate() {
                assert_eq!(g.len(), e.len());
                for (g, e) in g.iter().zip(e) {
                    let loose = 2f64.powi(-7) * e.abs() + loose(head);
                    let range = round(e - loose)..=round(e + loose);
                    assert!(range.contains(g), "{case:?}: code {g} for {e}");
                    (off, all) = (off + usize::from(*g != round(*e)), all + 1);
                }
            }
        }
        // Border cases are few: that the bound is not what the numbers use.
        let one_key = case.keys == 1;
        assert!(
            one_key || off * 200 <= all,
            "{case:?}: {off} of {all} codes"
        );
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
