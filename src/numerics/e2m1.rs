//! F32 to E2M1, the four-bit element of NVFP4, and how two codes share a byte.
//!
//! A code is a sign bit, two exponent bits (bias 1) and a mantissa bit. A byte holds the code of an even column in its
//! high nibble and its right neighbour's in the low one: ComfyUI's order, the reverse of ModelOpt's and torch's.

/// The largest E2M1 number, codes 7 and 15.
pub const MAX: f32 = 6.0;

/// The numbers by code.
pub const VALUES: [f32; 16] = [
    0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0,
];

/// One number to its code (0 to 15): to the nearest, ties to the even code, saturating at ±6.
///
/// Zero keeps its sign, also where a small number became zero. NaN gives ±6: callers refuse it before.
#[inline(always)]
pub fn encode(v: f32) -> u8 {
    let bits = v.to_bits();
    let sign = (bits >> 28) & 8;
    let a = (bits & 0x7fff_ffff).min(MAX.to_bits());
    // Normal: round the mantissa to 1 bit (a carry moves into the exponent), then rebias 127 to 1.
    let normal = ((a + 0x1f_ffff + ((a >> 22) & 1)) >> 22).wrapping_sub(126 << 1);
    // Below 1: numbers near 2^22 are 0.5 apart, so the addition rounds to E2M1's smallest step.
    let subnormal = (f32::from_bits(a) + 4_194_304.0)
        .to_bits()
        .wrapping_sub(4_194_304f32.to_bits());
    let code = if a < 1f32.to_bits() {
        subnormal
    } else {
        normal
    };
    (sign | code) as u8
}

/// A magnitude to the nearest E2M1 number, as [`encode`] rounds; NaN becomes 6.
#[inline(always)]
pub(crate) fn round(a: f32) -> f32 {
    let a = a.min(MAX);
    let bits = a.to_bits();
    let normal = f32::from_bits((bits + 0x1f_ffff + ((bits >> 22) & 1)) & !0x3f_ffff);
    let subnormal = (a + 4_194_304.0) - 4_194_304.0;
    if bits < 1f32.to_bits() {
        subnormal
    } else {
        normal
    }
}

/// Packs codes in pairs, the even column in the high nibble.
///
/// # Panics
/// If `codes` does not hold two codes for each byte of `packed`.
pub fn pack(codes: &[u8], packed: &mut [u8]) {
    assert_eq!(codes.len(), 2 * packed.len(), "two codes per byte");
    for (byte, [even, odd]) in packed.iter_mut().zip(codes.as_chunks::<2>().0) {
        *byte = (even << 4) | (odd & 15);
    }
}

/// The reverse of [`pack`].
///
/// # Panics
/// If `codes` has no room for two codes for each byte of `packed`.
pub fn unpack(packed: &[u8], codes: &mut [u8]) {
    assert_eq!(codes.len(), 2 * packed.len(), "two codes per byte");
    for ([even, odd], byte) in codes.as_chunks_mut::<2>().0.iter_mut().zip(packed) {
        (*even, *odd) = (byte >> 4, byte & 15);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use proptest::prelude::*;

    /// Brute force: the nearest code, the even one where two are as near.
    fn nearest(v: f32) -> u8 {
        let distance = |code: u8| (VALUES[usize::from(code)] - v.abs()).abs();
        let best = (0..8)
            .min_by(|a, b| {
                distance(*a)
                    .total_cmp(&distance(*b))
                    .then((a % 2).cmp(&(b % 2)))
            })
            .unwrap();
        best | if v.is_sign_negative() { 8 } else { 0 }
    }

    #[test]
    fn every_code_comes_back() {
        for code in 0..16u8 {
            assert_eq!(encode(VALUES[usize::from(code)]), code);
        }
    }

    /// The seven midpoints of the OCP specification's E2M1, and one step of F32 to each side.
    #[test]
    fn ties_go_to_the_even_code() {
        for (tie, even, below, above) in [
            (0.25f32, 0, 0, 1),
            (0.75, 2, 1, 2),
            (1.25, 2, 2, 3),
            (1.75, 4, 3, 4),
            (2.5, 4, 4, 5),
            (3.5, 6, 5, 6),
            (5.0, 6, 6, 7),
        ] {
            assert_eq!(encode(tie), even, "{tie}");
            assert_eq!(encode(-tie), 8 | even, "-{tie}");
            assert_eq!(encode(tie.next_down()), below, "below {tie}");
            assert_eq!(encode(tie.next_up()), above, "above {tie}");
            for a in [tie, tie.next_down(), tie.next_up()] {
                assert_eq!(round(a), VALUES[usize::from(encode(a))], "{a}");
            }
        }
    }

    #[test]
    fn the_ends_of_the_range() {
        for (v, code) in [
            (-0.0, 8),
            (-0.1, 8),
            (1e-30, 0),
            (7.0, 7),
            (f32::INFINITY, 7),
            (f32::NEG_INFINITY, 15),
        ] {
            assert_eq!(encode(v), code, "{v}");
        }
        assert_eq!((round(f32::NAN), round(f32::INFINITY)), (6.0, 6.0));
    }

    proptest! {
        #[test]
        fn rounds_to_the_nearest(v in prop_oneof![-8f32..8.0, any::<f32>()]) {
            prop_assume!(!v.is_nan());
            prop_assert_eq!(encode(v), nearest(v.clamp(-MAX, MAX)));
            prop_assert_eq!(round(v.abs()), VALUES[usize::from(encode(v.abs()))]);
        }

        #[test]
        fn packing_round_trips(packed in prop::collection::vec(any::<u8>(), 0..70)) {
            let mut codes = vec![0; 2 * packed.len()];
            unpack(&packed, &mut codes);
            prop_assert!(codes.iter().all(|code| *code < 16));
            prop_assert!(packed.iter().enumerate().all(|(i, byte)| codes[2 * i] == byte >> 4));
            let mut again = vec![0; packed.len()];
            pack(&codes, &mut again);
            prop_assert_eq!(again, packed);
        }
    }
}
