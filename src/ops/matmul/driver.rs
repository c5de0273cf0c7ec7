//! The loops around the kernels: which rows, columns and stretch of K a thread computes when.
//!
//! The trick: a stretch of the weight is decoded once into a panel that stays in the L2 cache, in the order in which the
//! kernel reads it; all rows of the activations pass by it. So a stored weight is read once from memory in its stored
//! width, however narrow, and decoding costs a thousandth of the product where there are a thousand rows.
//!
//! Threads share out columns of the output. Each element is summed by one thread in the order of K: the result depends
//! neither on the number of threads nor on the sizes of tiles.

use std::ops::Range;

use rayon::prelude::*;

use crate::checkpoint::CheckpointError;
use crate::ops::{OutPtr, activation};

/// Columns of K whose products are summed on their own before the sums are summed. It is part of the definition of a
/// product: without it a sum of 12288 equal numbers would be off by 2e-6.
pub(crate) const CHUNK: usize = 256;

/// Bytes of a panel: well inside of an L2 cache.
const PANEL_BYTES: usize = 384 << 10;

/// A product of one kind on one kind of machine: its weight, and how a tile of the output is computed.
pub(crate) trait Kernel: Sync {
    /// Rows of a tile.
    const ROWS: usize;
    /// Columns of a tile.
    const COLUMNS: usize;
    /// Columns of K in a step.
    const STEP: usize;
    /// Columns of K that a panel holds, whole chunks.
    const STRETCH: usize;
    /// A step of the activations: [`Self::ROWS`] rows by [`Self::STEP`] columns of K.
    type Left: Sync;
    /// A step of the weight: [`Self::COLUMNS`] rows of it by [`Self::STEP`] columns of K.
    type Right: Copy + Send;

    /// A step of zeros.
    fn zero(&self) -> Self::Right;

    /// Decodes rows `rows` (at most [`Self::COLUMNS`]) of the weight, columns `ks`, step by step.
    ///
    /// # Errors
    /// Where the stored type is not a float.
    fn decode(
        &self,
        rows: Range<usize>,
        ks: Range<usize>,
        panel: &mut [Self::Right],
    ) -> Result<(), CheckpointError>;

    /// Adds the products of `rows` rows with the panel to `sums` [`ROWS`, `COLUMNS`], chunk by chunk.
    fn multiply(&self, rows: usize, left: &[Self::Left], right: &[Self::Right], sums: &mut [f32]);
}

/// Calls the tile function of exactly `$rows` rows, so that its sums are registers.
#[cfg(target_arch = "x86_64")]
macro_rules! by_rows {
    ($rows:expr, $tile:ident($left:expr, $right:expr, $sums:expr), $($n:literal)*) => {
        match $rows {
            $($n => $tile::<$n>($left, $right, $sums),)*
            _ => {}
        }
    };
}
#[cfg(target_arch = "x86_64")]
pub(crate) use by_rows;

/// What becomes of a sum.
#[derive(Clone, Copy)]
pub(crate) struct Finish<'a> {
    /// Multiplies it.
    pub(crate) alpha: f32,
    /// Is added then, `n` values.
    pub(crate) bias: Option<&'a [f32]>,
    /// Whether GELU (tanh form) follows.
    pub(crate) gelu: bool,
    /// Whether it is added to what the output holds. No bias and no GELU then.
    pub(crate) adds: bool,
}

/// The extent of a product `[m, k] x [n, k]^T`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Extent {
    pub(crate) m: usize,
    pub(crate) n: usize,
    pub(crate) k: usize,
}

/// Tiles per task and columns of K per panel.
struct Blocking {
    tiles: usize,
    stretch: usize,
}

impl Blocking {
    fn of<K: Kernel>(e: Extent, adds: bool) -> Self {
        // What is added to the output cannot leave unfinished sums there: all of K at once.
        let stretch = if adds {
            e.k.max(1)
        } else {
            K::STRETCH.min(e.k.max(1))
        };
        let tile_bytes = stretch.div_ceil(K::STEP) * size_of::<K::Right>();
        let all = e.n.div_ceil(K::COLUMNS);
        // Few rows: nothing is gained by a second tile in the cache, and smaller tasks balance better.
        let few = e.m <= 2 * K::ROWS;
        let fair = all.div_ceil(4 * rayon::current_num_threads());
        let tiles = if few {
            1
        } else {
            (PANEL_BYTES / tile_bytes.max(1)).min(fair)
        };
        Self {
            tiles: tiles.max(1),
            stretch,
        }
    }
}

