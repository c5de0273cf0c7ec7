//! Four over six for E4M3 weights: two sets of tables, and for each block the one with the smaller error.
//!
//! The choice depends on all 16 numbers of a block, so counts are kept apart by choice: then the errors are exact too.

#[cfg(target_arch = "x86_64")]
use super::avx2;
use super::histogram::Histogram;
use super::lost::DoubleQuantization;
use super::tables::{Tables, each_block};
use super::{BLOCK, NAN, NanByte, block_max, number};
use crate::numerics::error::ErrorStats;
use crate::numerics::nvfp4::{self, Top};

/// The decisions for one `scale_2` under [`BlockRule::FourSix`](nvfp4::BlockRule::FourSix).
#[derive(Clone)]
pub struct FourSix {
    six: Tables,
    four: Tables,
    /// By largest and own magnitude byte: how much more squared error a number has when its block chooses 4.
    differences: Box<[[f64; 128]; 128]>,
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
        let mut differences = Box::new([[0.0; 128]; 128]);
        for max in 0..NAN {
            for magnitude in 0..=max {
                differences[usize::from(max)][usize::from(magnitude)] = difference(max, magnitude);
            }
        }
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
        #[cfg(target_arch = "x86_64")]
        if avx2::available() {
            // SAFETY: the feature was just found on this machine.
            return unsafe { self.quantize_avx2(bytes, codes, scales, seen) };
        }
        self.quantize_portable(bytes, codes, scales, seen)
    }

    pub(super) fn quantize_portable(
        &self,
        bytes: &[u8],
        codes: &mut [u8],
        scales: &mut [u8],
        seen: &mut Split,
    ) -> Result<(), NanByte> {
        each_block(bytes, codes, scales, |block, packed| {
            let max = block_max(block);
            self.choose(block, max, seen).encode(block, max, packed)
        })
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2")]
    fn quantize_avx2(
        &self,
        bytes: &[u8],
        codes: &mut [u8],
        scales: &mut [u8],
        seen: &mut Split,
    ) -> Result<(), NanByte> {
        each_block(bytes, codes, scales, |block, packed| {
            let max = avx2::block_max(block);
            let table = self.choose(block, max, seen).block(max);
            avx2::encode(table, block, packed);
            table.scale
        })
    }

    /// The tables for a block whose largest magnitude byte is `max`; counts the block.
    #[inline(always)]
    fn choose(&self, block: &[u8; BLOCK], max: u8, seen: &mut Split) -> &Tables {
        let row = &self.differences[usize::from(max & 0x7f)];
        let (tables, histogram) =
            match nvfp4::four_wins(&block.map(|byte| row[usize::from(byte & 0x7f)])) {
                true => (&self.four, &mut seen.four),
                false => (&self.six, &mut seen.six),
            };
        histogram.add_block(block, max);
        tables
    }

    /// The exact error over all numbers that were quantized.
    pub fn stats(&self, seen: &Split) -> ErrorStats {
        let mut stats = self.six.stats(&seen.six);
        stats.merge(&self.four.stats(&seen.four));
        stats
    }

    /// [`DoubleQuantization::model`] over all numbers that were quantized.
    pub fn double_quantization(&self, seen: &Split) -> DoubleQuantization {
        let mut sums = DoubleQuantization::model(&seen.six, &self.six);
        sums.merge(&DoubleQuantization::model(&seen.four, &self.four));
        sums
    }
}
