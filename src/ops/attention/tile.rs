//! One tile of queries of one head against its keys.
//!
//! The trick: keys and values of a head are packed once, for all of its tiles of queries, into the panels of 16
//! columns that the register-blocked [`product`] reads in order; q is copied once per tile, scaled on the way. What is
//! left of a tile are two products at full speed with the softmax between them.

use std::ops::Range;

use crate::ops::product::{COLUMNS, Left, ROWS, product};
use crate::ops::simd::{self, multiversion};

/// Queries per tile: a multiple of the product's rows, near the 128 that fit the L2 cache with their scores.
pub(super) const QUERIES: usize = 126;
/// Keys per tile.
pub(super) const KEYS: usize = 256;
/// Floats per row of scores: a range of keys may begin inside of a panel.
const SCORES: usize = KEYS + COLUMNS;

/// Keys and values of one head, packed.
pub(super) struct Packed {
    /// Panel p holds keys 16 p .. 16 p + 16 as `[d][16]`; zeros beyond the last key.
    k: Vec<f32>,
    /// Panel p holds dimensions 16 p .. 16 p + 16 as `[keys][16]`; zeros beyond the last dimension.
    v: Vec<f32>,
    keys: usize,
}

impl Packed {
    /// Packs `keys` rows of `dim` floats, `stride` apart, of `k` and `v`.
    pub fn new(k: &[f32], v: &[f32], (keys, stride): (usize, usize), dim: usize) -> Self {
        let mut packed = Self {
            k: vec![0.0; keys.next_multiple_of(COLUMNS) * dim],
            v: vec![0.0; keys * dim.next_multiple_of(COLUMNS)],
            keys,
        };
        for key in 0..keys {
            let panel = &mut packed.k[key / COLUMNS * COLUMNS * dim..];
            for (d, value) in k[key * stride..][..dim].iter().enumerate() {
                panel[d * COLUMNS + key % COLUMNS] = *value;
            }
            for (p, values) in v[key * stride..][..dim].chunks(COLUMNS).enumerate() {
                packed.v[(p * keys + key) * COLUMNS..][..values.len()].copy_from_slice(values);
            }
        }
        packed
    }
}

multiversion! {
    /// Adds a tile of scores to the running softmax of one query: `scores` become weights, the factor by which
    /// what was summed so far shrinks is returned.
    fn fold_scores(scores: &mut [f32], maximum: &mut f32, sum: &mut f32) -> f32 {
        let new = maximum.max(simd::max(scores));
        if new == f32::NEG_INFINITY {
            scores.fill(0.0);
            return 1.0;
        }
        let shrink = simd::exp(*maximum - new);
        for s in scores.iter_mut() {
            *s = simd::exp(*s - new);
        }
        *sum = *sum * shrink + simd::sum_by(scores, |v| v);
        *maximum = new;
        shrink
    }
}

multiversion! {
    fn scaled(x: &[f32], factor: f32, out: &mut [f32]) {
        for (o, v) in out.iter_mut().zip(x) {
            *o = *v * factor;
        }
    }
}

multiversion! {
    /// `acc = acc * shrink + block`.
    fn shrink_and_add(acc: &mut [f32], shrink: f32, block: &[f32]) {
        for (a, b) in acc.iter_mut().zip(block) {
            *a = *a * shrink + *b;
        }
    }
}

/// What a thread reuses from tile to tile.
pub(super) struct Scratch {
    /// `[QUERIES][dim]`, times 1 / sqrt(dim).
    q: Vec<f32>,
    scores: Vec<f32>,
    /// `[QUERIES][width]`, width = dim rounded up to whole panels.
    acc: Vec<f32>,
    maximum: [f32; QUERIES],
    sum: [f32; QUERIES],
    dim: usize,
    rows: usize,
}

impl Scratch {
    pub fn new(dim: usize) -> Self {
        Self {
            q: vec![0.0; QUERIES * dim],
            scores: vec![0.0; QUERIES * SCORES],
            acc: vec![0.0; QUERIES * dim.next_multiple_of(COLUMNS)],
            maximum: [0.0; QUERIES],
            sum: [0.0; QUERIES],
            dim,
            rows: 0,
        }
    }

