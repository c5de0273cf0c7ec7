//! Weights that are stored in E4M3 already (times an optional F32 weight scale) to NVFP4: the fast path.
//!
//! NVFP4 looks at a number and at the largest magnitude of its block. In an E4M3 weight both are bytes of which only
//! 127 magnitudes exist, so [`Tables`] asks the scalar reference about every pair once, and a weight of millions of
//! numbers is then comparisons of bytes. The results are those of the F32 path, bit for bit.
//!
//! [`Histogram`] counts the pairs, from which follow the exact error of every scale without a look at the weight.

#[cfg(target_arch = "x86_64")]
mod avx2;
mod four_six;
mod histogram;
mod lost;
mod tables;
#[cfg(test)]
mod tests;

pub use super::nvfp4::BLOCK;
pub use four_six::{FourSix, Split};
pub use histogram::Histogram;
pub use lost::DoubleQuantization;
pub use tables::Tables;

use super::e4m3::E4M3_TO_F32;

/// The magnitude byte that is no number.
const NAN: u8 = 0x7f;

/// A weight holds a NaN (byte 0x7F or 0xFF).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("element {index} is NaN")]
pub struct NanByte {
    /// Which byte of the slice.
    pub index: usize,
}

impl NanByte {
    /// The first NaN of a block that has one.
    fn in_block(block: &[u8; BLOCK]) -> Self {
        let index = block.iter().position(|b| b & 0x7f == NAN).unwrap_or(0);
        Self { index }
    }

    /// The same seen from `offset` bytes before.
    fn after(self, offset: usize) -> Self {
        Self {
            index: self.index + offset,
        }
    }
}

/// The largest magnitude byte of a block; magnitudes and their bytes are in the same order.
#[inline(always)]
fn block_max(block: &[u8; BLOCK]) -> u8 {
    block.iter().fold(0, |max, byte| max.max(byte & 0x7f))
}

/// What a byte stands for.
fn number(byte: u8, weight_scale: f32) -> f32 {
    E4M3_TO_F32[usize::from(byte)] * weight_scale
}
