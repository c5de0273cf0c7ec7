//! F32 to E4M3 (`float8_e4m3fn`), rounding to the nearest, ties to even, saturating.
//!
//! The same bytes as torch's cast after a clamp to ±448. Decoding is [`E4M3_TO_F32`].

use super::simd::multiversion;
pub use super::widen::E4M3_TO_F32;

/// The largest E4M3 number, code 0x7E.
pub const MAX: f32 = 448.0;

/// Bits of the smallest normal E4M3 number, 2^-6.
const MIN_NORMAL: u32 = 121 << 23;

/// One number to its code: infinities and everything beyond ±448 give ±448, NaN gives 0x7F with its sign, -0 stays -0.
#[inline(always)]
pub fn encode(x: f32) -> u8 {
    let bits = x.to_bits();
    let sign = (bits >> 24) & 0x80;
    let magnitude = bits & 0x7fff_ffff;
    let a = magnitude.min(MAX.to_bits());
    // Normal: round the mantissa to 3 bits (a carry moves into the exponent), then rebias 127 to 7.
    let normal = ((a + 0x7_ffff + ((a >> 20) & 1)) >> 20).wrapping_sub(120 << 3);
    // Subnormal: numbers near 2^14 are 2^-9 apart, so the addition rounds to E4M3's smallest step.
    let subnormal = (f32::from_bits(a) + 16_384.0)
        .to_bits()
        .wrapping_sub(16_384f32.to_bits());
    let code = if a < MIN_NORMAL { subnormal } else { normal };
    let is_nan = magnitude > f32::INFINITY.to_bits();
    (sign | if is_nan { 0x7f } else { code }) as u8
}

/// A magnitude to the nearest E4M3 number, as [`encode`] rounds.
#[inline(always)]
pub(crate) fn round(a: f32) -> f32 {
    let a = a.min(MAX);
    let bits = a.to_bits();
    let normal = f32::from_bits((bits + 0x7_ffff + ((bits >> 20) & 1)) & !0xf_ffff);
    let subnormal = (a + 16_384.0) - 16_384.0;
    if bits < MIN_NORMAL { subnormal } else { normal }
}

multiversion! {
    /// [`encode`] over a slice.
    ///
    /// # Panics
    /// If the lengths differ.
    pub fn encode_slice(x: &[f32], codes: &mut [u8]) {
        assert_eq!(x.len(), codes.len(), "a code per number");
        for (code, x) in codes.iter_mut().zip(x) {
            *code = encode(*x);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use proptest::prelude::*;

    /// Brute force: the nearest code, the even one where two are as near.
    fn nearest(x: f32) -> u8 {
        let distance =
            |code: u8| (f64::from(E4M3_TO_F32[usize::from(code)]) - f64::from(x.abs())).abs();
        let best = (0..0x7f)
            .min_by(|a, b| {
                distance(*a)
                    .total_cmp(&distance(*b))
                    .then((a % 2).cmp(&(b % 2)))
            })
            .unwrap();
        best | if x.is_sign_negative() { 0x80 } else { 0 }
    }

    #[test]
    fn every_code_comes_back() {
        for code in 0..=255u8 {
            assert_eq!(encode(E4M3_TO_F32[usize::from(code)]), code, "{code:#x}");
        }
    }

    /// Halfway between neighbours, and one step of F32 to each side.
    #[test]
    fn ties_go_to_the_even_code() {
        for code in 0..0x7eu8 {
            let [low, high] = [code, code + 1].map(|c| E4M3_TO_F32[usize::from(c)]);
            let tie = (low + high) / 2.0;
            assert_eq!(encode(tie), code + code % 2, "{tie}");
            assert_eq!(encode(-tie), 0x80 | (code + code % 2), "-{tie}");
            assert_eq!(encode(tie.next_down()), code, "below {tie}");
            assert_eq!(encode(tie.next_up()), code + 1, "above {tie}");
            for a in [tie, tie.next_down(), tie.next_up()] {
                assert_eq!(round(a), E4M3_TO_F32[usize::from(encode(a))], "{a}");
            }
        }
    }

    #[test]
    fn the_ends_of_the_range() {
        for (x, code) in [
            (0.0, 0),
            (-0.0, 0x80),
            (f32::from_bits(1), 0),
            (449.0, 0x7e),
            (464.0, 0x7e),
            (1e30, 0x7e),
            (f32::INFINITY, 0x7e),
            (f32::NEG_INFINITY, 0xfe),
            (f32::NAN, 0x7f),
            (-f32::NAN, 0xff),
        ] {
            assert_eq!(encode(x), code, "{x}");
        }
    }

    proptest! {
        #[test]
        fn rounds_to_the_nearest(x in prop_oneof![-500f32..500.0, -0.02f32..0.02, any::<f32>()]) {
            prop_assume!(!x.is_nan());
            prop_assert_eq!(encode(x), nearest(x.clamp(-MAX, MAX)));
            prop_assert_eq!(round(x.abs()), E4M3_TO_F32[usize::from(encode(x.abs()))]);
        }

        #[test]
        fn slices_of_any_length(x in prop::collection::vec(any::<f32>(), 0..100)) {
            let mut codes = vec![0; x.len()];
            encode_slice(&x, &mut codes);
            prop_assert!(codes.iter().zip(&x).all(|(c, x)| *c == encode(*x)));
        }
    }
}
