//! NVFP4: E2M1 codes in blocks of 16 along a row, an E4M3 scale for each block, one F32 scale for the tensor.
//!
//! A number is `VALUES[code] * block_scale * scale_2`. Rows are whole blocks; block scales are row-major here
//! (`swizzle` puts them into tiles). The order of operations is that of comfy-kitchen's eager backend on a CPU, every
//! step rounded to F32: `scale = e4m3(min(max / 6 / scale_2, 448))`, `total = scale_2 * scale`, `code = e2m1(x / total)`.

use super::simd::multiversion;
use super::{e2m1, e4m3};

/// Numbers under one block scale.
pub const BLOCK: usize = 16;

/// How a block's scale is chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlockRule {
    /// The largest number of the block becomes 6, the largest code.
    Six,
    /// It becomes 6 or 4, whichever leaves the smaller squared error: steps near 4 are finer than steps near 6
    /// ("four over six", as comfy-dit-quantizer's `--method 4/6`).
    FourSix,
}

/// What the scale of a block makes of its largest number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Top {
    Six,
    Four,
}

impl Top {
    #[inline(always)]
    pub(crate) fn value(self) -> f32 {
        match self {
            Self::Six => 6.0,
            Self::Four => 4.0,
        }
    }
}

/// `weight_scale_2` for a tensor whose largest magnitude is `amax`: amax / (448 * 6).
///
/// 1 where that is zero: every block scale and code is 0 then, and the stored scale is still a valid one.
pub fn scale_2_of(amax: f32) -> f32 {
    match amax / (e4m3::MAX * e2m1::MAX) {
        0.0 => 1.0,
        scale => scale,
    }
}

/// A block's scale as it is stored, and that times `scale_2`, by which the numbers are divided.
#[inline(always)]
pub(crate) fn block_scale(max: f32, top: Top, scale_2: f32) -> (u8, f32) {
    let code = e4m3::encode((max / top.value() / scale_2).min(e4m3::MAX));
    (code, total(code, scale_2))
}

/// What a code of 1 is worth in a block: rounded once, as with comfy-kitchen's F32 output.
#[inline(always)]
pub(crate) fn total(scale: u8, scale_2: f32) -> f32 {
    scale_2 * e4m3::E4M3_TO_F32[usize::from(scale)]
}

/// The code of a number in a block of the given total scale. A block that rounds to nothing has no signs either.
#[inline(always)]
pub(crate) fn code(x: f32, total: f32, top: Top) -> u8 {
    if total == 0.0 {
        return 0;
    }
    e2m1::encode((x / total).clamp(-top.value(), top.value()))
}

/// The squared error by which four-over-six judges a scale for one number. Here ties go to the smaller value, not to
/// the even code, and a total of 0 counts as 1: so does comfy-dit-quantizer.
#[inline(always)]
pub(crate) fn trial_error(x: f32, total: f32, top: Top) -> f32 {
    let total = if total == 0.0 { 1.0 } else { total };
    let v = (x / total).clamp(-top.value(), top.value());
    let a = v.abs();
    let step = |above: bool, by: f32| if above { by } else { 0.0 };
    let magnitude = step(a > 0.25, 0.5)
        + step(a > 0.75, 0.5)
        + step(a > 1.25, 0.5)
        + step(a > 1.75, 0.5)
        + step(a > 2.5, 1.0)
        + step(a > 3.5, 1.0)
        + step(a > 5.0, 2.0);
    let error = magnitude.copysign(v) * total - x;
    error * error
}

/// Whether the differences `trial_error(4) - trial_error(6)` of a block are in favour of 4.
///
/// The peer compares two F32 means, whose order of summation depends on the machine. Ours is the sum of the
/// differences in F64, in four lanes: exact enough that only equal errors are equal, and those stay with 6.
#[inline(always)]
pub(crate) fn four_wins(differences: &[f64; BLOCK]) -> bool {
    let mut lanes = [0.0; 4];
    for four in differences.as_chunks::<4>().0 {
        for (lane, difference) in lanes.iter_mut().zip(four) {
            *lane += difference;
        }
    }
    (lanes[0] + lanes[2]) + (lanes[1] + lanes[3]) < 0.0
}

#[inline(always)]
pub(crate) fn block_max(x: &[f32; BLOCK]) -> f32 {
    let mut max = 0;
    for x in x {
        max = max.max(x.to_bits() & 0x7fff_ffff);
    }
    f32::from_bits(max)
}

/// A block's scale under `rule`: the stored byte, the total scale, and what the largest number becomes.
#[inline(always)]
fn choose(x: &[f32; BLOCK], scale_2: f32, rule: BlockRule) -> (u8, f32, Top) {
    let max = block_max(x);
    let (six, total_six) = block_scale(max, Top::Six, scale_2);
    if rule == BlockRule::FourSix {
        let (four, total_four) = block_scale(max, Top::Four, scale_2);
        let mut differences = [0.0; BLOCK];
        for (difference, x) in differences.iter_mut().zip(x) {
            *difference = f64::from(trial_error(*x, total_four, Top::Four))
                - f64::from(trial_error(*x, total_six, Top::Six));
        }
        if four_wins(&differences) {
            return (four, total_four, Top::Four);
        }
    }
    (six, total_six, Top::Six)
}

