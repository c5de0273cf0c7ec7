//! Softmax attention in f64, after its definition, and how far a kernel may be from it.

use half::bf16;

use super::{Case, HEAD, Inputs};

/// Half a unit in the last place of bf16 (8 bits of significand), relative.
pub const BF16: f64 = 1.0 / 256.0;

/// What the definition gives. Rows are `[batch, query, head]`.
pub struct Exact {
    /// `[rows, 128]`.
    pub out: Vec<f64>,
    /// `[rows, 128]`: the same of |v|.
    pub spread: Vec<f64>,
    /// `[rows]`: the largest of scale * sum |q k| over the keys seen.
    pub magnitude: Vec<f64>,
}

pub fn widen(x: &[bf16]) -> Vec<f64> {
    x.iter().map(|x| x.to_f64()).collect()
}

/// By the definition: scores, softmax, weighted sum. A query that sees no key gives zeros.
pub fn exact(case: &Case, inputs: &Inputs) -> Exact {
    let [q, k, v] = [&inputs.q, &inputs.k, &inputs.v].map(|x| widen(x));
    let rows = case.batch * case.queries * case.heads;
    let mut exact = Exact {
        out: vec![0.0; rows * HEAD],
        spread: vec![0.0; rows * HEAD],
        magnitude: vec![0.0; rows],
    };
    for batch in 0..case.batch {
        for query in 0..case.queries {
            let keys = case.seen(batch, query);
            for head in 0..case.heads {
                let to = case.at((batch, case.queries, query), case.heads, head);
                let q = &q[to..to + HEAD];
                let at = |key: usize| {
                    case.at((batch, case.keys, key), case.kv_heads, case.key_head(head))
                };
                let mut scores = Vec::with_capacity(keys.len());
                for key in &keys {
                    let products = q.iter().zip(&k[at(*key)..]).map(|(q, k)| q * k);
                    let (sum, sizes) = products.fold((0.0, 0.0), |(s, m), p| (s + p, m + p.abs()));
                    let scale = f64::from(case.scale);
                    scores.push(sum * scale);
                    let magnitude = &mut exact.magnitude[to / HEAD];
                    *magnitude = magnitude.max(sizes * scale);
                }
                let largest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let weights: Vec<f64> = scores.iter().map(|s| (s - largest).exp()).collect();
                let total: f64 = weights.iter().sum();
                for (key, weight) in keys.iter().zip(&weights) {
                    for (d, v) in v[at(*key)..at(*key) + HEAD].iter().enumerate() {
                        exact.out[to + d] += weight / total * v;
                        exact.spread[to + d] += weight / total * v.abs();
                    }
                }
            }
        }
    }
    exact
}

/// How much a row's weights may be off, relatively, through sums in f32: `magnitude` is that of [`Exact`]. Tensor cores cut
/// their sums off at 21 bits (two units of 2^-21 for each of the 8 instructions of a score), and 2^x is good to 2^-22.
pub fn weight_error(magnitude: f64) -> f64 {
    magnitude * 8.0 * 2f64.powi(-20) + 2f64.powi(-20)
}

/// The largest ratio of an error to what the rounding of bf16 allows: weights are rounded to bf16, then the output is.
/// Sums of weighted values are cut off at each of keys / 16 instructions.
pub fn worst_bf16(case: &Case, exact: &Exact, out: &[bf16]) -> f64 {
    let sums = (case.keys.div_ceil(16) + 8) as f64 * 2f64.powi(-20);
    let bound = |i: usize| {
        // Once through the weights, once through their sum.
        let weights = BF16 + 2.0 * weight_error(exact.magnitude[i / HEAD]);
        (weights + sums) * exact.spread[i] + BF16 * exact.out[i].abs() + 1e-30
    };
    worst(&exact.out, out, bound)
}

/// The largest of |out - expected| / bound; infinite where `out` is not a number.
pub fn worst(expected: &[f64], out: &[bf16], bound: impl Fn(usize) -> f64) -> f64 {
    assert_eq!(expected.len(), out.len());
    let ratio = |(i, (e, o)): (usize, (&f64, &bf16))| {
        let ratio = (o.to_f64() - e).abs() / bound(i);
        if ratio.is_nan() { f64::INFINITY } else { ratio }
    };
    expected
        .iter()
        .zip(out)
        .enumerate()
        .map(ratio)
        .fold(0.0, f64::max)
}

/// Root of the mean squared error relative to the root of the mean square.
pub fn relative(expected: &[f64], got: &[f64]) -> f64 {
    let error: f64 = expected.iter().zip(got).map(|(e, g)| (e - g).powi(2)).sum();
    (error / expected.iter().map(|e| e * e).sum::<f64>()).sqrt()
}

/// Cosine of the angle between both.
pub fn cosine(a: &[f64], b: &[f64]) -> f64 {
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}
