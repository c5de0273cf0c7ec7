//! Softmax attention that never holds a score matrix: tiles of queries against tiles of keys with a running
//! maximum and sum (online softmax: Milakov and Gimelshein, 2018; FlashAttention: Dao et al., 2022).
//!
//! A tile's scores (136 KiB) stay in the L2 cache between the two products. Tiles of queries are what is shared
//! out to threads, each computed in one fixed order: the result does not depend on how many threads there are.

#[cfg(test)]
mod tests;
mod tile;

use std::ops::Range;

use candle_core::{CpuStorage, CustomOp3, Layout, Shape, Tensor};
use rayon::prelude::*;

use self::tile::{Packed, QUERIES, Scratch};
use super::{OutPtr, operand};

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
        let packed: Vec<Packed> = (0..b * self.kv_heads)
            .into_par_iter()
            .map(|i| {
                let at = i / self.kv_heads * sk * kw + i % self.kv_heads * dim;
                Packed::new(&k[at..], &v[at..], (sk, kw), dim)
            })
            .collect();
        let mut out = vec![0.0f32; b * sq * qw];
        let target = OutPtr::new(&mut out);
        let tiles = sq.div_ceil(QUERIES);
        (0..b * self.heads * tiles).into_par_iter().for_each_init(
            || Scratch::new(dim),
            |scratch, index| {
                let (head, tile) = (index / tiles, index % tiles);
                let (batch, h) = (head / self.heads, head % self.heads);
                let keys = &packed[batch * self.kv_heads + h / (self.heads / self.kv_heads)];
                let rows = tile * QUERIES..((tile + 1) * QUERIES).min(sq);
                let from = (batch * sq + rows.start) * qw + h * dim;
                scratch.begin(&q[from..], rows.len(), qw);
                for range in self.ranges(batch, &rows, sk) {
                    let causal = (self.keys == Keys::Causal).then_some(rows.start);
                    scratch.add_keys(keys, range, causal);
                }
                for (i, result) in scratch.results().enumerate() {
                    // SAFETY: this tile alone writes head h of its rows; the range lies in the output.
                    let to = unsafe { target.row(from + i * qw, dim) };
                    to.copy_from_slice(result);
                }
            },
        );
        Ok((CpuStorage::F32(out), l1.shape().clone()))
    }
}
