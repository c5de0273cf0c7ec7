//! Softmax attention that never holds a score matrix: tiles of queries against tiles of keys with a running
//! maximum and sum (online softmax: Milakov and Gimelshein, 2018; FlashAttention: Dao et al., 2022).
//!
//! A tile's scores (64 KiB to 256 KiB) stay in the L2 cache between the two products. Tiles of queries are
//! what is shared out to threads, each computed in one fixed order: the result does not depend on how many
//! threads there are.

use std::ops::Range;

use candle_core::{CpuStorage, CustomOp3, Layout, Shape, Tensor};
use gemm::Parallelism;
use rayon::prelude::*;

use super::operand;
use super::simd::{self, multiversion};

/// Queries per tile.
const QUERIES: usize = 128;
/// Keys per tile.
const KEYS: usize = 256;

/// Which keys a query sees.
#[derive(Clone, Debug, PartialEq)]
pub enum Keys {
    /// All of them.
    All,
    /// Those up to its own position.
    Causal,
    /// All but padding: in batch row b the keys `valid[b]..padded` are padding (text comes first in the
    /// joint sequence).
    PaddedPrefix {
        /// Valid tokens per batch row.
        valid: Vec<usize>,
        /// Length that the rows were padded to.
        padded: usize,
    },
}

/// The form of an attention.
#[derive(Clone, Debug)]
pub struct Attention {
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; each serves `heads / kv_heads` query heads in a row.
    pub kv_heads: usize,
    /// Which keys a query sees.
    pub keys: Keys,
}

impl Attention {
    /// `softmax(q k^T / sqrt(d)) v`: `q` `[B, Sq, heads * d]`, `k` and `v` `[B, Sk, kv_heads * d]`,
    /// out `[B, Sq, heads * d]`, F32.
    ///
    /// # Errors
    /// Where the shapes do not fit.
    pub fn forward(&self, q: &Tensor, k: &Tensor, v: &Tensor) -> candle_core::Result<Tensor> {
        q.contiguous()?
            .apply_op3_no_bwd(&k.contiguous()?, &v.contiguous()?, self)
    }

    /// The key ranges that queries `rows` of batch row `b` have to look at.
    fn ranges(&self, b: usize, rows: &Range<usize>, keys: usize) -> [Range<usize>; 2] {
        match &self.keys {
            Keys::All => [0..keys, 0..0],
            Keys::Causal => [0..rows.end.min(keys), 0..0],
            Keys::PaddedPrefix { valid, padded } => [0..valid[b], *padded..keys],
        }
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
    fn scale_row(row: &mut [f32], factor: f32) {
        for v in row {
            *v *= factor;
        }
    }
}

/// One head of one batch row: pointers with their row strides, in floats.
struct Head<'a> {
    q: &'a [f32],
    k: &'a [f32],
    v: &'a [f32],
    q_stride: usize,
    kv_stride: usize,
    dim: usize,
}

/// What a thread reuses from tile to tile.
struct Scratch {
    scores: Vec<f32>,
    acc: Vec<f32>,
    maximum: [f32; QUERIES],
    sum: [f32; QUERIES],
}

impl Head<'_> {
    /// Adds keys `keys` to the running result of queries `rows`.
    fn add_keys(&self, rows: &Range<usize>, keys: Range<usize>, causal: bool, t: &mut Scratch) {
        let (m, n, d) = (rows.len(), keys.len(), self.dim);
        let scores = &mut t.scores[..m * n];
        // The slices below check what the pointers of the two products assume.
        let q = &self.q[rows.start * self.q_stride..(rows.end - 1) * self.q_stride + d];
        let k = &self.k[keys.start * self.kv_stride..(keys.end - 1) * self.kv_stride + d];
        let v = &self.v[keys.start * self.kv_stride..(keys.end - 1) * self.kv_stride + d];
        let (qs, ks) = (self.q_stride as isize, self.kv_stride as isize);
        let scale = 1.0 / (d as f32).sqrt();
        // SAFETY: scores is m x n; q and k hold rows of d floats at their strides, m and n of them.
        unsafe {
            gemm::gemm(
                m,
                n,
                d,
                scores.as_mut_ptr(),
                1,
                n as isize,
                false,
                q.as_ptr(),
                1,
                qs,
                k.as_ptr(),
                ks,
                1,
                0.0,
                scale,
                false,
                false,
                false,
                Parallelism::None,
            );
        }
        for (i, row) in scores.chunks_exact_mut(n).enumerate() {
            let seen = match causal {
                true => (rows.start + i + 1).saturating_sub(keys.start).min(n),
                false => n,
            };
            row[seen..].fill(f32::NEG_INFINITY);
            let shrink = fold_scores(row, &mut t.maximum[i], &mut t.sum[i]);
            if shrink != 1.0 {
                scale_row(&mut t.acc[i * d..(i + 1) * d], shrink);
            }
        }
        // SAFETY: acc is m x d (QUERIES x d were allocated), scores m x n, v holds n rows of d floats.
        unsafe {
            gemm::gemm(
                m,
                d,
                n,
                t.acc.as_mut_ptr(),
                1,
                d as isize,
                true,
                scores.as_ptr(),
                1,
                n as isize,
                v.as_ptr(),
                1,
                ks,
                1.0,
                1.0,
                false,
                false,
                false,
                Parallelism::None,
            );
        }
    }
}

