//! FP8 attention in f64: what its codes should be, and what attention of given codes is.

use qwen_nvfp4_kernels::attention_fp8::Fp8Layout;

use super::reference::{BF16, widen};
use super::{Case, HEAD, Inputs};

/// Keys of a tile.
const TILE: usize = 64;

/// The number of an E4M3 code (OCP 8-bit Floating Point Specification, 2023: bias 7, no infinities).
pub fn decode(code: u8) -> f64 {
    let (exponent, mantissa) = (i32::from(code >> 3 & 15), f64::from(code & 7));
    let size = match (exponent, code & 7) {
        (15, 7) => f64::NAN,
        (0, _) => mantissa * 2f64.powi(-9),
        _ => (8.0 + mantissa) * 2f64.powi(exponent - 10),
    };
    if code & 0x80 == 0 { size } else { -size }
}

/// The nearest number of E4M3, ties to even, 448 beyond.
pub fn round(x: f64) -> f64 {
    if x == 0.0 {
        return 0.0;
    }
    let exponent = (x.abs().log2().floor() as i32).max(-6);
    let unit = 2f64.powi(exponent - 3);
    ((x / unit).round_ties_even() * unit).clamp(-448.0, 448.0)
}

/// Operands after quantisation, per head; keys are those that count.
pub struct Codes {
    /// `[batch, heads][query][128]`, and the queries' scales in powers of two.
    pub q: Vec<Vec<f64>>,
    pub q_scale: Vec<Vec<f32>>,
    /// `[batch, kv_heads][key][128]`.
    pub k: Vec<Vec<f64>>,
    pub k_scale: Vec<f32>,
    pub v: Vec<Vec<f64>>,
    pub v_scale: Vec<Vec<f32>>,
    pub k_mean: Vec<Vec<f32>>,
}

/// Reads a workspace; asserts that tiles end in zeros.
pub fn read(case: &Case, layout: &Fp8Layout, workspace: &[u8]) -> Codes {
    let floats = |from: usize, count: usize| -> Vec<f32> {
        let bytes = workspace[from..from + 4 * count].as_chunks::<4>().0;
        bytes.iter().map(|b| f32::from_le_bytes(*b)).collect()
    };
    let (mut q, mut q_scale, mut k, mut v) = (vec![], vec![], vec![], vec![]);
    let (mut v_scale, mut k_mean) = (vec![], vec![]);
    for head in 0..case.batch * case.heads {
        let from = layout.q + head * layout.query_rows * HEAD;
        let (codes, padding) =
            workspace[from..from + layout.query_rows * HEAD].split_at(case.queries * HEAD);
        assert!(padding.iter().all(|c| *c == 0), "query rows past the end");
        q.push(codes.iter().map(|c| decode(*c)).collect());
        q_scale.push(floats(
            layout.q_scale + 4 * head * layout.query_rows,
            case.queries,
        ));
    }
    let heads = case.batch * case.kv_heads;
    for head in 0..heads {
        let count = case.counted(head / case.kv_heads).len();
        let tiles = count.div_ceil(TILE);
        let at = |part: usize, tile: usize, i: usize| {
            workspace[part + (head * layout.key_tiles + tile) * TILE * HEAD + i]
        };
        let (mut keys, mut values) = (vec![0.0; count * HEAD], vec![0.0; count * HEAD]);
        for key in 0..tiles * TILE {
            let (tile, row) = (key / TILE, key % TILE);
            // As documented: columns 4w..4w+4 are keys a, a + 1, a + 8, a + 9 with a = 16 (w / 4) + 2 (w % 4).
            let column = (0..TILE)
                .find(|c| {
                    let (w, i) = (c / 4, c % 4);
                    16 * (w / 4) + 2 * (w % 4) + [0, 1, 8, 9][i] == row
                })
                .unwrap();
            for d in 0..HEAD {
                let code = [
                    at(layout.k, tile, row * HEAD + d),
                    at(layout.v, tile, d * TILE + column),
                ];
                if key < count {
                    keys[key * HEAD + d] = decode(code[0]);
                    values[key * HEAD + d] = decode(code[1]);
                } else {
                    assert_eq!(code, [0, 0], "keys past the end");
                }
            }
        }
        k.push(keys);
        v.push(values);
        v_scale.push(floats(layout.v_scale + 4 * head * HEAD, HEAD));
        k_mean.push(floats(layout.k_mean + 4 * head * HEAD, HEAD));
    }
    let k_scale = floats(layout.k_scale, heads);
    Codes {
        q,
        q_scale,
        k,
        k_scale,
        v,
        v_scale,
        k_mean,
    }
}

