//! The activations that linear layers read: a tensor, or rows that are made when somebody asks for them.
//!
//! The trick: a row (12 KB at the published width) is normalised, looked at and quantized while it is in the L1 cache.
//! The F32 tensor of all rows is neither written nor read: it never exists.

use std::borrow::Cow;

use candle_core::{Storage, Tensor};
use rayon::prelude::*;

use super::matmul::NonFinite;
use super::norm::ModulatedNorm;
use super::operand;
use crate::numerics::search::amax;

/// What linear layers take: `[.., in]`.
#[derive(Clone, Copy)]
pub enum LinearInput<'a> {
    /// F32 numbers.
    Tensor(&'a Tensor),
    /// Numbers that are computed as they are read.
    Norm(&'a ModulatedNorm),
}

impl<'a> From<&'a Tensor> for LinearInput<'a> {
    fn from(x: &'a Tensor) -> Self {
        Self::Tensor(x)
    }
}

impl<'a> From<&'a ModulatedNorm> for LinearInput<'a> {
    fn from(x: &'a ModulatedNorm) -> Self {
        Self::Norm(x)
    }
}

impl LinearInput<'_> {
    /// Its shape.
    pub(crate) fn dims(&self) -> &[usize] {
        match self {
            Self::Tensor(x) => x.dims(),
            Self::Norm(norm) => norm.x().dims(),
        }
    }

    /// All of its numbers, contiguous.
    ///
    /// # Errors
    /// Where they are not F32 in main memory.
    pub(crate) fn tensor(&self) -> candle_core::Result<Tensor> {
        match self {
            Self::Tensor(x) => x.contiguous(),
            Self::Norm(norm) => norm.tensor(),
        }
    }

    /// Calls `read` with its rows.
    ///
    /// # Errors
    /// Where they are not contiguous F32 in main memory, or those of `read`.
    pub(crate) fn read<T>(
        &self,
        read: impl FnOnce(Rows<'_>) -> candle_core::Result<T>,
    ) -> candle_core::Result<T> {
        let (x, norm) = match self {
            Self::Tensor(x) => (*x, None),
            Self::Norm(norm) => (norm.x(), Some(*norm)),
        };
        let (storage, layout) = x.storage_and_layout();
        let Storage::Cpu(storage) = &*storage else {
            candle_core::bail!("the input is not in main memory");
        };
        let k = x.dims().last().copied().unwrap_or(1);
        let x = operand(storage, layout)?;
        read(Rows { x, k, norm })
    }
}

/// Rows `[m, k]` in F32 that are yet to be quantized.
#[derive(Clone, Copy)]
pub(crate) struct Rows<'a> {
    x: &'a [f32],
    k: usize,
    /// What `x` still has to go through.
    norm: Option<&'a ModulatedNorm>,
}

impl<'a> Rows<'a> {
    /// How many.
    pub(crate) fn m(&self) -> usize {
        self.x.len() / self.k.max(1)
    }

    /// How wide.
    pub(crate) fn k(&self) -> usize {
        self.k
    }

    /// All of them, `[m, k]`.
    pub(crate) fn all(&self) -> Cow<'a, [f32]> {
        match self.norm {
            None => Cow::Borrowed(self.x),
            Some(norm) => Cow::Owned(norm.rows(self.x)),
        }
    }

    /// Row `row`, made in `scratch` `[k]` if it must be made.
    fn row<'s>(&'s self, row: usize, scratch: &'s mut [f32]) -> &'s [f32] {
        let x = &self.x[row * self.k..(row + 1) * self.k];
        match self.norm {
            None => x,
            Some(norm) => {
                norm.row(row, x, scratch);
                scratch
            }
        }
    }

    /// The largest magnitude. Rows that must be made are made for this and once more for their codes: to keep them is no
    /// faster (`benches/linear.rs`).
    ///
    /// # Errors
    /// Where a number is not finite.
    pub(crate) fn amax(&self) -> Result<f32, NonFinite> {
        let scratch = || vec![0.0; self.k];
        // As bits magnitudes are in order, NaN above all of them: `max` of floats would lose it.
        let amax = (0..self.m())
            .into_par_iter()
            .with_min_len(16)
            .map_init(scratch, |scratch, row| {
                amax(self.row(row, scratch)).to_bits()
            })
            .max();
        match f32::from_bits(amax.unwrap_or(0)) {
            amax if amax.is_finite() => Ok(amax),
            _ => Err(self.first_non_finite()),
        }
    }

    /// How many groups of `rows` rows, the last one perhaps not full.
    pub(crate) fn groups(&self, rows: usize) -> usize {
        self.m().div_ceil(rows)
    }

    /// Fills `packed`, the groups of R rows one after the other: `set` puts a row, whose number in the group it is told,
    /// into its group; `codes` makes what it needs for that.
    ///
    /// # Errors
    /// Where a number is not finite: nothing of it is in the codes.
    pub(crate) fn pack<const R: usize, T: Send, C>(
        &self,
        packed: &mut [T],
        codes: impl Fn() -> C + Send + Sync,
        set: impl Fn(&mut C, &mut [T], usize, &[f32]) + Send + Sync,
    ) -> Result<(), NonFinite> {
        let steps = packed.len() / self.groups(R).max(1);
        packed
            .par_chunks_mut(steps.max(1))
            .enumerate()
            .try_for_each_init(
                || (vec![0.0; self.k], codes()),
                |(scratch, codes), (group, packed)| {
                    for row in group * R..((group + 1) * R).min(self.m()) {
                        let x = self.row(row, scratch);
                        if !amax(x).is_finite() {
                            return Err(());
                        }
                        set(codes, packed, row % R, x);
                    }
                    Ok(())
                },
            )
            .map_err(|()| self.first_non_finite())
    }

    /// The first of the numbers of which one is not finite: whichever thread saw one first, it is this that is named.
    fn first_non_finite(&self) -> NonFinite {
        let x = self.all();
        let at = x.iter().position(|v| !v.is_finite()).unwrap_or(0);
        NonFinite {
            value: x[at],
            row: at / self.k.max(1),
            column: at % self.k.max(1),
        }
    }
}

#[cfg(test)]
#[path = "rows_tests.rs"]
mod tests;
