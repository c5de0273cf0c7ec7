//! `out = x W^T + b` in F32 over a weight that is stored in any float format.
//!
//! The trick: rows of `W` are widened into a panel and multiplied at once, so that a weight is read from memory in
//! its stored width and never exists as a whole in F32; F32 weights are multiplied where they lie. Every element
//! of the output is one sum over k in one fixed order, whoever computes it: the result does not depend on how many
//! threads there are.

use std::ops::Range;

use gemm::Parallelism;
use rayon::prelude::*;

use super::activation;
use super::weight::{LowRankWeight, Weight};
use crate::checkpoint::CheckpointError;

/// Rows of W that one thread widens at a time: 64 rows x 3072 x 4 bytes = 768 KiB.
const PANEL_ROWS: usize = 64;
/// Bytes of F32 that are widened per product where x is tall. F32 weights are multiplied as a whole.
const TALL_BYTES: usize = 64 << 20;
/// Rows of x up to which threads take panels of their own.
const FEW: usize = 96;

/// A weight `[n, k]` as stored, times `scale`.
pub struct Rows<'a> {
    /// The stored numbers.
    pub weight: &'a Weight,
    /// Multiplies them.
    pub scale: f32,
    /// Rows (output features).
    pub n: usize,
    /// Columns (input features).
    pub k: usize,
    /// Added to each row of the output, `n` values.
    pub bias: Option<&'a [f32]>,
    /// Low-rank terms that are added to the output.
    pub adapters: &'a [LowRank<'a>],
}

/// A low-rank term `hidden[m, rank] * up[n, rank]^T`.
pub struct LowRank<'a> {
    hidden: Vec<f32>,
    up: &'a Weight,
    rank: usize,
}

impl<'a> LowRank<'a> {
    /// The first half of an adapter on `x` `[m, k]`: `scale * x * down^T`.
    ///
    /// # Errors
    /// Where the adapter's stored type is not a float.
    pub fn new(adapter: &'a LowRankWeight, x: &[f32], k: usize) -> Result<Self, CheckpointError> {
        let down = Rows {
            weight: &adapter.down,
            scale: adapter.scale,
            n: adapter.rank,
            k,
            bias: None,
            adapters: &[],
        };
        let mut hidden = vec![0.0; x.len() / k.max(1) * adapter.rank];
        matmul_nt(x, &down, Epilogue::None, &mut hidden)?;
        Ok(Self {
            hidden,
            up: &adapter.up,
            rank: adapter.rank,
        })
    }
}

/// What happens to the output while it is still in the cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Epilogue {
    /// Nothing.
    None,
    /// GELU, tanh form.
    GeluTanh,
}

/// A raw pointer that may cross threads: panels write disjoint columns of the output.
#[derive(Clone, Copy)]
struct OutPtr(*mut f32);
// SAFETY: every panel writes columns of its own.
unsafe impl Send for OutPtr {}
// SAFETY: as above.
unsafe impl Sync for OutPtr {}

impl OutPtr {
    fn get(self) -> *mut f32 {
        self.0
    }
}

/// `out[m, n] = x[m, k] * W[n, k]^T + bias[n] + adapters`, row-major.
///
/// # Errors
/// Where the weight's stored type is not a float.
pub fn matmul_nt(
    x: &[f32],
    w: &Rows<'_>,
    epilogue: Epilogue,
    out: &mut [f32],
) -> Result<(), CheckpointError> {
    let m = x.len() / w.k.max(1);
    assert_eq!((x.len(), out.len()), (m * w.k, m * w.n), "operand sizes");
    if let Some(bias) = w.bias {
        for row in out.chunks_exact_mut(w.n) {
            row.copy_from_slice(bias);
        }
    }
    let out = OutPtr(out.as_mut_ptr());
    match m > FEW {
        true => tall(x, w, epilogue, out),
        false => flat(x, w, epilogue, out),
    }
}

/// Few rows of x: threads take panels of W, each widened by the thread that multiplies it.
fn flat(x: &[f32], w: &Rows<'_>, epilogue: Epilogue, out: OutPtr) -> Result<(), CheckpointError> {
    let widest = w.adapters.iter().map(|a| a.rank).fold(w.k, usize::max);
    let m = x.len() / w.k.max(1);
    (0..w.n.div_ceil(PANEL_ROWS))
        .into_par_iter()
        .try_for_each_init(
            || vec![0.0f32; PANEL_ROWS * widest],
            |panel, index| {
                let first = index * PANEL_ROWS;
                let rows = first..(first + PANEL_ROWS).min(w.n);
                for term in w.terms(x) {
                    let panel = term.widen(&rows, panel)?;
                    // SAFETY: only this panel touches the columns `rows` of the output.
                    unsafe { term.multiply(panel, &rows, w.n, out, Parallelism::None) };
                }
                if epilogue == Epilogue::GeluTanh {
                    for row in 0..m {
                        // SAFETY: the columns of this panel in one row of the output.
                        let at = unsafe { out.get().add(row * w.n + first) };
                        // SAFETY: as above.
                        activation::gelu_tanh(unsafe {
                            std::slice::from_raw_parts_mut(at, rows.len())
                        });
                    }
                }
                Ok(())
            },
        )
}

