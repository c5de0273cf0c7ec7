//! `attention_bf16.cu` on the emulated card, against attention in f64.
#![allow(clippy::unwrap_used)]

// Each test takes what it needs of it.
#[allow(dead_code)]
mod attention;
mod common;

use attention::data::{Random, normal, poisoned};
use attention::reference::{BF16, exact, worst, worst_bf16};
use attention::run::{self, output, with_form, with_operands};
use attention::{Case, HEAD, Inputs, Sees};
use half::bf16;
use qwen_nvfp4_kernels::attention::{HeadRows, Operands};

/// Runs the case and says how much of the bound its worst error takes.
fn ratio(card: &str, case: &Case, inputs: &Inputs) -> f64 {
    let card = run::card(card, 0);
    let out = run::bf16(&card.gpu, case, inputs).unwrap();
    worst_bf16(case, &exact(case, inputs), &out)
}

#[test]
fn any_length() {
    for (length, heads) in [(1, 3), (20, 2), (64, 1), (77, 2), (200, 2)] {
        let case = Case::square(length, heads);
        let ratio = ratio("rtx5090", &case, &normal(&case, 1.0, length as u64));
        assert!(ratio <= 1.0, "{length} rows: {ratio} of the bound");
    }
}

#[test]
fn older_cards_give_the_same_bits() {
    let case = Case::joint(&[20], 77, 70, 1);
    let inputs = poisoned(&case, 1.5, 5);
    let [new, old] = ["rtx5090", "a100"].map(|card| {
        let card = run::card(card, 0);
        run::bf16(&card.gpu, &case, &inputs).unwrap()
    });
    assert_eq!(new, old);
}

#[test]
fn lengths_of_queries_and_keys_differ() {
    for (queries, keys) in [(1, 200), (77, 5), (130, 64)] {
        let case = Case {
            keys,
            ..Case::square(queries, 1)
        };
        let ratio = ratio("rtx5090", &case, &normal(&case, 1.0, keys as u64));
        assert!(
            ratio <= 1.0,
            "{queries} queries, {keys} keys: {ratio} of the bound"
        );
    }
}

/// The 4096 tokens of a picture and 128 of text: one block of queries.
#[test]
fn a_picture_of_keys() {
    let case = Case {
        queries: 64,
        ..Case::joint(&[93], 128, 4096, 1)
    };
    let ratio = ratio("rtx5090", &case, &poisoned(&case, 2.0, 11));
    assert!(ratio <= 1.0, "{ratio} of the bound");
}

/// Padding holds NaN: neither its keys nor its values may be met, not even with a weight of 0.
#[test]
fn texts_of_different_lengths() {
    for valid in [[20, 77], [1, 64], [0, 76], [500, 3]] {
        let case = Case::joint(&valid, 77, 66, 2);
        let ratio = ratio("rtx5090", &case, &poisoned(&case, 1.0, 3));
        assert!(ratio <= 1.0, "{valid:?} valid tokens: {ratio} of the bound");
    }
}

/// The form of a language model: positions ahead are hidden, key heads are shared.
#[test]
fn causal_with_shared_key_heads() {
    for length in [1, 63, 150] {
        let case = Case {
            kv_heads: 2,
            sees: Sees::Causal,
            ..Case::square(length, 6)
        };
        let ratio = ratio("rtx5090", &case, &normal(&case, 1.0, 21));
        assert!(ratio <= 1.0, "{length} positions: {ratio} of the bound");
    }
}

#[test]
fn a_row_without_keys_is_zero() {
    let card = run::card("rtx5090", 0);
    let case = Case::joint(&[0, 2], 70, 0, 1);
    let inputs = poisoned(&case, 1.0, 8);
    let out = run::bf16(&card.gpu, &case, &inputs).unwrap();
    let (none, some) = out.split_at(out.len() / 2);
    assert!(none.iter().all(|x| x.to_bits() == 0));
    assert!(some.iter().all(|x| x.is_finite()) && some.iter().any(|x| x.to_f32() != 0.0));
    let nothing = Case {
        keys: 0,
        ..Case::square(3, 2)
    };
    let inputs = Inputs {
        q: normal(&nothing, 1.0, 1).q,
        k: vec![bf16::NAN; 8],
        v: vec![bf16::NAN; 8],
    };
    let out = run::bf16(&card.gpu, &nothing, &inputs).unwrap();
    assert!(out.iter().all(|x| x.to_bits() == 0));
}

/// Scores in the tens of thousands: one key takes all.
#[test]
fn large_scores() {
    let case = Case::square(90, 1);
    let mut inputs = normal(&case, 300.0, 17);
    inputs
        .k
        .iter_mut()
        .for_each(|x| *x = bf16::from_f32(x.to_f32() * 64.0));
    let exact = exact(&case, &inputs);
    assert!(
        exact.magnitude.iter().all(|m| *m > 5e4),
        "the test asks for large scores"
    );
    let card = run::card("rtx5090", 0);
    let out = run::bf16(&card.gpu, &case, &inputs).unwrap();
    // The best key leads by far more than the sums of f32 can confuse, so its value comes out. Its weight is not quite 1: a
    // score times the scale is rounded where it is the largest, but not in the exponent (2^-24 of it), and then to bf16.
    let ratio = worst(&exact.out, &out, |i| {
        let exponent = exact.magnitude[i / HEAD] * 2f64.powi(-24);
        (2.0 * BF16 + exponent) * exact.out[i].abs() + 1e-30
    });
    assert!(ratio <= 1.0, "{ratio} of the bound");
}

