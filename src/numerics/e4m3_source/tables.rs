//! NVFP4 of an E4M3 weight by comparing bytes.
//!
//! The trick: under a given block maximum the code rises with the magnitude byte. So seven bounds say everything, and
//! a number's code is how many of them it exceeds: for 16 bytes seven comparisons and seven subtractions.

#[cfg(target_arch = "x86_64")]
use super::avx2;
use super::histogram::Histogram;
use super::{BLOCK, NAN, NanByte, block_max, number};
use crate::numerics::e2m1;
use crate::numerics::error::{ErrorStats, nvfp4_limit};
use crate::numerics::nvfp4::{self, Top};

/// What the reference does to a block, by its largest magnitude byte. Bytes are repeated for vector loads.
#[derive(Clone, Copy)]
#[repr(align(16))]
pub(super) struct Block {
    /// The largest magnitude byte whose code is below 1, 2, .. 7.
    pub(super) bounds: [[u8; BLOCK]; 7],
    /// 0x80, or 0 where the block rounds to nothing and its numbers lose their signs.
    pub(super) sign: [u8; BLOCK],
    /// The stored block scale; NaN for the maximum of NaN only.
    pub(super) scale: u8,
    /// Block scale times `scale_2`.
    total: f32,
}

/// The decisions for one `scale_2`.
#[derive(Clone)]
pub struct Tables {
    /// By largest magnitude byte; of NaN's only the scale is used, to find it.
    blocks: Box<[Block; 128]>,
    weight_scale: f32,
}

impl Tables {
    /// Asks the reference about all 127 magnitudes, every block scaled so that its largest number becomes 6.
    ///
    /// A number is `E4M3[byte] * weight_scale` (1 where the weight has none); both scales are finite and above 0.
    pub fn new(scale_2: f32, weight_scale: f32) -> Self {
        Self::with_top(scale_2, weight_scale, Top::Six)
    }

    pub(super) fn with_top(scale_2: f32, weight_scale: f32, top: Top) -> Self {
        let block = |max: usize| {
            let max = max as u8;
            let (scale, total) = nvfp4::block_scale(number(max, weight_scale), top, scale_2);
            let mut bounds = [[0; BLOCK]; 7];
            for magnitude in 0..=max {
                let code = nvfp4::code(number(magnitude, weight_scale), total, top);
                for bound in &mut bounds[usize::from(code & 7)..] {
                    *bound = [magnitude; BLOCK];
                }
            }
            Block {
                bounds,
                sign: [if total == 0.0 { 0 } else { 0x80 }; BLOCK],
                scale: if max == NAN { NAN } else { scale },
                total,
            }
        };
        Self {
            blocks: Box::new(std::array::from_fn(block)),
            weight_scale,
        }
    }

    /// Quantizes whole rows of E4M3 bytes, K a multiple of 16.
    ///
    /// `bytes`: [rows, K]; `codes`: [rows, K/2] packed codes; `scales`: [rows, K/16] block scales, row-major.
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
    ) -> Result<(), NanByte> {
        nvfp4::check(bytes.len(), codes, scales);
        #[cfg(target_arch = "x86_64")]
        if avx2::available() {
            // SAFETY: the feature was just found on this machine.
            return unsafe { self.quantize_avx2(bytes, codes, scales) };
        }
        self.quantize_portable(bytes, codes, scales)
    }

    pub(super) fn quantize_portable(
        &self,
        bytes: &[u8],
        codes: &mut [u8],
        scales: &mut [u8],
    ) -> Result<(), NanByte> {
        each_block(bytes, codes, scales, |block, packed| {
            self.encode(block, block_max(block), packed)
        })
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2")]
    fn quantize_avx2(
        &self,
        bytes: &[u8],
        codes: &mut [u8],
        scales: &mut [u8],
    ) -> Result<(), NanByte> {
        each_block(bytes, codes, scales, |block, packed| {
            let table = self.block(avx2::block_max(block));
            avx2::encode(table, block, packed);
            table.scale
        })
    }

    /// The table of blocks whose largest magnitude byte is `max`.
    #[inline(always)]
    pub(super) fn block(&self, max: u8) -> &Block {
        &self.blocks[usize::from(max & 0x7f)]
    }

    /// The codes of a block whose largest magnitude byte is `max`; its scale.
    #[inline(always)]
    pub(super) fn encode(&self, block: &[u8; BLOCK], max: u8, packed: &mut [u8; BLOCK / 2]) -> u8 {
        let table = self.block(max);
        for (byte, [even, odd]) in packed.iter_mut().zip(block.as_chunks::<2>().0) {
            *byte = (table.code(*even) << 4) | table.code(*odd);
        }
        table.scale
    }

    /// The exact error over all numbers that were counted.
    pub fn stats(&self, histogram: &Histogram) -> ErrorStats {
        let mut stats = ErrorStats::default();
        for (max, magnitude, count) in histogram.pairs() {
            let x = number(magnitude, self.weight_scale);
            let limit = nvfp4_limit(self.total(max));
            stats.add(x, self.decoded(max, magnitude), limit, count);
        }
        stats
    }

    /// What a code of 1 is worth in a block whose largest magnitude byte is `max`.
    pub(super) fn total(&self, max: u8) -> f32 {
        self.block(max).total
    }

    /// What a magnitude byte becomes in a block whose largest one is `max`.
    pub(super) fn decoded(&self, max: u8, magnitude: u8) -> f32 {
        let block = self.block(max);
        e2m1::VALUES[usize::from(block.code(magnitude))] * block.total
    }

    pub(super) fn weight_scale(&self) -> f32 {
        self.weight_scale
    }
}

impl Block {
    /// The code of a byte: how many bounds it exceeds, and its sign.
    #[inline(always)]
    fn code(&self, byte: u8) -> u8 {
        let exceeds = |bound: &[u8; BLOCK]| u8::from(byte & 0x7f > bound[0]);
        ((byte & self.sign[0]) >> 4) + self.bounds.iter().map(exceeds).sum::<u8>()
    }
}

/// Gives each block and the room for its codes to `encode`, which tells the block's scale, until a block has a NaN.
#[inline(always)]
pub(super) fn each_block(
    bytes: &[u8],
    codes: &mut [u8],
    scales: &mut [u8],
    mut encode: impl FnMut(&[u8; BLOCK], &mut [u8; BLOCK / 2]) -> u8,
) -> Result<(), NanByte> {
    let packed = codes.as_chunks_mut::<{ BLOCK / 2 }>().0;
    let blocks = bytes.as_chunks::<BLOCK>().0.iter();
    for (at, ((block, packed), scale)) in blocks.zip(packed).zip(scales).enumerate() {
        *scale = encode(block, packed);
        if *scale == NAN {
            return Err(NanByte::in_block(block).after(at * BLOCK));
        }
    }
    Ok(())
}