    /// Starts with `rows` queries of `q`, `stride` floats apart.
    pub fn begin(&mut self, q: &[f32], rows: usize, stride: usize) {
        let scale = 1.0 / (self.dim as f32).sqrt();
        for (row, to) in self.q.chunks_exact_mut(self.dim).take(rows).enumerate() {
            scaled(&q[row * stride..][..self.dim], scale, to);
        }
        self.acc.fill(0.0);
        self.maximum.fill(f32::NEG_INFINITY);
        self.sum.fill(0.0);
        self.rows = rows;
    }

    /// Adds the keys `range`, a tile at a time. `causal` is the position of the first query, where a query sees no key
    /// beyond its own position.
    pub fn add_keys(&mut self, packed: &Packed, range: Range<usize>, causal: Option<usize>) {
        for start in range.clone().step_by(KEYS) {
            let keys = start..(start + KEYS).min(range.end);
            self.score(packed, &keys);
            let shrink = self.soften(&keys, causal);
            self.gather(packed, &keys, &shrink);
        }
    }

    /// `scores = q k^T` for the whole panels that hold `keys`.
    fn score(&mut self, packed: &Packed, keys: &Range<usize>) {
        let dim = self.dim;
        for panel in keys.start / COLUMNS..keys.end.div_ceil(COLUMNS) {
            let right = &packed.k[panel * COLUMNS * dim..][..COLUMNS * dim];
            let column = (panel - keys.start / COLUMNS) * COLUMNS;
            for row in (0..self.rows).step_by(ROWS) {
                let left = Left {
                    data: &self.q[row * dim..],
                    rows: ROWS.min(self.rows - row),
                    row: dim,
                    runs: 1,
                    run: 0,
                    len: dim,
                };
                product(
                    &left,
                    right,
                    &mut self.scores[row * SCORES + column..],
                    SCORES,
                );
            }
        }
    }

    /// Scores to weights, row by row; gives the factors by which the sums so far shrink.
    fn soften(&mut self, keys: &Range<usize>, causal: Option<usize>) -> [f32; QUERIES] {
        let skip = keys.start % COLUMNS;
        let mut shrink = [1.0; QUERIES];
        for (i, shrink) in shrink.iter_mut().enumerate().take(self.rows) {
            let row = &mut self.scores[i * SCORES + skip..][..keys.len()];
            if let Some(first) = causal {
                let seen = (first + i + 1).saturating_sub(keys.start).min(keys.len());
                row[seen..].fill(f32::NEG_INFINITY);
            }
            *shrink = fold_scores(row, &mut self.maximum[i], &mut self.sum[i]);
        }
        shrink
    }

    /// `acc = acc * shrink + weights v`.
    fn gather(&mut self, packed: &Packed, keys: &Range<usize>, shrink: &[f32; QUERIES]) {
        let width = self.dim.next_multiple_of(COLUMNS);
        let skip = keys.start % COLUMNS;
        let mut block = [0.0f32; ROWS * COLUMNS];
        for panel in 0..width / COLUMNS {
            let right = &packed.v[(panel * packed.keys + keys.start) * COLUMNS..];
            let right = &right[..keys.len() * COLUMNS];
            for row in (0..self.rows).step_by(ROWS) {
                let left = Left {
                    data: &self.scores[row * SCORES + skip..],
                    rows: ROWS.min(self.rows - row),
                    row: SCORES,
                    runs: 1,
                    run: 0,
                    len: keys.len(),
                };
                product(&left, right, &mut block, COLUMNS);
                for (i, block) in block.chunks_exact(COLUMNS).enumerate().take(left.rows) {
                    let at = (row + i) * width + panel * COLUMNS;
                    shrink_and_add(&mut self.acc[at..at + COLUMNS], shrink[row + i], block);
                }
            }
        }
    }

    /// The finished rows, `dim` floats each.
    pub fn results(&mut self) -> impl Iterator<Item = &[f32]> {
        let width = self.dim.next_multiple_of(COLUMNS);
        let rows = self.acc.chunks_exact_mut(width).zip(&self.sum);
        rows.take(self.rows).map(|(row, sum)| {
            let row = &mut row[..self.dim];
            row.iter_mut().for_each(|v| *v /= *sum);
            &*row
        })
    }
}