/// Quantizes whole rows, K a multiple of 16.
///
/// `x`: [rows, K] finite numbers; `scale_2`: finite, above 0; `codes`: [rows, K/2] packed codes; `scales`: [rows, K/16]
/// E4M3 block scales, row-major.
///
/// # Panics
/// If the sizes do not fit together.
pub fn quantize(x: &[f32], scale_2: f32, rule: BlockRule, codes: &mut [u8], scales: &mut [u8]) {
    check(x.len(), codes, scales);
    match rule {
        BlockRule::Six => quantize_six(x, scale_2, codes, scales),
        BlockRule::FourSix => quantize_four_six(x, scale_2, codes, scales),
    }
}

multiversion! {
    fn quantize_six(x: &[f32], scale_2: f32, codes: &mut [u8], scales: &mut [u8]) {
        quantize_blocks(x, scale_2, BlockRule::Six, (codes, scales));
    }
}

multiversion! {
    fn quantize_four_six(x: &[f32], scale_2: f32, codes: &mut [u8], scales: &mut [u8]) {
        quantize_blocks(x, scale_2, BlockRule::FourSix, (codes, scales));
    }
}

#[inline(always)]
fn quantize_blocks(x: &[f32], scale_2: f32, rule: BlockRule, out: (&mut [u8], &mut [u8])) {
    let (codes, scales) = out;
    let blocks = x.as_chunks::<BLOCK>().0;
    let packed = codes.as_chunks_mut::<{ BLOCK / 2 }>().0;
    for ((x, packed), scale) in blocks.iter().zip(packed).zip(scales) {
        let (byte, total, top) = choose(x, scale_2, rule);
        *scale = byte;
        let mut codes = [0; BLOCK];
        for (code, x) in codes.iter_mut().zip(x) {
            *code = self::code(*x, total, top);
        }
        for (byte, [even, odd]) in packed.iter_mut().zip(codes.as_chunks::<2>().0) {
            *byte = (even << 4) | odd;
        }
    }
}

/// The reverse of [`quantize`]: `out` [rows, K] becomes `VALUES[code] * (scale_2 * block_scale)`, the rounding of
/// comfy-kitchen's eager backend with F32 output.
///
/// # Panics
/// If the sizes do not fit together.
pub fn dequantize(codes: &[u8], scales: &[u8], scale_2: f32, out: &mut [f32]) {
    check(out.len(), codes, scales);
    dequantize_blocks(codes, scales, scale_2, out);
}

multiversion! {
    fn dequantize_blocks(codes: &[u8], scales: &[u8], scale_2: f32, out: &mut [f32]) {
        let packed = codes.as_chunks::<{ BLOCK / 2 }>().0;
        let blocks = out.as_chunks_mut::<BLOCK>().0;
        for ((out, packed), scale) in blocks.iter_mut().zip(packed).zip(scales) {
            let total = total(*scale, scale_2);
            for (pair, byte) in out.as_chunks_mut::<2>().0.iter_mut().zip(packed) {
                *pair = PAIRS[usize::from(*byte)].map(|v| v * total);
            }
        }
    }
}

/// The two numbers of a packed byte.
static PAIRS: [[f32; 2]; 256] = {
    let mut pairs = [[0.0; 2]; 256];
    let mut byte = 0;
    while byte < 256 {
        pairs[byte] = [e2m1::VALUES[byte >> 4], e2m1::VALUES[byte & 15]];
        byte += 1;
    }
    pairs
};

pub(crate) fn check(numbers: usize, codes: &[u8], scales: &[u8]) {
    assert_eq!(numbers % BLOCK, 0, "whole blocks of 16");
    assert_eq!(codes.len(), numbers / 2, "half a byte per number");
    assert_eq!(scales.len(), numbers / BLOCK, "a scale per block");
}

/// The same in plain loops, one number after the other: what the fast paths are held to.
pub mod reference {
    use super::{BLOCK, BlockRule, check, choose, code, total};
    use crate::numerics::e2m1;

    /// [`quantize`](super::quantize).
    ///
    /// # Panics
    /// If the sizes do not fit together.
    pub fn quantize(x: &[f32], scale_2: f32, rule: BlockRule, codes: &mut [u8], scales: &mut [u8]) {
        check(x.len(), codes, scales);
        for (block, x) in x.as_chunks::<BLOCK>().0.iter().enumerate() {
            let (scale, total, top) = choose(x, scale_2, rule);
            scales[block] = scale;
            let codes = &mut codes[block * BLOCK / 2..][..BLOCK / 2];
            e2m1::pack(&x.map(|x| code(x, total, top)), codes);
        }
    }

