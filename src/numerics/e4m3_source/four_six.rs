//! Four over six for E4M3 weights: two sets of tables, and for each block the one with the smaller error.
//!
//! The choice depends on all 16 numbers of a block, so counts are kept apart by choice: then the errors are exact too.

use super::histogram::Histogram;
use super::tables::Tables;
use super::{BLOCK, NAN, NanByte, block_max, number};
use crate::numerics::error::ErrorStats;
use crate::numerics::nvfp4::{self, Top};

/// The decisions for one `scale_2` under [`BlockRule::FourSix`](nvfp4::BlockRule::FourSix).
#[derive(Clone)]
pub struct FourSix {
    six: Tables,
    four: Tables,
    /// By largest and own magnitude byte: how much more squared error a number has when its block chooses 4.
    differences: Vec<[f64; 128]>,
}

/// Counts of a quantized weight, by what its blocks chose.
#[derive(Clone, Default)]
pub struct Split {
    /// Blocks whose largest number became 6.
    pub six: Histogram,
    /// Blocks whose largest number became 4.
    pub four: Histogram,
}

impl Split {
    /// Adds the counts of another part of the weight.
    pub fn merge(&mut self, other: &Self) {
        self.six.merge(&other.six);
        self.four.merge(&other.four);
    }
}

impl FourSix {
    /// As [`Tables::new`].
    pub fn new(scale_2: f32, weight_scale: f32) -> Self {
        let six = Tables::with_top(scale_2, weight_scale, Top::Six);
        let four = Tables::with_top(scale_2, weight_scale, Top::Four);
        let difference = |max: u8, magnitude: u8| {
            let x = number(magnitude, weight_scale);
            f64::from(nvfp4::trial_error(x, four.total(max), Top::Four))
                - f64::from(nvfp4::trial_error(x, six.total(max), Top::Six))
        };
        let row = |max: u8| {
            let mut row = [0.0; 128];
            for magnitude in 0..=max {
                row[usize::from(magnitude)] = difference(max, magnitude);
            }
            row
        };
        let differences = (0..=NAN).map(row).collect();
        Self {
            six,
            four,
            differences,
        }
    }

    /// As [`Tables::quantize`]; `seen` counts the blocks, for [`FourSix::stats`].
    ///
    /// # Errors
    /// The first NaN.
    ///
    /// # Panics
    /// If the sizes do not fit together.
    pub fn quantize(
        &self,
        bytes: &[u8],
        codes: &mut [u8],
        scales: &mut [u8],
        seen: &mut Split,
    ) -> Result<(), NanByte> {
        nvfp4::check(bytes.len(), codes, scales);
        let packed = codes.as_chunks_mut::<{ BLOCK / 2 }>().0;
        let blocks = bytes.as_chunks::<BLOCK>().0.iter();
        for (at, ((block, packed), scale)) in blocks.zip(packed).zip(scales).enumerate() {
            let max = block_max(block);
            if max == NAN {
                return Err(NanByte::in_block(block).after(at * BLOCK));
            }
            let row = &self.differences[usize::from(max)];
            if nvfp4::four_wins(&block.map(|byte| row[usize::from(byte & 0x7f)])) {
                *scale = self.four.encode(block, max, packed);
                seen.four.add_block(block, max);
            } else {
                *scale = self.six.encode(block, max, packed);
                seen.six.add_block(block, max);
            }
        }
        Ok(())
    }

    /// The exact error over all numbers that were quantized.
    pub fn stats(&self, seen: &Split) -> ErrorStats {
        let mut stats = self.six.stats(&seen.six);
        stats.merge(&self.four.stats(&seen.four));
        stats
    }
}
