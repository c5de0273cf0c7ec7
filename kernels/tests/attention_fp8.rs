//! `attention_fp8.cu` and its preparation on the emulated card, against attention in f64.
#![allow(clippy::unwrap_used)]

// Each test takes what it needs of it.
#[allow(dead_code)]
mod attention;
mod common;

use attention::data::{normal, poisoned};
use attention::fp8::{Codes, attend, quantise, read, round};
use attention::reference::{cosine, exact, relative, widen, worst};
use attention::run;
use attention::{Case, HEAD, Inputs, Sees};
use half::bf16;

/// Runs the case; its output, and the codes that the preparation made.
fn fp8(card: &str, case: &Case, inputs: &Inputs) -> (Vec<bf16>, Codes) {
    let card = run::card(card, 0);
    let ran = run::fp8(&card.gpu, case, inputs).unwrap();
    (ran.out, read(case, &ran.layout, &ran.workspace))
}

/// Keys with a common offset, different in each channel, as biases and norms leave it.
fn with_offset(mut inputs: Inputs, size: f32) -> Inputs {
    for (i, x) in inputs.k.iter_mut().enumerate() {
        *x = bf16::from_f32(x.to_f32() + size * ((i % HEAD) as f32).sin());
    }
    inputs
}

fn cases() -> Vec<Case> {
    vec![
        Case::square(1, 2),
        Case::square(20, 2),
        Case::square(77, 1),
        Case::square(200, 2),
        Case {
            keys: 300,
            kv_heads: 1,
            ..Case::square(130, 2)
        },
        Case::joint(&[20, 77], 77, 66, 2),
        Case::joint(&[0, 64], 64, 64, 1),
    ]
}

#[test]
fn codes_are_those_of_the_definition() {
    for case in cases() {
        let inputs = with_offset(poisoned(&case, 1.0, 7), 2.0);
        let (_, got) = fp8("rtx5090", &case, &inputs);
        let expected = quantise(&case, &inputs, true, |x| x);
        let close = |got: &[f32], expected: &[f32], what: &str| {
            assert_eq!(got.len(), expected.len());
            for (g, e) in got.iter().zip(expected) {
                // A key that stands alone is its own mean: its scale is that of nothing.
                assert!((g - e).abs() <= 1e-5 * e.abs() + 1e-6, "{what} {g} for {e}");
            }
        };
        close(&got.k_scale, &expected.k_scale, "k_scale");
        for head in 0..expected.k.len() {
            close(&got.v_scale[head], &expected.v_scale[head], "v_scale");
            close(&got.k_mean[head], &expected.k_mean[head], "k_mean");
        }
        for head in 0..expected.q.len() {
            close(&got.q_scale[head], &expected.q_scale[head], "q_scale");
        }
        // Scales and products are good to a few units of 2^-24, which decides where a number lies on the border between two
        // codes; a mean of a few hundred numbers of size 3 is good to 3e-6, of scales that are not below 1/448.
        for (got, expected, mean) in [
            (&got.q, &expected.q, 0.0),
            (&got.k, &expected.k, 3e-6 * 448.0),
            (&got.v, &expected.v, 0.0),
        ] {
            assert_eq!(got.len(), expected.len());
            for (g, e) in got.iter().flatten().zip(expected.iter().flatten()) {
                let loose = 1e-6 * e.abs() + mean;
                assert!(
                    (round(e - loose)..=round(e + loose)).contains(g),
                    "code {g} for {e}"
                );
            }
        }
    }
}

#[test]
fn attention_of_codes() {
    for case in cases() {
        for card in ["rtx5090", "rtx4090"] {
            let inputs = poisoned(&case, 1.5, 9);
            let (out, codes) = fp8(card, &case, &inputs);
            let expected = attend(&case, &codes);
            let ratio = worst(&expected.out, &out, |i| expected.bound[i]);
            assert!(ratio <= 1.0, "{card} {case:?}: {ratio} of the bound");
            // The bound is about that of the output's rounding: it says something.
            let size: f64 = expected.out.iter().map(|x| x.abs()).sum();
            let bound: f64 = expected.bound.iter().sum();
            assert!(
                bound <= 0.02 * size,
                "{case:?}: a bound of {bound} for {size}"
            );
        }
    }
}

