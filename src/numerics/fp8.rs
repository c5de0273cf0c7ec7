//! FP8 per tensor: E4M3 codes under one F32 scale; a number is `E4M3[code] * scale`.
//!
//! Codes are `e4m3(x * (1 / scale))`, the reciprocal rounded to F32 first: what comfy-kitchen's eager backend computes
//! since January 2026 (0.2.7 as well as 0.2.40). Its first version and its GPU kernels divide, `x / scale`, which gives
//! another code where a quotient is within a rounding of a tie.

use super::e4m3::{self, E4M3_TO_F32};
use super::simd::multiversion;

/// `weight_scale` for a tensor whose largest magnitude is `amax`: amax / 448.
///
/// 1 where that has no finite reciprocal (amax below 1.3e-36): every code is ±0 then.
pub fn scale_of(amax: f32) -> f32 {
    let scale = amax / e4m3::MAX;
    if (1.0 / scale).is_finite() {
        scale
    } else {
        1.0
    }
}

multiversion! {
    /// Quantizes finite numbers; `scale` is finite, above 0.
    ///
    /// # Panics
    /// If the lengths differ.
    pub fn quantize(x: &[f32], scale: f32, codes: &mut [u8]) {
        assert_eq!(x.len(), codes.len(), "a code per number");
        let reciprocal = 1.0 / scale;
        for (code, x) in codes.iter_mut().zip(x) {
            *code = e4m3::encode(x * reciprocal);
        }
    }
}

/// The reverse of [`quantize`], rounded once.
///
/// # Panics
/// If the lengths differ.
pub fn dequantize(codes: &[u8], scale: f32, out: &mut [f32]) {
    assert_eq!(out.len(), codes.len(), "a number per code");
    for (out, code) in out.iter_mut().zip(codes) {
        *out = E4M3_TO_F32[usize::from(*code)] * scale;
    }
}

/// What becomes of each E4M3 byte of a weight with `weight_scale` that is quantized again with `scale`.
///
/// Lossless only where the scales are a power of two apart: to keep the bytes and their scale is better.
pub fn requantize(weight_scale: f32, scale: f32) -> [u8; 256] {
    let mut codes = [0; 256];
    quantize(&E4M3_TO_F32.map(|x| x * weight_scale), scale, &mut codes);
    codes
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn tiny_tensors_have_a_usable_scale() {
        for amax in [0.0, f32::from_bits(1), 1e-36, 1e-30, f32::MAX] {
            let scale = scale_of(amax);
            assert!(scale > 0.0 && (1.0 / scale).is_finite(), "{amax}");
        }
    }

    #[test]
    fn a_power_of_two_keeps_the_bytes() {
        let codes = requantize(0.5, 0.5);
        assert!((0..=255u8).all(|code| codes[usize::from(code)] == code));
        let codes = requantize(0.5, 0.25);
        assert_eq!((codes[0x38], codes[0x7e], codes[0xb8]), (0x40, 0x7e, 0xc0));
    }

    proptest! {
        #[test]
        fn what_it_holds_it_keeps(codes in prop::collection::vec(any::<u8>(), 0..70), exponent in -60i32..60) {
            let codes: Vec<u8> = codes.into_iter().filter(|c| c & 0x7f != 0x7f).collect();
            let scale = 2f32.powi(exponent);
            let (mut x, mut again) = (vec![0.0; codes.len()], vec![0; codes.len()]);
            dequantize(&codes, scale, &mut x);
            quantize(&x, scale, &mut again);
            prop_assert_eq!(again, codes);
        }
    }
}
