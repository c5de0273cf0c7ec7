//! Attention in f64, and what its inputs are.

pub mod data;
pub mod fp8;
pub mod joint;
pub mod reference;
pub mod run;

use half::bf16;

/// Numbers of a head.
pub const HEAD: usize = 128;

/// Which keys a query sees.
#[derive(Clone, Debug)]
pub enum Sees {
    All,
    Causal,
    /// Keys `valid[b]..padded` are padding.
    Padded {
        valid: Vec<u32>,
        padded: usize,
    },
}

/// Lengths of an attention.
#[derive(Clone, Debug)]
pub struct Case {
    pub batch: usize,
    pub queries: usize,
    pub keys: usize,
    pub heads: usize,
    pub kv_heads: usize,
    pub scale: f32,
    pub sees: Sees,
}

impl Case {
    /// One batch row in which all see all.
    pub fn square(length: usize, heads: usize) -> Self {
        Self {
            batch: 1,
            queries: length,
            keys: length,
            heads,
            kv_heads: heads,
            scale: (HEAD as f32).sqrt().recip(),
            sees: Sees::All,
        }
    }

    /// A text padded to `padded` and `image` tokens, with this many valid text tokens per batch row.
    pub fn joint(valid: &[u32], padded: usize, image: usize, heads: usize) -> Self {
        Self {
            batch: valid.len(),
            sees: Sees::Padded {
                valid: valid.to_vec(),
                padded,
            },
            ..Self::square(padded + image, heads)
        }
    }

    /// The keys that count for a batch row, in order.
    pub fn counted(&self, batch: usize) -> Vec<usize> {
        match &self.sees {
            Sees::All | Sees::Causal => (0..self.keys).collect(),
            Sees::Padded { valid, padded } => (0..(valid[batch] as usize).min(*padded))
                .chain(*padded..self.keys)
                .collect(),
        }
    }

    /// The keys that a query sees.
    pub fn seen(&self, batch: usize, query: usize) -> Vec<usize> {
        let mut keys = self.counted(batch);
        if matches!(self.sees, Sees::Causal) {
            keys.retain(|k| *k <= query);
        }
        keys
    }

    /// Where head `head` of a row of `heads` heads begins.
    pub fn at(
        &self,
        (batch, rows, row): (usize, usize, usize),
        heads: usize,
        head: usize,
    ) -> usize {
        ((batch * rows + row) * heads + head) * HEAD
    }

    /// The key head of a query head.
    pub fn key_head(&self, head: usize) -> usize {
        head / (self.heads / self.kv_heads)
    }
}

/// Contiguous operands `[batch, rows, heads, 128]`.
#[derive(Clone)]
pub struct Inputs {
    pub q: Vec<bf16>,
    pub k: Vec<bf16>,
    pub v: Vec<bf16>,
}
