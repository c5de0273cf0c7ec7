//! Seeded inputs.

use half::bf16;

use super::{Case, HEAD, Inputs};

/// Splitmix64 (Steele, Lea and Flood, 2014).
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// In [0, 1).
    pub fn uniform(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Of mean 0 and deviation 1 (Box and Muller).
    pub fn normal(&mut self) -> f64 {
        let radius = (-2.0 * (1.0 - self.uniform()).ln()).sqrt();
        radius * (std::f64::consts::TAU * self.uniform()).cos()
    }

    pub fn normals(&mut self, count: usize, deviation: f64) -> Vec<bf16> {
        (0..count)
            .map(|_| bf16::from_f64(self.normal() * deviation))
            .collect()
    }
}

/// Normal numbers: scores of deviation `sharpness`.
pub fn normal(case: &Case, sharpness: f64, seed: u64) -> Inputs {
    let mut random = Random(seed);
    let rows = |rows: usize, heads: usize| case.batch * rows * heads * HEAD;
    Inputs {
        q: random.normals(rows(case.queries, case.heads), sharpness),
        k: random.normals(rows(case.keys, case.kv_heads), 1.0),
        v: random.normals(rows(case.keys, case.kv_heads), 1.0),
    }
}

/// The same with NaN in all keys and values that do not count.
pub fn poisoned(case: &Case, sharpness: f64, seed: u64) -> Inputs {
    let mut inputs = normal(case, sharpness, seed);
    for batch in 0..case.batch {
        let counted = case.counted(batch);
        for row in (0..case.keys).filter(|row| !counted.contains(row)) {
            let from = case.at((batch, case.keys, row), case.kv_heads, 0);
            let to = from + case.kv_heads * HEAD;
            inputs.k[from..to].fill(bf16::NAN);
            inputs.v[from..to].fill(bf16::NAN);
        }
    }
    inputs
}
