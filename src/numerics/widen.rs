//! Stored numbers to F32: every format that a checkpoint may hold, exactly.
//!
//! FP8 goes through a table of 256 floats; BF16 is a shift; F16 is `half`'s conversion (F16C where present).

use half::f16;
use half::slice::HalfFloatSliceExt;
use safetensors::Dtype;

use super::simd::multiversion;

/// The number of one E4M3 code.
pub(crate) const fn e4m3_of(bits: u8) -> f32 {
    let sign = if bits & 0x80 != 0 { 0x8000_0000 } else { 0 };
    let (exponent, mantissa) = ((bits >> 3) & 15, (bits & 7) as u32);
    if exponent == 15 && mantissa == 7 {
        return f32::from_bits(0x7fc0_0000 | sign);
    }
    if exponent == 0 {
        // Subnormal: mantissa * 2^-9, exact in F32.
        let magnitude = mantissa as f32 * 0.001_953_125;
        return f32::from_bits(magnitude.to_bits() | sign);
    }
    f32::from_bits(sign | ((exponent as u32 + 127 - 7) << 23) | (mantissa << 20))
}

const fn e5m2(bits: u8) -> f32 {
    let sign = if bits & 0x80 != 0 { 0x8000_0000 } else { 0 };
    let (exponent, mantissa) = ((bits >> 2) & 31, (bits & 3) as u32);
    match exponent {
        31 if mantissa == 0 => f32::from_bits(0x7f80_0000 | sign),
        31 => f32::from_bits(0x7fc0_0000 | sign),
        0 => {
            // Subnormal: mantissa * 2^-16, exact in F32.
            let magnitude = mantissa as f32 * 0.000_015_258_789;
            f32::from_bits(magnitude.to_bits() | sign)
        }
        _ => f32::from_bits(sign | ((exponent as u32 + 127 - 15) << 23) | (mantissa << 21)),
    }
}

/// E4M3 (`float8_e4m3fn`: bias 7, no infinity, 0x7F and 0xFF are NaN) to F32 by code.
pub static E4M3_TO_F32: [f32; 256] = {
    let mut table = [0.0; 256];
    let mut code = 0;
    while code < 256 {
        table[code] = e4m3_of(code as u8);
        code += 1;
    }
    table
};

/// E5M2 (`float8_e5m2`: bias 15, IEEE-like infinity and NaN) to F32 by code.
pub static E5M2_TO_F32: [f32; 256] = {
    let mut table = [0.0; 256];
    let mut code = 0;
    while code < 256 {
        table[code] = e5m2(code as u8);
        code += 1;
    }
    table
};

/// Bytes per element of the dtypes that [`widen`] reads; `None` for the others.
pub fn width(dtype: Dtype) -> Option<usize> {
    match dtype {
        Dtype::F32 => Some(4),
        Dtype::BF16 | Dtype::F16 => Some(2),
        Dtype::F8_E4M3 | Dtype::F8_E5M2 => Some(1),
        _ => None,
    }
}

/// Widens little-endian `bytes` of `dtype` into `out`, exactly.
///
/// Returns false, leaving `out` alone, where `dtype` has no F32 reading or the lengths do not fit.
pub fn widen(dtype: Dtype, bytes: &[u8], out: &mut [f32]) -> bool {
    if width(dtype).is_none_or(|w| bytes.len() != w * out.len()) {
        return false;
    }
    match dtype {
        Dtype::F32 => {
            for (o, b) in out.iter_mut().zip(bytes.as_chunks::<4>().0) {
                *o = f32::from_le_bytes(*b);
            }
        }
        Dtype::BF16 => {
            widen_bf16(bytes.as_chunks::<2>().0, out);
        }
        Dtype::F16 => {
            // `half` converts slices with F16C where the machine has it; chunks keep the copy small.
            let mut halves = [f16::ZERO; 64];
            for (o, b) in out.chunks_mut(64).zip(bytes.chunks(128)) {
                let halves = &mut halves[..o.len()];
                for (h, pair) in halves.iter_mut().zip(b.as_chunks::<2>().0) {
                    *h = f16::from_le_bytes(*pair);
                }
                halves.convert_to_f32_slice(o);
            }
        }
        Dtype::F8_E4M3 => {
            widen_e4m3(bytes, out);
        }
        Dtype::F8_E5M2 => {
            for (o, b) in out.iter_mut().zip(bytes) {
                *o = E5M2_TO_F32[usize::from(*b)];
            }
        }
        _ => return false,
    }
    true
}

multiversion! {
    /// BF16 is the upper half of an F32.
    fn widen_bf16(halves: &[[u8; 2]], out: &mut [f32]) {
        for (o, half) in out.iter_mut().zip(halves) {
            *o = f32::from_bits(u32::from(u16::from_le_bytes(*half)) << 16);
        }
    }
}

multiversion! {
    /// E4M3 by arithmetic, which unlike a table runs in vectors: an E4M3 number's bits, moved to where F32 has exponent
    /// and mantissa, are that number times 2^-120, subnormals included.
    fn widen_e4m3(codes: &[u8], out: &mut [f32]) {
        const SCALE: f32 = f32::from_bits((127 + 120) << 23);
        for (o, code) in out.iter_mut().zip(codes) {
            let magnitude = u32::from(code & 0x7f);
            let number = (f32::from_bits(magnitude << 20) * SCALE).to_bits();
            let bits = if magnitude == 0x7f { 0x7fc0_0000 } else { number };
            *o = f32::from_bits(bits | u32::from(code & 0x80) << 24);
        }
    }
}

