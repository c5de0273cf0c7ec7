//! Double quantization: what it costs that the weight was FP8 before it became NVFP4.
//!
//! Modelled, not measured: the original is lost. Assumed is that the originals of an FP8 number are spread evenly over
//! the interval that rounds to it, and that quantizing them directly would have used the same scales. Both expected
//! errors are then integrals of parabolas, taken exactly.

use super::histogram::Histogram;
use super::tables::Tables;
use crate::numerics::e2m1;
use crate::numerics::e4m3::E4M3_TO_F32;

/// The expected squared error against the lost original, on two ways to the same NVFP4 scales.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct DoubleQuantization {
    /// Original to NVFP4.
    pub direct: f64,
    /// Original to FP8 to NVFP4.
    pub through_fp8: f64,
}

impl DoubleQuantization {
    /// The model over all numbers that were counted, under the scales of `tables`.
    pub fn model(histogram: &Histogram, tables: &Tables) -> Self {
        let mut sums = Self::default();
        for (max, magnitude, count) in histogram.pairs() {
            let (low, high) = cell(magnitude, tables.weight_scale());
            let count = count as f64 / (high - low);
            let decoded = f64::from(tables.decoded(max, magnitude));
            sums.through_fp8 += count * squared(low, high, decoded);
            sums.direct += count * direct(low, high, f64::from(tables.total(max)));
        }
        sums
    }

    /// Adds the sums of other numbers.
    pub fn merge(&mut self, other: &Self) {
        self.direct += other.direct;
        self.through_fp8 += other.through_fp8;
    }

    /// How much louder the noise is for the detour, in dB; 0 where there is none.
    pub fn added_db(&self) -> f64 {
        match self.direct > 0.0 {
            true => 10.0 * (self.through_fp8 / self.direct).log10(),
            false => 0.0,
        }
    }
}

/// The magnitudes that round to a magnitude byte. Those of 0 lie on both sides of it; one side is enough.
fn cell(magnitude: u8, weight_scale: f32) -> (f64, f64) {
    let value = |byte: u8| f64::from(E4M3_TO_F32[usize::from(byte)]);
    let this = value(magnitude);
    let half = |a: f64, b: f64| (a + b) / 2.0 * f64::from(weight_scale);
    let below = magnitude
        .checked_sub(1)
        .map_or(0.0, |below| half(value(below), this));
    // 448, the last, has no neighbour above; the step there is 32.
    let above = if magnitude < 0x7e {
        value(magnitude + 1)
    } else {
        480.0
    };
    (below, half(this, above))
}

/// The integral of (y - c)^2 from `low` to `high`.
fn squared(low: f64, high: f64, c: f64) -> f64 {
    ((high - c).powi(3) - (low - c).powi(3)) / 3.0
}

/// The integral of (y - NVFP4(y))^2 from `low` to `high`.
fn direct(low: f64, high: f64, total: f64) -> f64 {
    /// Where one code ends and the next begins.
    const MIDDLES: [f64; 8] = [0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0, f64::INFINITY];
    if total == 0.0 {
        return squared(low, high, 0.0);
    }
    let (mut sum, mut from) = (0.0, low);
    for (middle, value) in MIDDLES.into_iter().zip(e2m1::VALUES) {
        let to = (middle * total).clamp(from, high);
        sum += squared(from, to, f64::from(value) * total);
        from = to;
    }
    sum
}