/// Quantises by the definition, all of it in f64; keys less their mean if `centred`. `round` rounds a number divided by its
/// scale.
pub fn quantise(case: &Case, inputs: &Inputs, centred: bool, round: fn(f64) -> f64) -> Codes {
    let [q, k, v] = [&inputs.q, &inputs.k, &inputs.v].map(|x| widen(x));
    let scale_of = |x: &mut dyn Iterator<Item = f64>| {
        (x.fold(0.0, |m, x| f64::max(m, x.abs())) / 448.0) as f32
    };
    let codes = |x: f64, scale: f32| {
        if scale == 0.0 {
            0.0
        } else {
            round(x / f64::from(scale))
        }
    };
    let log2e = std::f64::consts::LOG2_E;
    let mut to = Codes {
        q: vec![],
        q_scale: vec![],
        k: vec![],
        k_scale: vec![],
        v: vec![],
        v_scale: vec![],
        k_mean: vec![],
    };
    for batch in 0..case.batch {
        for head in 0..case.heads {
            let (mut rows, mut scales) = (vec![], vec![]);
            for query in 0..case.queries {
                let from = case.at((batch, case.queries, query), case.heads, head);
                let row = &q[from..from + HEAD];
                let scale = scale_of(&mut row.iter().copied());
                rows.extend(row.iter().map(|x| codes(*x, scale)));
                scales.push((f64::from(scale) * f64::from(case.scale) * log2e) as f32);
            }
            to.q.push(rows);
            to.q_scale.push(scales);
        }
        let counted = case.counted(batch);
        for head in 0..case.kv_heads {
            let rows = |x: &[f64]| -> Vec<f64> {
                let at = |key: &usize| case.at((batch, case.keys, *key), case.kv_heads, head);
                counted
                    .iter()
                    .flat_map(|key| x[at(key)..at(key) + HEAD].to_vec())
                    .collect()
            };
            let (mut keys, values) = (rows(&k), rows(&v));
            let mut mean = vec![0.0; HEAD];
            if centred {
                for (i, x) in keys.iter().enumerate() {
                    mean[i % HEAD] += x / counted.len() as f64;
                }
                keys.iter_mut()
                    .enumerate()
                    .for_each(|(i, x)| *x -= mean[i % HEAD]);
            }
            let k_scale = scale_of(&mut keys.iter().copied());
            let v_scale: Vec<f32> = (0..HEAD)
                .map(|d| scale_of(&mut values.iter().skip(d).step_by(HEAD).copied()))
                .collect();
            to.k.push(keys.iter().map(|x| codes(*x, k_scale)).collect());
            to.v.push(
                values
                    .iter()
                    .enumerate()
                    .map(|(i, x)| codes(*x, v_scale[i % HEAD]))
                    .collect(),
            );
            to.k_scale.push(k_scale);
            to.v_scale.push(v_scale);
            to.k_mean.push(mean.iter().map(|m| *m as f32).collect());
        }
    }
    to
}

/// Attention of codes, `[batch, query, head, 128]`.
pub struct Attended {
    pub out: Vec<f64>,
    /// How far a kernel may be: weights that lie on a border between two codes for all that f32 can tell, sums of tensor
    /// cores, the output's bf16.
    pub bound: Vec<f64>,
}

