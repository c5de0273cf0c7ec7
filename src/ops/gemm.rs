//! `out = x W^T + b` in F32 over a weight that is stored in any float format.
//!
//! The trick: rows of `W` are widened into a panel that fits the L2 cache and multiplied at once, so that a
//! weight is read from memory in its stored width and never exists as a whole in F32. Panels are what is
//! shared out to threads; each is one single-threaded product, hence the result does not depend on how many
//! threads there are.

use gemm::Parallelism;
use rayon::prelude::*;

use super::activation;
use crate::checkpoint::{CheckpointError, TensorView};

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

/// `out[m, n] = x[m, k] * W[n, k]^T + bias[n]`, row-major.
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
    (0..n.div_ceil(PANEL_ROWS))
        .into_par_iter()
        .try_for_each_init(
            || vec![0.0f32; PANEL_ROWS * k],
            |panel, index| {
                let first = index * PANEL_ROWS;
                let rows = PANEL_ROWS.min(n - first);
                let panel = &mut panel[..rows * k];
                w.view.widen(first * k..(first + rows) * k, panel)?;
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
                        w.bias.is_some(),
                        x.as_ptr(),
                        1,
                        k as isize,
                        panel.as_ptr(),
                        k as isize,
                        1,
                        1.0,
                        w.scale,
                        false,
                        false,
                        false,
                        Parallelism::None,
                    );
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