/// Many rows of x: all threads widen a tall panel of W, then share its product, so that x is packed a few times
/// rather than once per 64 rows of W.
fn tall(x: &[f32], w: &Rows<'_>, epilogue: Epilogue, out: OutPtr) -> Result<(), CheckpointError> {
    let threads = Parallelism::Rayon(rayon::current_num_threads());
    let height = match w.weight.as_f32() {
        Some(_) => w.n,
        None => (TALL_BYTES / 4 / w.k.max(1)).next_multiple_of(PANEL_ROWS),
    };
    let mut panel = Vec::new();
    for first in (0..w.n).step_by(height.max(1)) {
        let rows = first..(first + height).min(w.n);
        for term in w.terms(x) {
            let panel = term.widen_together(&rows, &mut panel)?;
            // SAFETY: panels are multiplied one after the other.
            unsafe { term.multiply(panel, &rows, w.n, out, threads) };
        }
    }
    if epilogue == Epilogue::GeluTanh {
        let m = x.len() / w.k.max(1);
        (0..m).into_par_iter().for_each(|row| {
            // SAFETY: one row of the output for one iteration.
            let row = unsafe { std::slice::from_raw_parts_mut(out.get().add(row * w.n), w.n) };
            activation::gelu_tanh(row);
        });
    }
    Ok(())
}

/// A summand of the output: `scale * x[m, k] * W[n, k]^T`, added to what is there or in its place.
struct Term<'a> {
    x: &'a [f32],
    weight: &'a Weight,
    k: usize,
    scale: f32,
    adds: bool,
}

impl Rows<'_> {
    /// The weight's own product, then the adapters'.
    fn terms<'a>(&'a self, x: &'a [f32]) -> impl Iterator<Item = Term<'a>> {
        let own = Term {
            x,
            weight: self.weight,
            k: self.k,
            scale: self.scale,
            adds: self.bias.is_some(),
        };
        let adapters = self.adapters.iter().map(|adapter| Term {
            x: &adapter.hidden,
            weight: adapter.up,
            k: adapter.rank,
            scale: 1.0,
            adds: true,
        });
        std::iter::once(own).chain(adapters)
    }
}

impl Term<'_> {
    /// Rows `rows` of the weight: where they lie if they are F32, else widened into `panel`.
    fn widen<'p>(
        &'p self,
        rows: &Range<usize>,
        panel: &'p mut [f32],
    ) -> Result<&'p [f32], CheckpointError> {
        let at = rows.start * self.k..rows.end * self.k;
        if let Some(whole) = self.weight.as_f32() {
            return Ok(&whole[at]);
        }
        let panel = &mut panel[..at.len()];
        self.weight.widen(rows.clone(), self.k, panel)?;
        Ok(panel)
    }

    /// As [`Self::widen`], by all threads, into a buffer that grows as needed.
    fn widen_together<'p>(
        &'p self,
        rows: &Range<usize>,
        panel: &'p mut Vec<f32>,
    ) -> Result<&'p [f32], CheckpointError> {
        if let Some(whole) = self.weight.as_f32() {
            return Ok(&whole[rows.start * self.k..rows.end * self.k]);
        }
        panel.resize(rows.len() * self.k, 0.0);
        panel
            .par_chunks_mut(PANEL_ROWS * self.k)
            .enumerate()
            .try_for_each(|(i, part)| {
                let first = rows.start + i * PANEL_ROWS;
                self.weight
                    .widen(first..first + part.len() / self.k, self.k, part)
            })?;
        Ok(panel)
    }

    /// Adds the product with `panel` (rows `rows` of the weight) to the columns `rows` of the output, or puts it there.
    ///
    /// # Safety
    /// `out` is m x n, and nobody else touches its columns `rows` meanwhile.
    unsafe fn multiply(
        &self,
        panel: &[f32],
        rows: &Range<usize>,
        n: usize,
        out: OutPtr,
        threads: Parallelism,
    ) {
        let m = self.x.len() / self.k.max(1);
        assert!(panel.len() == rows.len() * self.k && rows.end <= n);
        // SAFETY: x is m x k, the panel rows x k (read transposed), and the columns are the caller's.
        unsafe {
            gemm::gemm(
                m,
                rows.len(),
                self.k,
                out.get().add(rows.start),
                1,
                n as isize,
                self.adds,
                self.x.as_ptr(),
                1,
                self.k as isize,
                panel.as_ptr(),
                self.k as isize,
                1,
                1.0,
                self.scale,
                false,
                false,
                false,
                threads,
            );
        }
    }
}
