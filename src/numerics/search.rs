//! Which scale loses least: comfy-dit-quantizer's search over a few ratios around the scale that the largest number asks for.
//!
//! Every ratio is tried on the whole tensor and the smallest squared error wins, the first of equals. Errors are summed
//! in F64 (comfy-dit-quantizer takes F32 means: the winners are the same unless two errors are within F32's rounding).
//! An E4M3 weight needs its [`Histogram`] only; others go through a [`Search`] once, for all ratios together.

use super::e4m3_source::{Histogram, Tables};
use super::error::{ErrorStats, LANES, RUN, fold, fp8_limit};
use super::nvfp4::{self, BLOCK, Top, block_max, block_scale};
use super::simd::multiversion;
use super::{e2m1, e4m3, fp8};

/// How the scale of a tensor is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// From the largest number alone.
    Amax,
    /// The ratio with the smallest squared error.
    Mse,
    /// From the largest number alone, then 4 or 6 for each NVFP4 block. For FP8 the same as `Amax`.
    FourSix,
}

/// The format that a tensor is quantized to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// NVFP4, whose scale is `weight_scale_2`.
    Nvfp4,
    /// FP8 E4M3, whose scale is `weight_scale`.
    Fp8,
}

/// The ratios tried for NVFP4, in this order.
pub const NVFP4_RATIOS: [f32; 7] = [0.90, 0.95, 0.975, 1.0, 1.025, 1.05, 1.10];
/// The ratios tried for FP8, in this order.
pub const FP8_RATIOS: [f32; 5] = [0.95, 0.975, 1.0, 1.025, 1.05];

/// A scale and the error it makes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Candidate {
    /// Relative to the scale that the largest number asks for.
    pub ratio: f32,
    /// `weight_scale_2` (NVFP4) or `weight_scale` (FP8).
    pub scale: f32,
    /// The sum of squared errors over the numbers seen.
    pub noise: f64,
}

impl Format {
    /// The scale for a tensor whose largest magnitude is `amax`.
    pub fn scale_of(self, amax: f32) -> f32 {
        match self {
            Self::Nvfp4 => nvfp4::scale_2_of(amax),
            Self::Fp8 => fp8::scale_of(amax),
        }
    }

    /// What a search tries, no number seen yet. A zero tensor has nothing to search for.
    fn candidates(self, amax: f32) -> Vec<Candidate> {
        let base = self.scale_of(amax);
        let ratios: &[f32] = match self {
            _ if amax == 0.0 => &[1.0],
            Self::Nvfp4 => &NVFP4_RATIOS,
            Self::Fp8 => &FP8_RATIOS,
        };
        let candidate = |ratio: &f32| Candidate {
            ratio: *ratio,
            scale: base * ratio,
            noise: 0.0,
        };
        ratios.iter().map(candidate).collect()
    }
}

/// The largest magnitude; NaN if one of the numbers is NaN, infinite if one is.
pub fn amax(x: &[f32]) -> f32 {
    f32::from_bits(amax_bits(x))
}

multiversion! {
    /// As bits, magnitudes are in order, and NaN is above all of them.
    fn amax_bits(x: &[f32]) -> u32 {
        let mut max = 0;
        for x in x {
            max = max.max(x.to_bits() & 0x7fff_ffff);
        }
        max
    }
}

/// The errors of all ratios, from one pass over a tensor.
///
/// F64 sums depend on their order. For a result that does not depend on threads, give each fixed chunk of rows its own
/// search (`add` once) and [`merge`](Search::merge) them in the order of the rows.
#[derive(Clone, Debug)]
pub struct Search {
    format: Format,
    candidates: Vec<Candidate>,
}

impl Search {
    /// A search for a tensor whose largest magnitude is `amax`, a finite number.
    pub fn new(format: Format, amax: f32) -> Self {
        Self {
            format,
            candidates: format.candidates(amax),
        }
    }

    /// Adds the errors of whole rows, K a multiple of 16 for NVFP4.
    ///
    /// # Panics
    /// If `rows` is not whole blocks.
    pub fn add(&mut self, rows: &[f32]) {
        for part in rows.chunks(RUN * BLOCK) {
            for candidate in &mut self.candidates {
                candidate.noise += match self.format {
                    Format::Nvfp4 => nvfp4_noise(part, candidate.scale),
                    Format::Fp8 => fp8_noise(part, candidate.scale),
                };
            }
        }
    }

    /// Adds the errors of another part of the same tensor.
    pub fn merge(&mut self, other: &Self) {
        for (candidate, other) in self.candidates.iter_mut().zip(&other.candidates) {
            candidate.noise += other.noise;
        }
    }

    /// Every ratio with its error.
    pub fn candidates(&self) -> &[Candidate] {
        &self.candidates
    }

    /// The ratio with the smallest error, the first of equals.
    pub fn best(&self) -> Candidate {
        best(&self.candidates)
    }
}

/// The same search for an E4M3 weight `E4M3[byte] * weight_scale` that was counted.
pub fn search_e4m3(format: Format, histogram: &Histogram, weight_scale: f32) -> Vec<Candidate> {
    let amax = e4m3::E4M3_TO_F32[usize::from(histogram.largest())] * weight_scale;
    let mut candidates = format.candidates(amax);
    for candidate in &mut candidates {
        let stats = match format {
            Format::Nvfp4 => Tables::new(candidate.scale, weight_scale).stats(histogram),
            Format::Fp8 => fp8_stats(histogram, weight_scale, candidate.scale),
        };
        candidate.noise = stats.noise;
    }
    candidates
}