/// The 4096 tokens of a picture and 128 of text: one block of queries.
#[test]
fn a_picture_of_keys() {
    let case = Case {
        queries: 128,
        ..Case::joint(&[93], 128, 4096, 1)
    };
    let inputs = poisoned(&case, 2.0, 11);
    let (out, codes) = fp8("rtx5090", &case, &inputs);
    let expected = attend(&case, &codes);
    let ratio = worst(&expected.out, &out, |i| expected.bound[i]);
    assert!(ratio <= 1.0, "{ratio} of the bound");
    report("4224 keys", &case, &inputs, &out);
}

/// Relative error and cosine against attention of the operands as they were.
fn report(what: &str, case: &Case, inputs: &Inputs, out: &[bf16]) -> f64 {
    let expected = exact(case, inputs).out;
    let out = widen(out);
    let error = relative(&expected, &out);
    println!(
        "{what}: relative error {error:.4}, cosine {:.5}",
        cosine(&expected, &out)
    );
    error
}

/// E4M3 has an error of 0.026 relative to a number (uniform within 2^-4 of binades' lower ends). Values and weights
/// have it once each, scores of deviation s sqrt(2) s times through q and k: 0.037, and 0.052 with s = 1.
#[test]
fn error_is_that_of_the_format() {
    let case = Case::square(200, 2);
    for (sharpness, most) in [(0.1, 0.045), (1.0, 0.06)] {
        let inputs = normal(&case, sharpness, 33);
        let (out, _) = fp8("rtx5090", &case, &inputs);
        let error = report(&format!("scores of {sharpness}"), &case, &inputs, &out);
        assert!(
            error > 0.01 && error <= most,
            "scores of {sharpness}: {error}"
        );
    }
}

/// A common offset of the keys costs nothing, as their mean is taken off; coding them as they are would be far worse.
#[test]
fn offset_of_keys_costs_nothing() {
    let case = Case::square(200, 1);
    let plain = normal(&case, 1.0, 51);
    let offset = with_offset(plain.clone(), 8.0);
    let error = |inputs: &Inputs| {
        let (out, _) = fp8("rtx5090", &case, inputs);
        report("kernel", &case, inputs, &out)
    };
    let (without, with) = (error(&plain), error(&offset));
    let naive = relative(
        &exact(&case, &offset).out,
        &attend(&case, &quantise(&case, &offset, false, round)).out,
    );
    println!("keys coded with their offset: relative error {naive:.4}");
    assert!(
        with <= 1.2 * without,
        "{with} with an offset, {without} without"
    );
    assert!(
        naive >= 2.0 * with,
        "{naive} if coded as they are, {with} less their mean"
    );
}

#[test]
fn a_row_without_keys_is_zero() {
    let card = run::card("rtx5090", 0);
    let case = Case::joint(&[0, 2], 70, 0, 1);
    let out = run::fp8(&card.gpu, &case, &poisoned(&case, 1.0, 8))
        .unwrap()
        .out;
    let (none, some) = out.split_at(out.len() / 2);
    assert!(none.iter().all(|x| x.to_bits() == 0));
    assert!(some.iter().all(|x| x.is_finite()) && some.iter().any(|x| x.to_f32() != 0.0));
}

/// Equal weights, and values 1, then small ones, then -1: the tensor cores of Ada and Hopper would lose the small ones
/// if they summed up all tiles.
#[test]
fn small_values_beside_large_ones() {
    let (tiles, small) = (10, 1.0 / 64.0 / 448.0);
    let case = Case {
        queries: 4,
        ..Case::square(64 * tiles, 1)
    };
    let value = |key: usize| match key / 64 {
        0 => 1.0,
        tile if tile == tiles - 1 => -1.0,
        _ => small,
    };
    let inputs = Inputs {
        q: vec![bf16::ZERO; 4 * HEAD],
        k: vec![bf16::ZERO; case.keys * HEAD],
        v: (0..case.keys * HEAD)
            .map(|i| bf16::from_f64(value(i / HEAD)))
            .collect(),
    };
    let mean = small * (tiles - 2) as f64 / tiles as f64;
    let (out, _) = fp8("rtx4090", &case, &inputs);
    let off = |x: &bf16| (x.to_f64() / mean - 1.0).abs();
    assert!(out.iter().all(|x| off(x) < 0.01), "{} for {mean}", out[0]);
}

