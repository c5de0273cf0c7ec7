//! Products with F32 activations: dense weights, and weights whose activations are not quantized.
//!
//! Rows of the weight are widened a chunk of K at a time into a buffer in the L1 cache and turned over into the panel, so
//! that widening is a part of the packing that every blocked product needs. A step is one column of K; a tile of 12 rows
//! by 32 columns keeps 24 sums in AVX-512's 32 registers, 6 by 16 keep 12 in AVX2's 16: one multiply-add per sum, a
//! broadcast per row and two loads, so that the multipliers are what limits.

use std::ops::Range;

use rayon::prelude::*;

use super::driver::{CHUNK, Extent, Finish, Kernel, matmul};
use crate::checkpoint::CheckpointError;
use crate::numerics::machine::{Level, Machine};
use crate::ops::weight::Weight;

/// Rows of activations that are packed at a time, at most: bounds the copy. The weight is decoded once for each time.
const ROWS_AT_ONCE: usize = 1536;

/// `out[m, n] = finish(x[m, k] * weight[n, k]^T)`; the weight's own scale is the caller's to put into `finish`.
///
/// # Errors
/// Where the weight's stored type is not a float.
pub(crate) fn multiply(
    machine: Machine,
    x: &[f32],
    weight: (&Weight, Extent),
    finish: &Finish<'_>,
    out: &mut [f32],
) -> Result<(), CheckpointError> {
    let (weight, Extent { m, n, k }) = weight;
    // Times of equal size, in whole tiles of every kernel's height.
    let rows = m
        .div_ceil(m.div_ceil(ROWS_AT_ONCE).max(1))
        .next_multiple_of(12);
    let parts = x
        .chunks((rows * k).max(1))
        .zip(out.chunks_mut((rows * n).max(1)));
    for (x, out) in parts {
        let m = x.len() / k.max(1);
        let extent = Extent { m, n, k };
        let right = Widened { weight, k };
        match machine.level() {
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 | Level::Avx512Bf16 => {
                matmul(
                    &super::float_x86::Avx512::new(right, machine),
                    &pack(x, k),
                    extent,
                    finish,
                    out,
                )?;
            }
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => {
                matmul(
                    &super::float_x86::Avx2::new(right, machine),
                    &pack(x, k),
                    extent,
                    finish,
                    out,
                )?;
            }
            _ => matmul(&Portable(right), &pack(x, k), extent, finish, out)?,
        }
    }
    Ok(())
}

/// `x` `[m, k]` in groups of R rows, column by column; rows that are not there are 0.
pub(crate) fn pack<const R: usize>(x: &[f32], k: usize) -> Vec<[f32; R]> {
    let m = x.len() / k.max(1);
    let mut packed = vec![[0.0; R]; m.div_ceil(R) * k];
    packed
        .par_chunks_mut(k.max(1))
        .zip(x.par_chunks((R * k).max(1)))
        .for_each(|(packed, x)| {
            for (row, x) in x.chunks(k).enumerate() {
                for (step, x) in packed.iter_mut().zip(x) {
                    step[row] = *x;
                }
            }
        });
    packed
}

/// A weight in any stored format, as floats.
#[derive(Clone, Copy)]
pub(crate) struct Widened<'w> {
    pub(crate) weight: &'w Weight,
    /// Columns of the weight.
    pub(crate) k: usize,
}

/// Where up to 16 rows are widened to.
pub(crate) type Lines = [[f32; CHUNK]; 16];

impl Widened<'_> {
    /// Rows `rows` (16 at most), columns `ks` (a chunk at most): where they lie if they are F32, else widened into `lines`.
    /// Rows that are not there are whatever `lines` holds: nobody reads their columns.
    pub(crate) fn lines<'l>(
        &'l self,
        rows: Range<usize>,
        ks: Range<usize>,
        lines: &'l mut Lines,
    ) -> Result<[&'l [f32]; 16], CheckpointError> {
        let whole = self.weight.as_f32();
        if whole.is_none() {
            for (row, line) in rows.clone().zip(lines.iter_mut()) {
                let line = &mut line[..ks.len()];
                self.weight.widen_row(row, self.k, ks.clone(), line)?;
            }
        }
        let lines: &'l Lines = lines;
        Ok(std::array::from_fn(|n| match whole {
            Some(whole) if rows.start + n < rows.end => {
                &whole[(rows.start + n) * self.k..][ks.clone()]
            }
            _ => &lines[n][..ks.len()],
        }))
    }
}

/// Plain loops, 4 rows by 16 columns.
pub(crate) struct Portable<'w>(pub(crate) Widened<'w>);

impl Kernel for Portable<'_> {
    const ROWS: usize = 4;
    const COLUMNS: usize = 16;
    const STEP: usize = 1;
    const STRETCH: usize = 2 * CHUNK;
    type Left = [f32; 4];
    type Right = [f32; 16];

    fn zero(&self) -> Self::Right {
        [0.0; 16]
    }

    fn decode(
        &self,
        rows: Range<usize>,
        ks: Range<usize>,
        panel: &mut [Self::Right],
    ) -> Result<(), CheckpointError> {
        let mut lines = [[0.0; CHUNK]; 16];
        for (chunk, panel) in panel.chunks_mut(CHUNK).enumerate() {
            let first = ks.start + chunk * CHUNK;
            let ks = first..first + panel.len();
            let lines = self.0.lines(rows.clone(), ks, &mut lines)?;
            for (k, step) in panel.iter_mut().enumerate() {
                *step = std::array::from_fn(|n| lines[n][k]);
            }
        }
        Ok(())
    }

    fn multiply(&self, _: usize, left: &[Self::Left], right: &[Self::Right], sums: &mut [f32]) {
        // The product is rounded before it is added: a fused one is a library call where there is no FMA. The products
        // of FP8 codes are exact, so for them this is the same.
        for (left, right) in left.chunks(CHUNK).zip(right.chunks(CHUNK)) {
            let mut chunk = [[0.0f32; 16]; 4];
            for (a, b) in left.iter().zip(right) {
                for (sums, a) in chunk.iter_mut().zip(a) {
                    for (sum, b) in sums.iter_mut().zip(b) {
                        *sum += a * b;
                    }
                }
            }
            for (sum, chunk) in sums.iter_mut().zip(chunk.as_flattened()) {
                *sum += chunk;
            }
        }
    }
}