/// The output; tiles write disjoint parts of it.
#[derive(Clone, Copy)]
struct OutPtr(*mut f32);
// SAFETY: every tile writes rows and head columns of its own.
unsafe impl Send for OutPtr {}
// SAFETY: as above.
unsafe impl Sync for OutPtr {}

impl OutPtr {
    fn at(self, offset: usize) -> *mut f32 {
        // SAFETY: callers stay inside of the output they allocated.
        unsafe { self.0.add(offset) }
    }
}

impl CustomOp3 for Attention {
    fn name(&self) -> &'static str {
        "attention"
    }

    fn cpu_fwd(
        &self,
        s1: &CpuStorage,
        l1: &Layout,
        s2: &CpuStorage,
        l2: &Layout,
        s3: &CpuStorage,
        l3: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        let (q, k, v) = (operand(s1, l1)?, operand(s2, l2)?, operand(s3, l3)?);
        let ((b, sq, qw), (bk, sk, kw)) = (l1.shape().dims3()?, l2.shape().dims3()?);
        let dim = qw / self.heads;
        let masked = match &self.keys {
            Keys::PaddedPrefix { valid, padded } => {
                valid.len() == b && *padded <= sk && valid.iter().all(|v| v <= padded)
            }
            _ => true,
        };
        if bk != b
            || l3.dims() != l2.dims()
            || dim * self.heads != qw
            || dim * self.kv_heads != kw
            || !self.heads.is_multiple_of(self.kv_heads)
            || !masked
        {
            candle_core::bail!(
                "attention {self:?} of {:?}, {:?}, {:?}",
                l1.dims(),
                l2.dims(),
                l3.dims()
            );
        }
        let mut out = vec![0.0f32; b * sq * qw];
        let target = OutPtr(out.as_mut_ptr());
        let tiles = sq.div_ceil(QUERIES);
        (0..b * self.heads * tiles).into_par_iter().for_each_init(
            || Scratch {
                scores: vec![0.0; QUERIES * KEYS],
                acc: vec![0.0; QUERIES * dim],
                maximum: [0.0; QUERIES],
                sum: [0.0; QUERIES],
            },
            |t, index| {
                let (batch, h, tile) = (
                    index / (self.heads * tiles),
                    index / tiles % self.heads,
                    index % tiles,
                );
                let kv = h / (self.heads / self.kv_heads);
                let head = Head {
                    q: &q[batch * sq * qw + h * dim..],
                    k: &k[batch * sk * kw + kv * dim..],
                    v: &v[batch * sk * kw + kv * dim..],
                    q_stride: qw,
                    kv_stride: kw,
                    dim,
                };
                let rows = tile * QUERIES..((tile + 1) * QUERIES).min(sq);
                t.acc.fill(0.0);
                t.maximum.fill(f32::NEG_INFINITY);
                t.sum.fill(0.0);
                for range in self.ranges(batch, &rows, sk) {
                    for start in range.clone().step_by(KEYS) {
                        let keys = start..(start + KEYS).min(range.end);
                        head.add_keys(&rows, keys, self.keys == Keys::Causal, t);
                    }
                }
                for (i, row) in rows.enumerate() {
                    let acc = &mut t.acc[i * dim..(i + 1) * dim];
                    scale_row(acc, 1.0 / t.sum[i]);
                    // SAFETY: this tile alone writes head h of its rows; the range lies in the output.
                    unsafe {
                        let to = target.at((batch * sq + row) * qw + h * dim);
                        std::ptr::copy_nonoverlapping(acc.as_ptr(), to, dim);
                    }
                }
            },
        );
        Ok((CpuStorage::F32(out), l1.shape().clone()))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use candle_core::{Device, Tensor};

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
}