#[test]
fn extreme_operands() {
    let case = Case::square(90, 1);
    // One key takes all: its value, once coded, is what comes out.
    let sharp = normal(&case, 300.0, 17);
    let (out, codes) = fp8("rtx5090", &case, &sharp);
    let expected = attend(&case, &codes);
    let ratio = worst(&expected.out, &out, |i| expected.bound[i]);
    assert!(ratio <= 1.0, "{ratio} of the bound");
    // Queries of nothing, and all keys alike: the mean of the values.
    let mut flat = normal(&case, 1.0, 18);
    let first = flat.k[..HEAD].to_vec();
    flat.k
        .chunks_mut(HEAD)
        .for_each(|row| row.copy_from_slice(&first));
    flat.q[..HEAD].fill(bf16::ZERO);
    let (out, codes) = fp8("rtx5090", &case, &flat);
    for d in 0..HEAD {
        let values = codes.v[0].iter().skip(d).step_by(HEAD);
        let mean = values.sum::<f64>() / 90.0 * f64::from(codes.v_scale[0][d]);
        for row in out.chunks(HEAD) {
            assert!(
                (row[d].to_f64() - mean).abs() <= mean.abs() / 256.0 + 2e-4,
                "channel {d}: {} for {mean}",
                row[d]
            );
        }
    }
    // Nothing at all.
    let nothing = Inputs {
        q: vec![bf16::ZERO; 90 * HEAD],
        k: vec![bf16::ZERO; 90 * HEAD],
        v: vec![bf16::ZERO; 90 * HEAD],
    };
    assert!(
        fp8("rtx5090", &case, &nothing)
            .0
            .iter()
            .all(|x| x.to_f32() == 0.0)
    );
    // A value that is not a number is not hidden.
    let mut broken = normal(&case, 1.0, 19);
    broken.v[5 * HEAD + 3] = bf16::NAN;
    broken.v[6 * HEAD + 4] = bf16::INFINITY;
    let (out, _) = fp8("rtx5090", &case, &broken);
    assert!(
        out.chunks(HEAD)
            .all(|row| row[3].is_nan() && row[4].is_nan() && row[5].is_finite())
    );
}

#[test]
fn other_orders_of_warps_give_the_same_bits() {
    let case = Case::joint(&[13, 70], 70, 80, 1);
    let inputs = poisoned(&case, 1.0, 2);
    let card = run::card("rtx5090", 0);
    let first = run::fp8(&card.gpu, &case, &inputs).unwrap().out;
    drop(card);
    for seed in [0, 1, 12345] {
        let card = run::card("rtx5090", seed);
        assert_eq!(
            first,
            run::fp8(&card.gpu, &case, &inputs).unwrap().out,
            "seed {seed}"
        );
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    let card = run::card("rtx5090", 0);
    let causal = Case {
        sees: Sees::Causal,
        ..Case::square(3, 1)
    };
    let told = run::fp8(&card.gpu, &causal, &normal(&causal, 1.0, 1))
        .err()
        .unwrap()
        .to_string();
    assert!(told.contains("no causal form"), "{told}");
    let case = Case::square(3, 1);
    let inputs = normal(&case, 1.0, 1);
    let mut out = run::output(&card.gpu, &case);
    let mut small = card.gpu.stream().alloc_zeros::<u8>(512).unwrap();
    let told = run::with_form(&card.gpu, &case, |form| {
        run::with_operands(&card.gpu, &case, &inputs, |operands| {
            form.fp8(
                &card.gpu,
                &mut out.as_view_mut(),
                operands,
                &mut small.as_view_mut(),
            )
        })
    });
    assert!(
        told.unwrap_err()
            .to_string()
            .contains("a workspace of 512 bytes")
    );
    drop(small);
    drop(out);
    drop(card);
    let card = run::card("a100", 0);
    let told = run::fp8(&card.gpu, &case, &inputs)
        .err()
        .unwrap()
        .to_string();
    assert!(told.contains("not built for sm_80"), "{told}");
}
