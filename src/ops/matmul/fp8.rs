//! W8A8: E4M3 activations under one scale by E4M3 weights under one scale.
//!
//! The definition: the products of codes are exact in F32; they are added in the order of K, each sum rounded to F32,
//! in chunks of 256; the chunks' sums are added in order; the total is multiplied by `input_scale * weight_scale`.
//!
//! The trick: E4M3 is exact in BF16 as well, and `vdpbf16ps` adds the product of the high halves, then that of the low
//! ones, each by a fused multiply-add. With the earlier column in the high half that is the very chain of the
//! definition, at two columns an instruction. Elsewhere the codes are widened to F32.

use super::NonFinite;
use super::driver::{Extent, Finish, matmul};
use super::float::{Portable, Widened};
use crate::checkpoint::CheckpointError;
use crate::numerics::e4m3::E4M3_TO_F32;
use crate::numerics::fp8;
use crate::numerics::machine::{Level, Machine};
use crate::ops::rows;
use crate::ops::weight::Weight;

/// Activations `[m, k]` as E4M3 under one scale, in the order in which a machine's kernel reads them.
pub(crate) struct Rows {
    /// Multiplies the codes.
    scale: f32,
    m: usize,
    packed: Packed,
}

enum Packed {
    /// Pairs of columns, the earlier one in the high half.
    #[cfg(target_arch = "x86_64")]
    Bf16(Vec<[u32; 12]>),
    #[cfg(target_arch = "x86_64")]
    F32x12(Vec<[f32; 12]>),
    #[cfg(target_arch = "x86_64")]
    F32x6(Vec<[f32; 6]>),
    F32x4(Vec<[f32; 4]>),
}

impl Rows {
    /// Quantizes `x` `[m, k]` with `scale`; `None`: with its own amax / 448. Numbers beyond 448 scales become 448.
    ///
    /// # Errors
    /// Where a number is not finite.
    pub(crate) fn quantize(
        machine: Machine,
        x: rows::Rows<'_>,
        scale: Option<f32>,
    ) -> Result<Self, NonFinite> {
        let scale = match scale {
            Some(scale) => scale,
            None => fp8::scale_of(x.amax()?),
        };
        let packed = match machine.level() {
            #[cfg(target_arch = "x86_64")]
            Level::Avx512Bf16 => Packed::Bf16(pack_pairs(x, scale)?),
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 => Packed::F32x12(pack(x, scale)?),
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => Packed::F32x6(pack(x, scale)?),
            _ => Packed::F32x4(pack(x, scale)?),
        };
        let m = x.m();
        Ok(Self { scale, m, packed })
    }

    /// `out[m, n] = finish(rows * weight^T)`; `finish.alpha` is the weight's scale.
    ///
    /// # Errors
    /// Where the weight is not FP8.
    pub(crate) fn multiply(
        &self,
        machine: Machine,
        weight: (&Weight, Extent),
        finish: &Finish<'_>,
        out: &mut [f32],
    ) -> Result<(), CheckpointError> {
        let (weight, Extent { n, k, .. }) = weight;
        let extent = Extent { m: self.m, n, k };
        let alpha = self.scale * finish.alpha;
        let finish = &Finish { alpha, ..*finish };
        let right = Widened { weight, k };
        match &self.packed {
            #[cfg(target_arch = "x86_64")]
            Packed::Bf16(left) => {
                let right = super::fp8_x86::Bf16::new(right.weight.codes(), k, machine);
                matmul(&right, left, extent, finish, out)
            }
            #[cfg(target_arch = "x86_64")]
            Packed::F32x12(left) => {
                let right = super::float_x86::Avx512::new(right, machine);
                matmul(&right, left, extent, finish, out)
            }
            #[cfg(target_arch = "x86_64")]
            Packed::F32x6(left) => {
                let right = super::float_x86::Avx2::new(right, machine);
                matmul(&right, left, extent, finish, out)
            }
            Packed::F32x4(left) => matmul(&Portable(right), left, extent, finish, out),
        }
    }
}

/// Groups of R rows, column by column, as the numbers that the codes stand for.
fn pack<const R: usize>(x: rows::Rows<'_>, scale: f32) -> Result<Vec<[f32; R]>, NonFinite> {
    let k = x.k();
    let mut packed = vec![[0.0; R]; x.groups(R) * k];
    x.pack::<R, _, _>(
        &mut packed,
        || vec![0; k],
        |codes, packed, row, x| {
            fp8::quantize(x, scale, codes);
            for (step, code) in packed.iter_mut().zip(codes.iter()) {
                step[row] = E4M3_TO_F32[usize::from(*code)];
            }
        },
    )?;
    Ok(packed)
}

/// Groups of 12 rows, pair by pair of columns.
#[cfg(target_arch = "x86_64")]
fn pack_pairs(x: rows::Rows<'_>, scale: f32) -> Result<Vec<[u32; 12]>, NonFinite> {
    let (k, pairs) = (x.k(), x.k().div_ceil(2));
    let mut packed = vec![[0; 12]; x.groups(12) * pairs];
    x.pack::<12, _, _>(
        &mut packed,
        || vec![0; 2 * pairs],
        |codes, packed, row, x| {
            fp8::quantize(x, scale, &mut codes[..k]);
            for (step, pair) in packed.iter_mut().zip(codes.as_chunks::<2>().0) {
                step[row] = bf16_bits(pair[0]) << 16 | bf16_bits(pair[1]);
            }
        },
    )?;
    Ok(packed)
}

/// The BF16 bits of a code.
#[cfg(target_arch = "x86_64")]
pub(crate) const fn bf16_bits(code: u8) -> u32 {
    e4m3_bits(code) >> 16
}

#[cfg(target_arch = "x86_64")]
const fn e4m3_bits(code: u8) -> u32 {
    E4M3_TO_F32_BITS[code as usize]
}

/// The table's bits, so that constants can be made of it.
#[cfg(target_arch = "x86_64")]
static E4M3_TO_F32_BITS: [u32; 256] = {
    let mut bits = [0; 256];
    let mut code = 0;
    while code < 256 {
        bits[code] = crate::numerics::widen::e4m3_of(code as u8).to_bits();
        code += 1;
    }
    bits
};

/// The definition, one element after the other: `codes` `[m, k]` by `weight` `[n, k]`, sums before any scale.
pub mod reference {
    use super::super::driver::CHUNK;
    use super::E4M3_TO_F32;

    /// The sum for one row of activations and one row of the weight.
    pub fn sum(a: &[u8], b: &[u8]) -> f32 {
        let mut total = 0.0;
        for (a, b) in a.chunks(CHUNK).zip(b.chunks(CHUNK)) {
            let mut chunk = 0.0;
            for (a, b) in a.iter().zip(b) {
                // Exact: two mantissas of four bits.
                let product = E4M3_TO_F32[usize::from(*a)] * E4M3_TO_F32[usize::from(*b)];
                chunk += product;
            }
            total += chunk;
        }
        total
    }
}