/// The candidate with the smallest error, the first of equals; scale 1 if there is none.
pub fn best(candidates: &[Candidate]) -> Candidate {
    let mut best = Candidate {
        ratio: 1.0,
        scale: 1.0,
        noise: f64::INFINITY,
    };
    for candidate in candidates {
        if candidate.noise < best.noise {
            best = *candidate;
        }
    }
    best
}

/// The exact error of an E4M3 weight that becomes FP8 of another scale.
pub fn fp8_stats(histogram: &Histogram, weight_scale: f32, scale: f32) -> ErrorStats {
    let codes = fp8::requantize(weight_scale, scale);
    let mut stats = ErrorStats::default();
    for (magnitude, count) in histogram.magnitudes().into_iter().enumerate() {
        let x = e4m3::E4M3_TO_F32[magnitude] * weight_scale;
        let decoded = e4m3::E4M3_TO_F32[usize::from(codes[magnitude])] * scale;
        if count > 0 {
            stats.add(x, decoded, fp8_limit(scale), count);
        }
    }
    stats
}

multiversion! {
    /// The squared error of whole blocks under one `scale_2`.
    fn nvfp4_noise(x: &[f32], scale_2: f32) -> f64 {
        let (blocks, rest) = x.as_chunks::<BLOCK>();
        assert!(rest.is_empty(), "whole blocks of 16");
        let mut lanes = [0.0; LANES];
        for block in blocks {
            let (_, total) = block_scale(block_max(block), Top::Six, scale_2);
            for x in block.as_chunks::<LANES>().0 {
                for (lane, x) in lanes.iter_mut().zip(x) {
                    // A total of 0 makes quotients infinite or NaN: rounded to 6, decoded to 0.
                    let decoded = e2m1::round(x.abs() / total) * total;
                    let error = f64::from(x.abs()) - f64::from(decoded);
                    *lane += error * error;
                }
            }
        }
        fold(lanes)
    }
}

multiversion! {
    /// The squared error of numbers under one scale.
    fn fp8_noise(x: &[f32], scale: f32) -> f64 {
        let reciprocal = 1.0 / scale;
        let mut lanes = [0.0; LANES];
        let mut add = |x: &[f32; LANES]| {
            for (lane, x) in lanes.iter_mut().zip(x) {
                let decoded = e4m3::round(x.abs() * reciprocal) * scale;
                let error = f64::from(x.abs()) - f64::from(decoded);
                *lane += error * error;
            }
        };
        let (chunks, rest) = x.as_chunks::<LANES>();
        chunks.iter().for_each(&mut add);
        let mut last = [0.0; LANES];
        last[..rest.len()].copy_from_slice(rest);
        add(&last);
        fold(lanes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::numerics::nvfp4::BlockRule;
    use proptest::prelude::*;

    /// The error of one scale, through codes.
    fn noise(format: Format, x: &[f32], scale: f32) -> f64 {
        match format {
            Format::Nvfp4 => {
                let (mut codes, mut scales) = (vec![0; x.len() / 2], vec![0; x.len() / BLOCK]);
                nvfp4::quantize(x, scale, BlockRule::Six, &mut codes, &mut scales);
                ErrorStats::nvfp4(x, &codes, &scales, scale).noise
            }
            Format::Fp8 => {
                let mut codes = vec![0; x.len()];
                fp8::quantize(x, scale, &mut codes);
                ErrorStats::fp8(x, &codes, scale).noise
            }
        }
    }

    fn near(a: f64, b: f64) -> bool {
        (a - b).abs() <= 1e-12 * a.abs().max(b.abs())
    }

    #[test]
    fn a_zero_tensor_keeps_scale_one() {
        for format in [Format::Nvfp4, Format::Fp8] {
            let mut search = Search::new(format, 0.0);
            search.add(&[-0.0; 32]);
            let best = search.best();
            assert_eq!((best.ratio, best.scale, best.noise), (1.0, 1.0, 0.0));
            assert_eq!(search_e4m3(format, &Histogram::new(), 1.0), [best]);
        }
    }

    #[test]
    fn amax_reports_what_is_not_finite() {
        assert_eq!(amax(&[]), 0.0);
        assert_eq!(amax(&[1.0, -3.0, -0.0, 2.0]), 3.0);
        assert_eq!(amax(&[1.0, f32::NEG_INFINITY]), f32::INFINITY);
        assert!(amax(&[f32::INFINITY, -f32::NAN, 1.0]).is_nan());
    }

    proptest! {
        /// Fast errors are those of codes, parts add up, and the winner is the first with the smallest.
        #[test]
        fn errors_are_those_of_codes(
            blocks in prop::collection::vec(prop::collection::vec(-1f32..1.0, BLOCK), 1..600),
            cut in 0usize..600,
        ) {
            let x = blocks.concat();
            for format in [Format::Nvfp4, Format::Fp8] {
                let mut whole = Search::new(format, amax(&x));
                whole.add(&x);
                for candidate in whole.candidates() {
                    prop_assert!(near(candidate.noise, noise(format, &x, candidate.scale)));
                }
                let least = whole.candidates().iter().map(|c| c.noise).fold(f64::INFINITY, f64::min);
                prop_assert_eq!(Some(&whole.best()), whole.candidates().iter().find(|c| c.noise == least));

                let (left, right) = x.split_at(cut.min(blocks.len()) * BLOCK);
                let mut parts = Search::new(format, amax(&x));
                parts.add(left);
                let mut other = Search::new(format, amax(&x));
                other.add(right);
                parts.merge(&other);
                for (a, b) in parts.candidates().iter().zip(whole.candidates()) {
                    prop_assert!(near(a.noise, b.noise));
                }
            }
        }
    }
}
