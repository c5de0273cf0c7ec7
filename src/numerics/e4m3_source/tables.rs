//! NVFP4 of an E4M3 weight by comparing bytes.
//!
//! The trick: under a given block maximum the code rises with the magnitude byte. So seven bounds say everything, and
//! a number's code is how many of them it exceeds: for 16 bytes seven comparisons and seven subtractions.

use super::histogram::Histogram;
use super::{BLOCK, NAN, NanByte, block_max, number};
use crate::numerics::e2m1;
use crate::numerics::error::{ErrorStats, nvfp4_limit};
use crate::numerics::nvfp4::{self, Top};
use crate::numerics::simd::multiversion;

/// What the reference does to a block, by its largest magnitude byte.
#[derive(Clone, Copy)]
struct Block {
    /// The largest magnitude byte whose code is below 1, 2, .. 7.
    bounds: [u8; 7],
    /// 0x80, or 0 where the block rounds to nothing and its numbers lose their signs.
    sign: u8,
    /// The stored block scale.
    scale: u8,
    /// Block scale times `scale_2`.
    total: f32,
}

/// The decisions for one `scale_2`.
#[derive(Clone)]
pub struct Tables {
    /// By largest magnitude byte; that of NaN is never used.
    blocks: Vec<Block>,
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
        let block = |max: u8| {
            let (scale, total) = nvfp4::block_scale(number(max, weight_scale), top, scale_2);
            let mut bounds = [0; 7];
            for magnitude in 0..=max {
                let code = nvfp4::code(number(magnitude, weight_scale), total, top);
                for bound in &mut bounds[usize::from(code & 7)..] {
                    *bound = magnitude;
                }
            }
            let sign = if total == 0.0 { 0 } else { 0x80 };
            Block {
                bounds,
                sign,
                scale,
                total,
            }
        };
        Self {
            blocks: (0..=NAN).map(block).collect(),
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
        match quantize(&self.blocks, bytes, codes, scales) {
            None => Ok(()),
            Some(block) => {
                let at = block * BLOCK;
                let block: &[u8; BLOCK] = &bytes.as_chunks().0[block];
                Err(NanByte::in_block(block).after(at))
            }
        }
    }

    /// One block whose largest magnitude byte is `max`, not NaN: its scale, and its codes.
    #[inline(always)]
    pub(super) fn encode(&self, block: &[u8; BLOCK], max: u8, packed: &mut [u8; BLOCK / 2]) -> u8 {
        encode(&self.blocks[usize::from(max)], block, packed)
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
        self.blocks[usize::from(max)].total
    }

    /// What a magnitude byte becomes in a block whose largest one is `max`.
    pub(super) fn decoded(&self, max: u8, magnitude: u8) -> f32 {
        let block = &self.blocks[usize::from(max)];
        let code = block.bounds.iter().filter(|b| magnitude > **b).count();
        e2m1::VALUES[code] * block.total
    }

    pub(super) fn weight_scale(&self) -> f32 {
        self.weight_scale
    }
}

multiversion! {
    /// Stops at the first block with a NaN and tells which one that is.
    fn quantize(blocks: &[Block], bytes: &[u8], codes: &mut [u8], scales: &mut [u8]) -> Option<usize> {
        let packed = codes.as_chunks_mut::<{ BLOCK / 2 }>().0;
        let rows = bytes.as_chunks::<BLOCK>().0.iter().zip(packed).zip(scales);
        for (at, ((block, packed), scale)) in rows.enumerate() {
            let max = block_max(block);
            if max == NAN {
                return Some(at);
            }
            *scale = encode(&blocks[usize::from(max)], block, packed);
        }
        None
    }
}

#[inline(always)]
fn encode(table: &Block, block: &[u8; BLOCK], packed: &mut [u8; BLOCK / 2]) -> u8 {
    let mut codes = [0u8; BLOCK];
    for (code, byte) in codes.iter_mut().zip(block) {
        *code = (byte & table.sign) >> 4;
    }
    for bound in table.bounds {
        for (code, byte) in codes.iter_mut().zip(block) {
            *code += u8::from(byte & 0x7f > bound);
        }
    }
    for (byte, [even, odd]) in packed.iter_mut().zip(codes.as_chunks::<2>().0) {
        *byte = (even << 4) | odd;
    }
    table.scale
}
