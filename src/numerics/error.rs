//! What quantization did to a tensor: sums over its numbers, in F64, from which the usual figures follow.

use super::nvfp4::{self, BLOCK};
use super::simd::multiversion;
use super::{e2m1, e4m3, fp8};

/// Sums of a sum: two AVX2 registers of F64.
pub(crate) const LANES: usize = 8;
/// Blocks compared at a time: 16 KiB of F32.
pub(crate) const RUN: usize = 256;

/// Sums over the numbers x of a tensor and what they decode to, y. They add up with [`ErrorStats::merge`].
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ErrorStats {
    /// How many numbers.
    pub elements: u64,
    /// The sum of x².
    pub signal: f64,
    /// The sum of (x - y)².
    pub noise: f64,
    /// The sum of x y.
    pub dot: f64,
    /// The sum of y².
    pub dequantized_power: f64,
    /// The largest |x - y|.
    pub max_error: f64,
    /// Numbers beyond the largest code of their block (NVFP4) or tensor (FP8).
    pub clipped: u64,
    /// Numbers that were not zero and became zero.
    pub flushed: u64,
}

impl ErrorStats {
    /// NVFP4 codes and row-major block scales against what they were made of: `x` [rows, K].
    ///
    /// # Panics
    /// If the sizes do not fit together.
    pub fn nvfp4(x: &[f32], codes: &[u8], scales: &[u8], scale_2: f32) -> Self {
        nvfp4::check(x.len(), codes, scales);
        let mut stats = Self::default();
        let (mut decoded, mut limits) = ([0.0; RUN * BLOCK], [0.0; RUN]);
        for ((x, codes), scales) in x
            .chunks(RUN * BLOCK)
            .zip(codes.chunks(RUN * BLOCK / 2))
            .zip(scales.chunks(RUN))
        {
            let decoded = &mut decoded[..x.len()];
            nvfp4::dequantize(codes, scales, scale_2, decoded);
            for (limit, scale) in limits.iter_mut().zip(scales) {
                *limit = nvfp4_limit(nvfp4::total(*scale, scale_2));
            }
            stats.merge(&compare(x, decoded, &limits));
        }
        stats
    }

    /// FP8 codes against what they were made of.
    ///
    /// # Panics
    /// If the lengths differ.
    pub fn fp8(x: &[f32], codes: &[u8], scale: f32) -> Self {
        assert_eq!(x.len(), codes.len(), "a code per number");
        let mut stats = Self::default();
        let mut decoded = [0.0; RUN * BLOCK];
        for (x, codes) in x.chunks(RUN * BLOCK).zip(codes.chunks(RUN * BLOCK)) {
            let decoded = &mut decoded[..x.len()];
            fp8::dequantize(codes, scale, decoded);
            stats.merge(&compare(x, decoded, &[fp8_limit(scale); RUN]));
        }
        stats
    }

    /// `count` numbers `x` that decode to `decoded`, the largest code being worth `limit`.
    pub(crate) fn add(&mut self, x: f32, decoded: f32, limit: f64, count: u64) {
        let (x, y, n) = (f64::from(x), f64::from(decoded), count as f64);
        self.elements += count;
        self.signal += n * (x * x);
        self.noise += n * ((x - y) * (x - y));
        self.dot += n * (x * y);
        self.dequantized_power += n * (y * y);
        self.max_error = self.max_error.max((x - y).abs());
        self.clipped += if x.abs() > limit { count } else { 0 };
        self.flushed += if y == 0.0 && x != 0.0 { count } else { 0 };
    }

    /// Adds the sums of other numbers. F64 sums depend on their order: merge parts of fixed size in a fixed order.
    pub fn merge(&mut self, other: &Self) {
        self.elements += other.elements;
        self.signal += other.signal;
        self.noise += other.noise;
        self.dot += other.dot;
        self.dequantized_power += other.dequantized_power;
        self.max_error = self.max_error.max(other.max_error);
        self.clipped += other.clipped;
        self.flushed += other.flushed;
    }

    /// Signal over noise in dB; infinite where nothing was lost.
    pub fn sqnr_db(&self) -> f64 {
        match self.noise {
            0.0 => f64::INFINITY,
            noise => 10.0 * (self.signal / noise).log10(),
        }
    }

    /// The cosine between the tensor and its decoded self: 1 for two zero tensors, 0 where one of them is zero.
    pub fn cosine(&self) -> f64 {
        let norms = (self.signal * self.dequantized_power).sqrt();
        match norms > 0.0 {
            true => self.dot / norms,
            false if self.signal == self.dequantized_power => 1.0,
            false => 0.0,
        }
    }

    /// The mean squared error; 0 for a tensor without numbers.
    pub fn mse(&self) -> f64 {
        self.noise / (self.elements.max(1)) as f64
    }
}

/// The largest number of an NVFP4 block.
pub(crate) fn nvfp4_limit(total: f32) -> f64 {
    f64::from(e2m1::MAX) * f64::from(total)
}

/// The largest number of an FP8 tensor.
pub(crate) fn fp8_limit(scale: f32) -> f64 {
    f64::from(e4m3::MAX) * f64::from(scale)
}