/// The same key everywhere: all weights are equal, and the output is the mean of the values.
#[test]
fn equal_keys_average() {
    let case = Case::square(100, 1);
    let mut inputs = normal(&case, 4.0, 29);
    let first = inputs.k[..HEAD].to_vec();
    inputs
        .k
        .chunks_mut(HEAD)
        .for_each(|row| row.copy_from_slice(&first));
    let card = run::card("rtx5090", 0);
    let out = run::bf16(&card.gpu, &case, &inputs).unwrap();
    for d in 0..HEAD {
        let mean = inputs
            .v
            .iter()
            .skip(d)
            .step_by(HEAD)
            .map(|x| x.to_f64())
            .sum::<f64>()
            / 100.0;
        // Weights of exactly 1: only the output is rounded, and the sum cut off.
        let bound = mean.abs() / 256.0 + 100.0 * 2f64.powi(-20);
        for row in out.chunks(HEAD) {
            assert!(
                (row[d].to_f64() - mean).abs() <= bound,
                "channel {d}: {} for {mean}",
                row[d]
            );
        }
    }
}

/// Operands inside a fused projection `[rows, q | k | v]` with a gap behind each row.
#[test]
fn operands_of_a_fused_projection() {
    let card = run::card("rtx5090", 0);
    let case = Case {
        batch: 2,
        ..Case::square(70, 2)
    };
    let inputs = normal(&case, 1.0, 41);
    let width = 2 * HEAD;
    let stride = 3 * width + 8;
    let mut fused = vec![bf16::NAN; 2 * 70 * stride];
    for (row, to) in fused.chunks_mut(stride).enumerate() {
        for (part, from) in [&inputs.q, &inputs.k, &inputs.v].iter().enumerate() {
            to[part * width..][..width].copy_from_slice(&from[row * width..][..width]);
        }
    }
    let fused = card.gpu.stream().clone_htod(&fused).unwrap();
    let parts = [0, 1, 2].map(|part| fused.slice(part * width..));
    let [q, k, v] = [&parts[0], &parts[1], &parts[2]].map(|data| HeadRows {
        data,
        row: stride,
        batch: 70 * stride,
    });
    let mut out = output(&card.gpu, &case);
    with_form(&card.gpu, &case, |form| {
        form.bf16(&card.gpu, &mut out.as_view_mut(), &Operands { q, k, v })
    })
    .unwrap();
    let out = card.gpu.stream().clone_dtoh(&out).unwrap();
    assert_eq!(out, run::bf16(&card.gpu, &case, &inputs).unwrap());
}

#[test]
fn the_order_of_warps_does_not_matter() {
    let card = run::card("rtx5090", 0);
    let case = Case::joint(&[13, 70], 70, 80, 1);
    let inputs = poisoned(&case, 1.0, 2);
    let first = run::bf16(&card.gpu, &case, &inputs).unwrap();
    drop(card);
    for seed in [0, 1, 12345] {
        let card = run::card("rtx5090", seed);
        assert_eq!(
            first,
            run::bf16(&card.gpu, &case, &inputs).unwrap(),
            "seed {seed}"
        );
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    let card = run::card("rtx5090", 0);
    let case = Case::joint(&[3], 5, 5, 2);
    let inputs = normal(&case, 1.0, 1);
    let told =
        |case: &Case, inputs: &Inputs| run::bf16(&card.gpu, case, inputs).unwrap_err().to_string();
    let bad = |change: fn(&mut Case)| {
        let mut case = case.clone();
        change(&mut case);
        case
    };
    assert!(
        told(&bad(|c| c.kv_heads = 3), &inputs).contains("2 query heads cannot share 3 key heads")
    );
    assert!(told(&bad(|c| c.scale = -1.0), &inputs).contains("scale"));
    assert!(told(&bad(|c| c.scale = f32::NAN), &inputs).contains("scale"));
    assert!(told(&bad(|c| c.keys = 11), &inputs).contains("k: 1 x 11 rows"));
    assert!(told(&bad(|c| c.keys = 4), &inputs).contains("padded to 5"));
    let mut short = inputs.clone();
    short.q.pop();
    assert!(told(&case, &short).contains("q: 1 x 10 rows"));
    let mut random = Random(1);
    let shifted = card
        .gpu
        .stream()
        .clone_htod(&random.normals(inputs.q.len() + 4, 1.0))
        .unwrap();
    let data = shifted.slice(4..);
    let mut out = output(&card.gpu, &case);
    let error = with_operands(&card.gpu, &case, &inputs, |operands| {
        let q = HeadRows {
            data: &data,
            ..operands.q
        };
        with_form(&card.gpu, &case, |form| {
            form.bf16(
                &card.gpu,
                &mut out.as_view_mut(),
                &Operands { q, ..*operands },
            )
        })
    });
    assert!(
        error
            .unwrap_err()
            .to_string()
            .contains("multiples of 8, the address one of 16")
    );
}