multiversion! {
    /// Whether one of the bytes has all bits of `mask`.
    fn any_has(bytes: &[u8], mask: u8) -> bool {
        bytes.iter().fold(false, |any, b| any | (b & mask == mask))
    }
}

multiversion! {
    /// The same for little-endian halves.
    fn any_half_has(halves: &[[u8; 2]], mask: u16) -> bool {
        halves.iter().fold(false, |any, h| any | (u16::from_le_bytes(*h) & mask == mask))
    }
}

/// The first of the little-endian numbers in `bytes` that is NaN or infinite; none where `dtype` is no float.
pub fn first_non_finite(dtype: Dtype, bytes: &[u8]) -> Option<usize> {
    match dtype {
        // E4M3 has no infinity; its two NaNs have all bits below the sign.
        Dtype::F8_E4M3 | Dtype::F8_E5M2 => {
            let mask = if dtype == Dtype::F8_E4M3 { 0x7f } else { 0x7c };
            let found = || bytes.iter().position(|b| b & mask == mask);
            any_has(bytes, mask).then(found)?
        }
        Dtype::BF16 | Dtype::F16 => {
            let mask = if dtype == Dtype::BF16 { 0x7f80 } else { 0x7c00 };
            let halves = bytes.as_chunks::<2>().0;
            let found = || {
                let mut halves = halves.iter().map(|h| u16::from_le_bytes(*h));
                halves.position(|h| h & mask == mask)
            };
            any_half_has(halves, mask).then(found)?
        }
        Dtype::F32 => {
            let mut numbers = bytes.as_chunks::<4>().0.iter();
            numbers.position(|b| !f32::from_le_bytes(*b).is_finite())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Values from the OCP 8-bit floating point specification, table 1.
    #[test]
    fn fp8_landmarks() {
        for (code, value) in [
            (0x00, 0.0),
            (0x01, 2f32.powi(-9)),
            (0x07, 7.0 * 2f32.powi(-9)),
            (0x08, 2f32.powi(-6)),
            (0x38, 1.0),
            (0x7e, 448.0),
            (0xfe, -448.0),
        ] {
            assert_eq!(E4M3_TO_F32[code], value, "E4M3 {code:#x}");
        }
        assert!(E4M3_TO_F32[0x7f].is_nan() && E4M3_TO_F32[0xff].is_nan());
        assert!(E4M3_TO_F32[0x80] == 0.0 && E4M3_TO_F32[0x80].is_sign_negative());
        for (code, value) in [
            (0x01, 2f32.powi(-16)),
            (0x04, 2f32.powi(-14)),
            (0x3c, 1.0),
            (0x7b, 57344.0),
            (0x7c, f32::INFINITY),
        ] {
            assert_eq!(E5M2_TO_F32[code], value, "E5M2 {code:#x}");
        }
        assert!(E5M2_TO_F32[0x7e].is_nan());
    }

    #[test]
    fn halves_agree_with_the_half_crate() {
        let halves: Vec<u16> = (0..=u16::MAX).collect();
        let bytes: Vec<u8> = halves.iter().flat_map(|h| h.to_le_bytes()).collect();
        let mut out = vec![0.0; halves.len()];
        assert!(widen(Dtype::F16, &bytes, &mut out));
        for (h, o) in halves.iter().zip(&out) {
            let expected = f16::from_bits(*h).to_f32();
            assert!(o.to_bits() == expected.to_bits() || (o.is_nan() && expected.is_nan()));
        }
        assert!(widen(Dtype::BF16, &bytes, &mut out));
        for (h, o) in halves.iter().zip(&out) {
            let expected = half::bf16::from_bits(*h).to_f32();
            assert!(o.to_bits() == expected.to_bits() || (o.is_nan() && expected.is_nan()));
        }
    }

    #[test]
    fn numbers_that_are_none_are_found() {
        let codes: Vec<u8> = (0..=u8::MAX).collect();
        let halves: Vec<u8> = (0..=u16::MAX).flat_map(u16::to_le_bytes).collect();
        for (dtype, all) in [
            (Dtype::F8_E4M3, &codes),
            (Dtype::F8_E5M2, &codes),
            (Dtype::F16, &halves),
            (Dtype::BF16, &halves),
        ] {
            for one in all.chunks(all.len() / if all.len() == 256 { 256 } else { 65_536 }) {
                let mut value = [0.0];
                assert!(widen(dtype, one, &mut value));
                let zeros = vec![0; one.len()];
                let found = first_non_finite(dtype, &[&zeros, one].concat());
                assert_eq!(
                    found,
                    (!value[0].is_finite()).then_some(1),
                    "{dtype:?} {one:?}"
                );
            }
        }
        let f32s = [1.0, f32::INFINITY].map(f32::to_le_bytes).concat();
        assert_eq!(first_non_finite(Dtype::F32, &f32s), Some(1));
        assert_eq!(first_non_finite(Dtype::U8, &[0xff; 4]), None);
    }

    #[test]
    fn wrong_lengths_are_refused() {
        assert!(!widen(Dtype::F32, &[0; 7], &mut [0.0; 2]));
        assert!(!widen(Dtype::I64, &[0; 8], &mut [0.0; 1]));
    }
}
