//! `out = x W^T + b` in F32 over a weight that is stored in any float format.
//!
//! The trick: rows of `W` are widened into a panel that fits the L2 cache and multiplied at once, so that a
//! weight is read from memory in its stored width and never exists as a whole in F32. Panels are what is
//! shared out to threads; each is one single-threaded product, hence the result does not depend on how many
//! threads there are.

use gemm::Parallelism;
use rayon::prelude::*;

use super::activation;
use crate::checkpoint::{Adapter, CheckpointError, TensorView};

/// Rows of W per panel: 64 rows x 3072 x 4 bytes = 768 KiB.
const PANEL_ROWS: usize = 64;

/// A weight `[n, k]` as stored, times `scale`.
pub struct Rows<'a> {
    /// The stored numbers.
    pub view: &'a TensorView,
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
    up: &'a TensorView,
    rank: usize,
}

impl<'a> LowRank<'a> {
    /// The first half of an adapter on `x` `[m, in]`: `scale * x * down^T`.
    ///
    /// # Errors
    /// Where the adapter's stored type is not a float.
    pub fn new(adapter: &'a Adapter, x: &[f32]) -> Result<Self, CheckpointError> {
        let (rank, k) = (adapter.down.shape()[0], adapter.down.shape()[1]);
        let down = Rows {
            view: &adapter.down,
            scale: adapter.scale,
            n: rank,
            k,
            bias: None,
            adapters: &[],
        };
        let mut hidden = vec![0.0; x.len() / k.max(1) * rank];
        matmul_nt(x, &down, Epilogue::None, &mut hidden)?;
        Ok(Self {
            hidden,
            up: &adapter.up,
            rank,
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
    let (n, k) = (w.n, w.k);
    let m = x.len() / k.max(1);
    assert_eq!((x.len(), out.len()), (m * k, m * n), "operand sizes");
    if let Some(bias) = w.bias {
        for row in out.chunks_exact_mut(n) {
            row.copy_from_slice(bias);
        }
    }
    let out = OutPtr(out.as_mut_ptr());
    let widest = w.adapters.iter().map(|a| a.rank).fold(k, usize::max);
    (0..n.div_ceil(PANEL_ROWS))
        .into_par_iter()
        .try_for_each_init(
            || vec![0.0f32; PANEL_ROWS * widest],
            |panel, index| {
                let first = index * PANEL_ROWS;
                let rows = PANEL_ROWS.min(n - first);
                // A factor of the output's columns first..first + rows, and whether it adds to what is there.
                let mut add = |x: &[f32], view: &TensorView, k: usize, scale: f32, add: bool| {
                    let panel = &mut panel[..rows * k];
                    view.widen(first * k..(first + rows) * k, panel)?;
                    // SAFETY: x is m x k, the panel rows x k (read transposed), and the written block is
                    // columns first..first + rows of the m x n output, which only this panel touches.
                    unsafe {
                        gemm::gemm(
                            m,
                            rows,
                            k,
                            out.get().add(first),
                            1,
                            n as isize,
                            add,
                            x.as_ptr(),
                            1,
                            k as isize,
                            panel.as_ptr(),
                            k as isize,
                            1,
                            1.0,
                            scale,
                            false,
                            false,
                            false,
                            Parallelism::None,
                        );
                    }
                    Ok::<_, CheckpointError>(())
                };
                add(x, w.view, k, w.scale, w.bias.is_some())?;
                for adapter in w.adapters {
                    add(&adapter.hidden, adapter.up, adapter.rank, 1.0, true)?;
                }
                if epilogue == Epilogue::GeluTanh {
                    for row in 0..m {
                        // SAFETY: the columns of this panel in one row of the output.
                        let block = unsafe {
                            std::slice::from_raw_parts_mut(out.get().add(row * n + first), rows)
                        };
                        activation::gelu_tanh(block);
                    }
                }
                Ok(())
            },
        )
}