/// `out[m, n] = finish(left[m, k] * weight[n, k]^T)`; `left` holds groups of [`Kernel::ROWS`] rows, each all steps of K.
///
/// # Errors
/// Those of [`Kernel::decode`].
pub(crate) fn matmul<K: Kernel>(
    kernel: &K,
    left: &[K::Left],
    extent: Extent,
    finish: &Finish<'_>,
    out: &mut [f32],
) -> Result<(), CheckpointError> {
    let Extent { m, n, k } = extent;
    let steps = k.div_ceil(K::STEP);
    assert_eq!(out.len(), m * n, "the output is [m, n]");
    assert!(left.len() >= m.div_ceil(K::ROWS) * steps, "left is [m, k]");
    let blocking = Blocking::of::<K>(extent, finish.adds);
    let width = blocking.tiles * K::COLUMNS;
    let out = OutPtr::new(out);
    (0..n.div_ceil(width))
        .into_par_iter()
        .try_for_each_init(Vec::new, |panel, task| {
            let columns = task * width..((task + 1) * width).min(n);
            let stretches = (0..k.max(1)).step_by(blocking.stretch);
            for first in stretches {
                let ks = first..(first + blocking.stretch).min(k);
                let at = Stretch {
                    steps: ks.start / K::STEP..ks.end.div_ceil(K::STEP),
                    all_steps: steps,
                    extent,
                    columns: columns.clone(),
                };
                panel.resize(blocking.tiles * at.steps.len(), kernel.zero());
                for (tile, panel) in panel.chunks_mut(at.steps.len().max(1)).enumerate() {
                    let start = (columns.start + tile * K::COLUMNS).min(columns.end);
                    let rows = start..(start + K::COLUMNS).min(columns.end);
                    if !rows.is_empty() {
                        kernel.decode(rows, ks.clone(), panel)?;
                    }
                }
                // SAFETY: this task alone writes its columns.
                unsafe { pass(kernel, left, panel, &at, finish, out) };
            }
            Ok(())
        })
}

/// A stretch of K for the columns of one task.
struct Stretch {
    steps: Range<usize>,
    all_steps: usize,
    extent: Extent,
    columns: Range<usize>,
}

/// All rows of the activations by a panel.
///
/// # Safety
/// `out` is [m, n] and nobody else touches its `at.columns` meanwhile.
unsafe fn pass<K: Kernel>(
    kernel: &K,
    left: &[K::Left],
    panel: &[K::Right],
    at: &Stretch,
    finish: &Finish<'_>,
    out: OutPtr,
) {
    let Extent { m, n, .. } = at.extent;
    let (begins, ends) = (at.steps.start == 0, at.steps.end == at.all_steps);
    let mut sums = vec![0.0; K::ROWS * K::COLUMNS];
    for group in 0..m.div_ceil(K::ROWS) {
        let rows = (m - group * K::ROWS).min(K::ROWS);
        let left = &left[group * at.all_steps..][at.steps.clone()];
        for (tile, panel) in panel.chunks(at.steps.len().max(1)).enumerate() {
            let start = at.columns.start + tile * K::COLUMNS;
            if start >= at.columns.end {
                break;
            }
            let columns = start..(start + K::COLUMNS).min(at.columns.end);
            // SAFETY: rows of this group, columns of this task.
            let out = |row| unsafe {
                out.row((group * K::ROWS + row) * n + columns.start, columns.len())
            };
            match begins {
                true => sums.fill(0.0),
                false => {
                    for (row, sums) in sums.chunks_mut(K::COLUMNS).take(rows).enumerate() {
                        sums[..columns.len()].copy_from_slice(out(row));
                    }
                }
            }
            kernel.multiply(rows, left, panel, &mut sums);
            for (row, sums) in sums.chunks(K::COLUMNS).take(rows).enumerate() {
                let sums = &sums[..columns.len()];
                match ends {
                    true => finish.apply(sums, columns.start, out(row)),
                    false => out(row).copy_from_slice(sums),
                }
            }
        }
    }
}

impl Finish<'_> {
    /// Finished sums of the columns from `first` on into `out`.
    fn apply(&self, sums: &[f32], first: usize, out: &mut [f32]) {
        if self.adds {
            for (out, sum) in out.iter_mut().zip(sums) {
                *out += sum * self.alpha;
            }
            return;
        }
        match self.bias {
            Some(bias) => {
                for ((out, sum), bias) in out.iter_mut().zip(sums).zip(&bias[first..]) {
                    *out = sum * self.alpha + bias;
                }
            }
            None => {
                for (out, sum) in out.iter_mut().zip(sums) {
                    *out = sum * self.alpha;
                }
            }
        }
        if self.gelu {
            activation::gelu_tanh(out);
        }
    }
}