/// Tile by tile with the weights rounded to E4M3 under the largest score so far, as the kernel says it does, in f64.
pub fn attend(case: &Case, codes: &Codes) -> Attended {
    let rows = case.batch * case.queries * case.heads;
    let mut attended = Attended {
        out: vec![0.0; rows * HEAD],
        bound: vec![0.0; rows * HEAD],
    };
    for batch in 0..case.batch {
        for head in 0..case.heads {
            let key_head = batch * case.kv_heads + case.key_head(head);
            for query in 0..case.queries {
                let to = case.at((batch, case.queries, query), case.heads, head);
                let row = Row::new(codes, batch * case.heads + head, key_head, query);
                row.finish(
                    &codes.v_scale[key_head],
                    &mut attended.out[to..to + HEAD],
                    &mut attended.bound[to..to + HEAD],
                );
            }
        }
    }
    attended
}

/// Sums over the keys of one query.
struct Row {
    weight: f64,
    out: Vec<f64>,
    spread: Vec<f64>,
    /// Weights that could have been rounded the other way, and the values they multiply.
    loose_weight: f64,
    loose: Vec<f64>,
    tiles: f64,
}

impl Row {
    fn new(codes: &Codes, head: usize, key_head: usize, query: usize) -> Self {
        let mut row = Self {
            weight: 0.0,
            out: vec![0.0; HEAD],
            spread: vec![0.0; HEAD],
            loose_weight: 0.0,
            loose: vec![0.0; HEAD],
            tiles: 0.0,
        };
        let q = &codes.q[head][query * HEAD..][..HEAD];
        let factor = f64::from((codes.q_scale[head][query] * codes.k_scale[key_head]).max(1e-37));
        let mut largest = f64::NEG_INFINITY;
        let (k, v) = (&codes.k[key_head], &codes.v[key_head]);
        for (k, v) in k.chunks(TILE * HEAD).zip(v.chunks(TILE * HEAD)) {
            let scores: Vec<[f64; 2]> = k
                .chunks(HEAD)
                .map(|k| {
                    let products = q.iter().zip(k).map(|(q, k)| q * k * factor);
                    products.fold([0.0; 2], |[s, m], p| [s + p, m + p.abs()])
                })
                .collect();
            let greatest = scores.iter().fold(largest, |m, s| m.max(s[0]));
            row.shrink((largest - greatest).exp2());
            largest = greatest;
            for ([score, magnitude], v) in scores.iter().zip(v.chunks(HEAD)) {
                let weight = 448.0 * (score - largest).exp2();
                // Four instructions a score, cut off at 21 bits; once for the score and once for the largest one.
                let error = 2.0 * magnitude * 4.0 * 2f64.powi(-20)
                    + largest.abs() * 2f64.powi(-22)
                    + 2f64.powi(-20);
                row.add(weight, error, v);
            }
            row.tiles += 1.0;
        }
        row
    }

    fn shrink(&mut self, by: f64) {
        self.weight *= by;
        self.loose_weight *= by;
        for sums in [&mut self.out, &mut self.spread, &mut self.loose] {
            sums.iter_mut().for_each(|x| *x *= by);
        }
    }

    fn add(&mut self, weight: f64, error: f64, v: &[f64]) {
        let code = round(weight);
        let loose = round(weight * (1.0 + error)) - round(weight * (1.0 - error));
        self.weight += code;
        self.loose_weight += loose;
        for (d, v) in v.iter().enumerate() {
            self.out[d] += code * v;
            self.spread[d] += code * v.abs();
            self.loose[d] += loose * v.abs();
        }
    }

    fn finish(&self, v_scale: &[f32], out: &mut [f64], bound: &mut [f64]) {
        if self.weight == 0.0 {
            return;
        }
        // Two instructions a tile, for the values and for the weights, and 2^x once.
        let sums = (self.tiles + 1.0) * 6.0 * 2f64.powi(-20);
        for d in 0..HEAD {
            let scale = f64::from(v_scale[d]) / self.weight;
            out[d] = self.out[d] * scale;
            let loose = self.loose[d] * scale + self.loose_weight / self.weight * out[d].abs();
            bound[d] = loose + 2.0 * sums * self.spread[d] * scale + BF16 * out[d].abs() + 1e-30;
        }
    }
}
