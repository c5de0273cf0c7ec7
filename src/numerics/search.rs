//! Which scale loses least: comfy-dit-quantizer's search over a few ratios around the scale that the largest number asks for.
//!
//! Every ratio is tried on the whole tensor and the smallest squared error wins, the first of equals. Errors are summed
//! in F64 (comfy-dit-quantizer takes F32 means: the winners are the same unless two errors are within F32's rounding).
//! An E4M3 weight needs its [`Histogram`] only; others go through a [`Search`] once, for all ratios together.

use super::e4m3_source::{Histogram, Tables};
use super::error::{ErrorStats, LANES, RUN, fold, fp8_limit};
use super::nvfp4::{self, BLOCK, BlockRule, Top, block_max};
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

impl Method {
    /// How NVFP4 block scales are chosen.
    pub fn block_rule(self) -> BlockRule {
        match self {
            Self::Amax | Self::Mse => BlockRule::Six,
            Self::FourSix => BlockRule::FourSix,
        }
    }

    /// The ratios to try for a format, in this order.
    pub fn ratios(self, format: Format) -> &'static [f32] {
        match (self, format) {
            (Self::Mse, Format::Nvfp4) => &NVFP4_RATIOS,
            (Self::Mse, Format::Fp8) => &FP8_RATIOS,
            (Self::Amax | Self::FourSix, _) => &[1.0],
        }
    }
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

    /// What is tried, no number seen yet. A zero tensor has nothing to search for.
    fn candidates(self, method: Method, amax: f32) -> Vec<Candidate> {
        let base = self.scale_of(amax);
        let method = if amax == 0.0 { Method::Amax } else { method };
        let candidate = |ratio: &f32| Candidate {
            ratio: *ratio,
            scale: base * ratio,
            noise: 0.0,
        };
        method.ratios(self).iter().map(candidate).collect()
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
    /// A search for a tensor whose largest magnitude is `amax`, a finite number. Only [`Method::Mse`] has to see numbers.
    pub fn new(format: Format, method: Method, amax: f32) -> Self {
        Self {
            format,
            candidates: format.candidates(method, amax),
        }
    }

    /// Adds the errors of whole rows, K a multiple of 16 for NVFP4.
    ///
    /// # Panics
    /// If `rows` is not whole blocks.
    pub fn add(&mut self, rows: &[f32]) {
        let mut decoded = [0.0; RUN * BLOCK];
        for part in rows.chunks(RUN * BLOCK) {
            let decoded = &mut decoded[..part.len()];
            for candidate in &mut self.candidates {
                match self.format {
                    Format::Nvfp4 => through_nvfp4(part, candidate.scale, decoded),
                    Format::Fp8 => through_fp8(part, candidate.scale, decoded),
                }
                candidate.noise += squares(part, decoded);
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

/// The same for an E4M3 weight `E4M3[byte] * weight_scale` that was counted: every ratio with its error.
pub fn search_e4m3(
    format: Format,
    method: Method,
    histogram: &Histogram,
    weight_scale: f32,
) -> Vec<Candidate> {
    let mut candidates = format.candidates(method, histogram.amax(weight_scale));
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
    /// What at most [`RUN`] whole blocks decode to, as magnitudes, under one `scale_2`.
    fn through_nvfp4(x: &[f32], scale_2: f32, decoded: &mut [f32]) {
        let (blocks, rest) = x.as_chunks::<BLOCK>();
        assert!(rest.is_empty(), "whole blocks of 16");
        let mut totals = [0.0; RUN];
        for (total, block) in totals.iter_mut().zip(blocks) {
            *total = block_max(block);
        }
        for total in &mut totals {
            *total = scale_2 * e4m3::round(*total / Top::Six.value() / scale_2);
        }
        let decoded = decoded.as_chunks_mut::<BLOCK>().0;
        for ((decoded, block), total) in decoded.iter_mut().zip(blocks).zip(totals) {
            for (decoded, x) in decoded.iter_mut().zip(block) {
                // A total of 0 makes quotients infinite or NaN: rounded to 6, decoded to 0.
                *decoded = e2m1::round(x.abs() / total) * total;
            }
        }
    }
}

multiversion! {
    /// What numbers decode to, as magnitudes, under one FP8 scale.
    fn through_fp8(x: &[f32], scale: f32, decoded: &mut [f32]) {
        let reciprocal = 1.0 / scale;
        for (decoded, x) in decoded.iter_mut().zip(x) {
            *decoded = e4m3::round(x.abs() * reciprocal) * scale;
        }
    }
}

multiversion! {
    /// The sum of squared differences between magnitudes and what they decode to.
    fn squares(x: &[f32], decoded: &[f32]) -> f64 {
        let mut lanes = [0.0; LANES];
        let (x, x_rest) = x.as_chunks::<LANES>();
        let (decoded, decoded_rest) = decoded.as_chunks::<LANES>();
        for (x, decoded) in x.iter().zip(decoded) {
            for i in 0..LANES {
                let error = f64::from(x[i].abs()) - f64::from(decoded[i]);
                lanes[i] += error * error;
            }
        }
        for ((lane, x), decoded) in lanes.iter_mut().zip(x_rest).zip(decoded_rest) {
            let error = f64::from(x.abs()) - f64::from(*decoded);
            *lane += error * error;
        }
        fold(lanes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
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
            let mut search = Search::new(format, Method::Mse, 0.0);
            search.add(&[-0.0; 32]);
            let best = search.best();
            assert_eq!((best.ratio, best.scale, best.noise), (1.0, 1.0, 0.0));
            assert_eq!(
                search_e4m3(format, Method::Mse, &Histogram::new(), 1.0),
                [best]
            );
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
                let mut whole = Search::new(format, Method::Mse, amax(&x));
                whole.add(&x);
                for candidate in whole.candidates() {
                    prop_assert!(near(candidate.noise, noise(format, &x, candidate.scale)));
                }
                let least = whole.candidates().iter().map(|c| c.noise).fold(f64::INFINITY, f64::min);
                prop_assert_eq!(Some(&whole.best()), whole.candidates().iter().find(|c| c.noise == least));

                let (left, right) = x.split_at(cut.min(blocks.len()) * BLOCK);
                let mut parts = Search::new(format, Method::Mse, amax(&x));
                parts.add(left);
                let mut other = Search::new(format, Method::Mse, amax(&x));
                other.add(right);
                parts.merge(&other);
                for (a, b) in parts.candidates().iter().zip(whole.candidates()) {
                    prop_assert!(near(a.noise, b.noise));
                }
            }
        }
    }
}
