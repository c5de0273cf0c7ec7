//! Matrix products of activations with a stored weight, in the arithmetic of the weight's format.

pub(crate) mod driver;
pub(crate) mod float;
#[cfg(target_arch = "x86_64")]
mod float_x86;
pub mod fp8;
#[cfg(target_arch = "x86_64")]
mod fp8_x86;
pub mod nvfp4;
#[cfg(target_arch = "x86_64")]
mod nvfp4_x86;
mod transpose;

use rayon::prelude::*;

use super::simd::multiversion;

/// An activation that is no number.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
#[error("its input is {value} in row {row}, column {column}")]
pub struct NonFinite {
    /// NaN or an infinity.
    pub value: f32,
    /// Row of the activations.
    pub row: usize,
    /// Column of K.
    pub column: usize,
}

multiversion! {
    /// The bits of the largest magnitude; those of NaN and infinity are larger than any number's.
    fn amax_bits(x: &[f32]) -> u32 {
        let mut lanes = [0u32; 32];
        let (chunks, rest) = x.as_chunks::<32>();
        for chunk in chunks {
            for (lane, v) in lanes.iter_mut().zip(chunk) {
                *lane = (*lane).max(v.to_bits() & 0x7fff_ffff);
            }
        }
        for (lane, v) in lanes.iter_mut().zip(rest) {
            *lane = (*lane).max(v.to_bits() & 0x7fff_ffff);
        }
        lanes.into_iter().fold(0, u32::max)
    }
}

/// The largest magnitude of `x` `[m, k]`.
///
/// # Errors
/// Where a number is not finite.
pub(crate) fn finite_amax(x: &[f32], k: usize) -> Result<f32, NonFinite> {
    let bits = x.par_chunks(1 << 16).map(amax_bits).max().unwrap_or(0);
    let amax = f32::from_bits(bits);
    if amax.is_finite() {
        return Ok(amax);
    }
    let at = x.iter().position(|v| !v.is_finite()).unwrap_or(0);
    Err(NonFinite {
        value: x[at],
        row: at / k.max(1),
        column: at % k.max(1),
    })
}

#[cfg(test)]
mod tests;
