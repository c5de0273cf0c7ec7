//! Rotary positions of the joint sequence, and the head norm that always comes before them.
//!
//! Adjacent pairs turn as complex numbers (`use_real=False` in diffusers): a head of width d has d/2 angles,
//! the concatenation over frame, height and width.

use candle_core::{CpuStorage, CustomOp2, Layout, Shape, Tensor};
use rayon::prelude::*;

use super::operand;
use super::simd::{self, multiversion};

/// Base of the frequencies.
const THETA: f64 = 10_000.0;

/// Cosines and sines of a sequence, `[S, head_dim / 2]` each, row-major.
#[derive(Clone, Debug)]
pub struct RopeTable {
    cos: Vec<f32>,
    sin: Vec<f32>,
    half: usize,
}

impl RopeTable {
    /// Angles of `positions` (frame, height, width), one row each.
    pub fn new(axes_dims: [usize; 3], positions: impl Iterator<Item = [i32; 3]>) -> Self {
        let half = axes_dims.iter().sum::<usize>() / 2;
        let frequencies = axes_dims.map(|dim| {
            (0..dim / 2)
                .map(|j| THETA.powf(-2.0 * j as f64 / dim as f64) as f32)
                .collect::<Vec<_>>()
        });
        let (mut cos, mut sin) = (Vec::new(), Vec::new());
        for position in positions {
            for (p, axis) in position.into_iter().zip(&frequencies) {
                for f in axis {
                    let angle = p as f32 * f;
                    cos.push(angle.cos());
                    sin.push(angle.sin());
                }
            }
        }
        Self { cos, sin, half }
    }

    /// Image tokens of an `h x w` grid in packed tokens, row-major, centred (`scale_rope`), in frame 0.
    pub fn image(axes_dims: [usize; 3], (h, w): (usize, usize)) -> Self {
        let centred = |i: usize, n: usize| i as i32 - (n - n / 2) as i32;
        let cells = (0..h).flat_map(|r| (0..w).map(move |c| (r, c)));
        Self::new(
            axes_dims,
            cells.map(|(r, c)| [0, centred(r, h), centred(c, w)]),
        )
    }

    /// `len` text tokens beside an `h x w` grid: they start where the picture ends, on all three axes.
    pub fn text(axes_dims: [usize; 3], (h, w): (usize, usize), len: usize) -> Self {
        let start = (h / 2).max(w / 2) as i32;
        let positions = (0..len as i32).map(|j| [start + j; 3]);
        Self::new(axes_dims, positions)
    }

    fn row(&self, s: usize) -> (&[f32], &[f32]) {
        let at = s * self.half..(s + 1) * self.half;
        (&self.cos[at.clone()], &self.sin[at])
    }
}

multiversion! {
    /// One head: RMS norm, then rotation of adjacent pairs.
    fn norm_rotate(x: &[f32], weight: &[f32], cos: &[f32], sin: &[f32], out: &mut [f32]) {
        const EPS: f32 = 1e-6;
        let mean = simd::sum_by(x, |v| v * v) / x.len() as f32;
        let inverse = 1.0 / (mean + EPS).sqrt();
        let (x, w, out) = (x.as_chunks::<2>().0, weight.as_chunks::<2>().0, out.as_chunks_mut::<2>().0);
        for ((((o, x), w), c), s) in out.iter_mut().zip(x).zip(w).zip(cos).zip(sin) {
            let (a, b) = (x[0] * inverse * w[0], x[1] * inverse * w[1]);
            *o = [a * *c - b * *s, a * *s + b * *c];
        }
    }
}

/// Per head RMSNorm (eps 1e-6, `weight` `[head_dim]`) and rotation: `x` `[B, S, heads * head_dim]`, same out.
///
/// # Errors
/// Where `table` has not S rows, or the widths do not fit.
pub fn rms_norm_rope(
    x: &Tensor,
    weight: &Tensor,
    table: &RopeTable,
) -> candle_core::Result<Tensor> {
    x.contiguous()?
        .apply_op2_no_bwd(&weight.contiguous()?, &NormRope(table))
}

struct NormRope<'a>(&'a RopeTable);

impl CustomOp2 for NormRope<'_> {
    fn name(&self) -> &'static str {
        "rms-norm-rope"
    }

    fn cpu_fwd(
        &self,
        s1: &CpuStorage,
        l1: &Layout,
        s2: &CpuStorage,
        l2: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        let (x, weight, table) = (operand(s1, l1)?, operand(s2, l2)?, self.0);
        let (_, s, width) = l1.shape().dims3()?;
        let head = weight.len();
        if head != 2 * table.half
            || !width.is_multiple_of(head)
            || table.cos.len() != s * table.half
        {
            candle_core::bail!(
                "rope of {:?} with heads of {head} by a table of {} x {}",
                l1.dims(),
                table.cos.len() / table.half.max(1),
                table.half
            );
        }
        let mut out = vec![0.0; x.len()];
        out.par_chunks_mut(width)
            .with_min_len(16)
            .zip(x.par_chunks(width))
            .enumerate()
            .for_each(|(row, (out, x))| {
                let (cos, sin) = table.row(row % s);
                for (out, x) in out.chunks_exact_mut(head).zip(x.chunks_exact(head)) {
                    norm_rotate(x, weight, cos, sin, out);
                }
            });
        Ok((CpuStorage::F32(out), l1.shape().clone()))
    }
}