multiversion! {
    /// At most [`RUN`] blocks, each with the largest number it can hold.
    fn compare(x: &[f32], decoded: &[f32], limits: &[f64; RUN]) -> ErrorStats {
        let mut lanes = Lanes::default();
        let (blocks, x_rest) = x.as_chunks::<BLOCK>();
        let (decoded, y_rest) = decoded.as_chunks::<BLOCK>();
        for ((x, y), limit) in blocks.iter().zip(decoded).zip(limits) {
            lanes.add(x, y, *limit);
        }
        if !x_rest.is_empty() {
            // Zeros for the missing numbers add nothing.
            let (mut x, mut y) = ([0.0; BLOCK], [0.0; BLOCK]);
            x[..x_rest.len()].copy_from_slice(x_rest);
            y[..y_rest.len()].copy_from_slice(y_rest);
            lanes.add(&x, &y, limits[blocks.len()]);
        }
        ErrorStats {
            elements: x.len() as u64,
            signal: fold(lanes.signal),
            noise: fold(lanes.noise),
            dot: fold(lanes.dot),
            dequantized_power: fold(lanes.dequantized_power),
            max_error: lanes.max_error.into_iter().fold(0.0, f64::max),
            clipped: lanes.clipped.iter().sum(),
            flushed: lanes.flushed.iter().sum(),
        }
    }
}

#[derive(Default)]
struct Lanes {
    signal: [f64; LANES],
    noise: [f64; LANES],
    dot: [f64; LANES],
    dequantized_power: [f64; LANES],
    max_error: [f64; LANES],
    clipped: [u64; LANES],
    flushed: [u64; LANES],
}

impl Lanes {
    #[inline(always)]
    fn add(&mut self, x: &[f32; BLOCK], y: &[f32; BLOCK], limit: f64) {
        for (x, y) in x
            .as_chunks::<LANES>()
            .0
            .iter()
            .zip(y.as_chunks::<LANES>().0)
        {
            for i in 0..LANES {
                let (x, y) = (f64::from(x[i]), f64::from(y[i]));
                let error = (x - y).abs();
                self.signal[i] += x * x;
                self.noise[i] += error * error;
                self.dot[i] += x * y;
                self.dequantized_power[i] += y * y;
                let largest = self.max_error[i];
                self.max_error[i] = if error > largest { error } else { largest };
                self.clipped[i] += u64::from(x.abs() > limit);
                self.flushed[i] += u64::from(y == 0.0 && x != 0.0);
            }
        }
    }
}

#[inline(always)]
pub(crate) fn fold(l: [f64; LANES]) -> f64 {
    ((l[0] + l[4]) + (l[2] + l[6])) + ((l[1] + l[5]) + (l[3] + l[7]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::numerics::nvfp4::{BlockRule, quantize, scale_2_of};
    use proptest::prelude::*;

    /// One number after the other.
    fn plain(x: &[f32], decoded: &[f32], limit: impl Fn(usize) -> f64) -> ErrorStats {
        let mut stats = ErrorStats::default();
        for (i, (x, y)) in x.iter().zip(decoded).enumerate() {
            stats.add(*x, *y, limit(i), 1);
        }
        stats
    }

    fn close(a: &ErrorStats, b: &ErrorStats) -> bool {
        let near = |a: f64, b: f64| (a - b).abs() <= 1e-12 * a.abs().max(b.abs());
        (a.elements, a.clipped, a.flushed) == (b.elements, b.clipped, b.flushed)
            && a.max_error == b.max_error
            && near(a.signal, b.signal)
            && near(a.noise, b.noise)
            && near(a.dot, b.dot)
            && near(a.dequantized_power, b.dequantized_power)
    }

    #[test]
    fn figures_of_a_small_example() {
        // Errors 0, 0.5, 0 and -1 under a limit of 6.
        let mut stats = ErrorStats::default();
        for (x, y) in [(3.0, 3.0), (0.5, 0.0), (0.0, 0.0), (-7.0, -6.0)] {
            stats.add(x, y, 6.0, 1);
        }
        assert_eq!((stats.elements, stats.clipped, stats.flushed), (4, 1, 1));
        assert_eq!(
            (stats.signal, stats.noise, stats.max_error),
            (58.25, 1.25, 1.0)
        );
        assert_eq!(stats.mse(), 0.3125);
        assert!((stats.sqnr_db() - 16.683_859).abs() < 1e-6);
        assert!((stats.cosine() - 51.0 / (58.25f64 * 45.0).sqrt()).abs() < 1e-15);
    }

    #[test]
    fn nothing_lost_and_nothing_there() {
        let mut stats = ErrorStats::default();
        assert_eq!((stats.mse(), stats.cosine()), (0.0, 1.0));
        assert_eq!(stats.sqnr_db(), f64::INFINITY);
        stats.add(1.0, 0.0, 6.0, 3);
        assert_eq!((stats.cosine(), stats.sqnr_db()), (0.0, 0.0));
    }

    proptest! {
        #[test]
        fn fast_equals_plain(x in prop::collection::vec(-1f32..1.0, 0..9000), ratio in 0.8f32..1.2) {
            let amax = x.iter().fold(0f32, |m, x| m.max(x.abs()));
            let scale = fp8::scale_of(amax) * ratio;
            let (mut codes, mut decoded) = (vec![0; x.len()], vec![0.0; x.len()]);
            fp8::quantize(&x, scale, &mut codes);
            fp8::dequantize(&codes, scale, &mut decoded);
            let stats = ErrorStats::fp8(&x, &codes, scale);
            prop_assert!(close(&stats, &plain(&x, &decoded, |_| fp8_limit(scale))));

            let x = &x[..x.len() / BLOCK * BLOCK];
            let scale_2 = scale_2_of(amax) * ratio;
            let (mut codes, mut scales) = (vec![0; x.len() / 2], vec![0; x.len() / BLOCK]);
            quantize(x, scale_2, BlockRule::Six, &mut codes, &mut scales);
            nvfp4::dequantize(&codes, &scales, scale_2, &mut decoded[..x.len()]);
            let stats = ErrorStats::nvfp4(x, &codes, &scales, scale_2);
            let limit = |i: usize| nvfp4_limit(nvfp4::total(scales[i / BLOCK], scale_2));
            prop_assert!(close(&stats, &plain(x, &decoded, limit)));
        }
    }
}