    /// [`dequantize`](super::dequantize).
    ///
    /// # Panics
    /// If the sizes do not fit together.
    pub fn dequantize(codes: &[u8], scales: &[u8], scale_2: f32, out: &mut [f32]) {
        check(out.len(), codes, scales);
        for (i, out) in out.iter_mut().enumerate() {
            let byte = codes[i / 2];
            let code = if i % 2 == 0 { byte >> 4 } else { byte & 15 };
            *out = e2m1::VALUES[usize::from(code)] * total(scales[i / BLOCK], scale_2);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    type Quantize = fn(&[f32], f32, BlockRule, &mut [u8], &mut [u8]);

    fn run(quantize: Quantize, x: &[f32], scale_2: f32, rule: BlockRule) -> (Vec<u8>, Vec<u8>) {
        let (mut codes, mut scales) = (vec![0xaa; x.len() / 2], vec![0xaa; x.len() / BLOCK]);
        quantize(x, scale_2, rule, &mut codes, &mut scales);
        (codes, scales)
    }

    fn amax(x: &[f32]) -> f32 {
        x.iter().fold(0.0, |m, x| m.max(x.abs()))
    }

    /// Whole blocks of numbers of very different sizes, zeros of both signs among them.
    fn rows() -> impl Strategy<Value = Vec<f32>> {
        let number = prop_oneof![
            4 => -1f32..1.0,
            2 => -1e-3f32..1e-3,
            1 => prop::sample::select(vec![0.0f32, -0.0, 6.0, -5.0, 2.5, 1e-40, -1e-30]),
        ];
        prop::collection::vec(prop::collection::vec(number, BLOCK), 0..9)
            .prop_map(|blocks| blocks.concat())
    }

    #[test]
    fn a_zero_tensor_has_scale_one_and_nothing_else() {
        assert_eq!(scale_2_of(0.0), 1.0);
        assert_eq!(scale_2_of(f32::from_bits(1)), 1.0);
        let x = [[0.0; BLOCK], [-0.0; BLOCK]].concat();
        for rule in [BlockRule::Six, BlockRule::FourSix] {
            assert_eq!(run(quantize, &x, 1.0, rule), (vec![0; 16], vec![0; 2]));
        }
    }

    proptest! {
        #[test]
        fn fast_equals_reference(x in rows(), ratio in 0.5f32..2.0) {
            let scale_2 = scale_2_of(amax(&x)) * ratio;
            for rule in [BlockRule::Six, BlockRule::FourSix] {
                let (codes, scales) = run(quantize, &x, scale_2, rule);
                prop_assert_eq!(&(codes.clone(), scales.clone()), &run(reference::quantize, &x, scale_2, rule));
                let [mut fast, mut slow] = [vec![0.0f32; x.len()], vec![1.0f32; x.len()]];
                dequantize(&codes, &scales, scale_2, &mut fast);
                reference::dequantize(&codes, &scales, scale_2, &mut slow);
                prop_assert!(fast.iter().zip(&slow).all(|(a, b)| a.to_bits() == b.to_bits()));
            }
        }

        /// Numbers that NVFP4 holds exactly stay as they are: blocks whose largest code is 6 choose the same scale again.
        #[test]
        fn what_it_holds_it_keeps(
            mut codes in prop::collection::vec(any::<u8>(), 8..80),
            scale in 0x08u8..0x7f,
            exponent in -20i32..4,
        ) {
            codes.truncate(codes.len() / 8 * 8);
            for block in codes.chunks_exact_mut(8) {
                block[3] |= 7;
            }
            let scales = vec![scale; codes.len() / 8];
            let scale_2 = 2f32.powi(exponent);
            let mut x = vec![0.0; 2 * codes.len()];
            dequantize(&codes, &scales, scale_2, &mut x);
            prop_assert_eq!(run(quantize, &x, scale_2, BlockRule::Six), (codes, scales));
        }

        /// No number is further from its decoded one than half a step of its block's largest, plus what the top lost:
        /// where the largest number of a tensor becomes 4, its scale would be 672 and is 448, so a third is cut off.
        #[test]
        fn errors_are_bounded(x in rows()) {
            let scale_2 = scale_2_of(amax(&x));
            for (rule, share) in [(BlockRule::Six, 0.2), (BlockRule::FourSix, 0.333_34)] {
                let (codes, scales) = run(quantize, &x, scale_2, rule);
                let mut out = vec![0.0; x.len()];
                dequantize(&codes, &scales, scale_2, &mut out);
                for (x, out) in x.chunks(BLOCK).zip(out.chunks(BLOCK)) {
                    let bound = amax(x) * share + scale_2 * 2f32.powi(-10) * 6.0;
                    prop_assert!(x.iter().zip(out).all(|(x, out)| (x - out).abs() <= bound));
                }
            }
        }
    }
}
