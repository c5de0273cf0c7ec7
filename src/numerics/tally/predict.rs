//! What a static scale would do to the numbers of a [`Tally`]: predicted from its counts, since the numbers are gone.
//!
//! FP8 looks at a number alone, so the histogram of magnitudes says it all, to within a bin. So it does for NVFP4's signal
//! and for what is clipped, which is what lies above `amax`. What is rounded depends on the largest number of its block as well:
//! blocks are taken from their histogram, and what lies in them from the [`Profile`], which saw few of the rarest, largest
//! blocks: where those make most of the noise the prediction is off by up to a decibel, alike for all scales.
//!
//! [`Profile`]: super::Profile

use std::ops::Range;

use super::super::nvfp4::{self, BLOCK, Top};
use super::super::{e2m1, e4m3, fp8};
use super::{Blocks, Elements, Log2Histogram, PARTS, Tally};

/// Places in a bin, or in a part of a block's range, that stand for it.
const PLACES: usize = 4;
/// Blocks of a bin are taken at so many sizes.
const SIZES: usize = 2;

/// What a scale for `amax` would do.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Predicted {
    /// The signal-to-quantization-noise ratio of the activations in dB; infinite where nothing is lost.
    pub sqnr_db: f64,
    /// The share of numbers beyond what the scale can hold.
    pub clipped: f64,
    /// The share of what becomes zero though it was not.
    pub flushed: f64,
}

/// The smallest number that E4M3 does not round to zero, 2^-10, a tie, does.
const FLUSHED: f32 = 0.000_976_562_5;

impl Tally {
    /// FP8 under the scale `amax / 448`; flushed: numbers.
    pub fn predict_fp8(&self, amax: f32) -> Predicted {
        let scale = fp8::scale_of(amax);
        let mut powers = Powers::default();
        for (bin, n) in self.elements.filled() {
            let weight = n as f64 / PLACES as f64;
            for x in places(Elements::edges(bin), self.amax, PLACES) {
                let decoded = e4m3::round(x * (1.0 / scale)) * scale;
                powers.add(x, decoded, weight);
            }
        }
        Predicted {
            sqnr_db: powers.sqnr_db(),
            clipped: self.clipped(amax),
            flushed: flushed(&self.elements, FLUSHED * scale),
        }
    }

    /// NVFP4 under the scale `amax / 2688`; flushed: blocks.
    pub fn predict_nvfp4(&self, amax: f32) -> Predicted {
        let scale_2 = nvfp4::scale_2_of(amax);
        let mut powers = Powers::default();
        for (bin, n) in self.elements.filled() {
            let weight = n as f64 / PLACES as f64;
            for x in places(Elements::edges(bin), self.amax, PLACES) {
                powers.add(x, x.min(amax), weight);
            }
        }
        // The first bin holds blocks without anything that matters.
        for (bin, n) in self.blocks.filled().filter(|(bin, _)| *bin > 0) {
            let below = self.profile.below(bin);
            for max in places(Blocks::edges(bin), self.amax, SIZES) {
                let n = n as f64 / SIZES as f64;
                powers.noise += n * rounding(max, &below, scale_2);
            }
        }
        Predicted {
            sqnr_db: powers.sqnr_db(),
            clipped: self.clipped(amax),
            flushed: flushed(&self.blocks, FLUSHED * e2m1::MAX * scale_2),
        }
    }

    /// The share of numbers above `amax`.
    fn clipped(&self, amax: f32) -> f64 {
        match amax >= self.amax {
            // The bin of the largest number ends beyond it.
            true => 0.0,
            false => self.elements.above(amax) / self.elements.total().max(1) as f64,
        }
    }
}

/// The squared error of rounding the numbers of a block whose largest is `max` and whose others lie as `below` says;
/// without what is clipped.
fn rounding(max: f32, below: &[f64; PARTS + 1], scale_2: f32) -> f64 {
    let (_, total) = nvfp4::block_scale(max, Top::Six, scale_2);
    let squared = |x: f32| {
        let decoded = match total {
            0.0 => 0.0,
            total => e2m1::round(x / total) * total,
        };
        // What the scale cannot hold is counted elsewhere.
        let limit = e4m3::MAX * e2m1::MAX * scale_2;
        f64::from(x.min(limit) - decoded).powi(2)
    };
    let others = (BLOCK - 1) as f64;
    let width = max / PARTS as f32;
    let parts = below[..PARTS].iter().enumerate();
    let parts = parts
        .filter(|(_, share)| **share > 0.0)
        .map(|(part, share)| {
            let edges = part as f32 * width..(part + 1) as f32 * width;
            share / PLACES as f64 * places(edges, max, PLACES).map(squared).sum::<f64>()
        });
    (1.0 + others * below[PARTS]) * squared(max) + others * parts.sum::<f64>()
}

/// `n` numbers that stand for those between two edges, none of them above `most`.
fn places(edges: Range<f32>, most: f32, n: usize) -> impl Iterator<Item = f32> {
    let width = (edges.end.min(most) - edges.start).max(0.0);
    (0..n).map(move |i| edges.start + width * (i as f32 + 0.5) / n as f32)
}

/// The share of what is not zero but below `limit`, which is rounded to zero.
fn flushed<const BITS: u32>(of: &Log2Histogram<BITS>, limit: f32) -> f64 {
    let total = of.total() as f64;
    let zero = of.counts()[0] as f64;
    ((total - of.above(limit) - zero) / total.max(1.0)).max(0.0)
}

/// Signal and noise.
#[derive(Default)]
struct Powers {
    signal: f64,
    noise: f64,
}

impl Powers {
    fn add(&mut self, x: f32, decoded: f32, weight: f64) {
        let (x, decoded) = (f64::from(x), f64::from(decoded));
        self.signal += weight * x * x;
        self.noise += weight * (x - decoded) * (x - decoded);
    }

    fn sqnr_db(&self) -> f64 {
        match self.noise {
            0.0 => f64::INFINITY,
            noise => 10.0 * (self.signal / noise).log10(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::error::ErrorStats;
    use super::super::super::{fp8, nvfp4};
    use super::super::{Scratch, Tally};

    /// Student's t with 3 degrees of freedom, whose tails are heavy, in rows of unlike sizes.
    fn activations() -> Vec<f32> {
        let mut state = 7u64;
        let mut uniform = || {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            ((state >> 40) as f32 + 0.5) / (1u64 << 24) as f32
        };
        let mut normal =
            || (-2.0 * uniform().ln()).sqrt() * (std::f32::consts::TAU * uniform()).cos();
        (0..512 * 512)
            .map(|i| {
                let chi = (0..3).map(|_| normal().powi(2)).sum::<f32>() / 3.0;
                normal() / chi.sqrt() * 2f32.powi(i / 512 % 7 - 3)
            })
            .collect()
    }

    /// What the quantizers really do to the same numbers.
    #[test]
    fn predictions_come_true() {
        let x = activations();
        let mut tally = Tally::default();
        tally.add(&x, 512, 0, &mut Scratch::default());
        for ratio in [1.0 / 64.0, 0.1, 0.3, 1.0, 2.5, 64.0, 4096.0] {
            let amax = tally.amax * ratio;
            let (mut codes, mut scales) = (vec![0; x.len() / 2], vec![0; x.len() / 16]);
            let scale_2 = nvfp4::scale_2_of(amax);
            nvfp4::quantize(&x, scale_2, nvfp4::BlockRule::Six, &mut codes, &mut scales);
            let real = ErrorStats::nvfp4(&x, &codes, &scales, scale_2);
            let told = tally.predict_nvfp4(amax);
            println!("nvfp4 {ratio}: {told:?}, {:.2} dB", real.sqnr_db());
            assert!((told.sqnr_db - real.sqnr_db()).abs() < 1.0, "nvfp4 {ratio}");
            let beyond = x.iter().filter(|x| x.abs() > amax).count() as f64 / x.len() as f64;
            assert!((told.clipped - beyond).abs() <= 0.02 * beyond, "{beyond}");
            let zero = scales.iter().filter(|s| **s == 0).count() as f64 / scales.len() as f64;
            assert!((told.flushed - zero).abs() <= 0.03 * zero + 1e-3, "{zero}");

            let mut codes = vec![0; x.len()];
            let scale = fp8::scale_of(amax);
            fp8::quantize(&x, scale, &mut codes);
            let real = ErrorStats::fp8(&x, &codes, scale);
            let told = tally.predict_fp8(amax);
            println!("fp8 {ratio}: {told:?}, {:.2} dB", real.sqnr_db());
            assert!((told.sqnr_db - real.sqnr_db()).abs() < 0.3, "fp8 {ratio}");
            let small = |c: &&u8| **c & 0x7f == 0;
            let zero = codes.iter().filter(small).count() as f64 / x.len() as f64;
            assert!((told.flushed - zero).abs() <= 0.02 * zero + 1e-4, "{zero}");
        }
    }

    #[test]
    fn nothing_is_clipped_at_the_largest() {
        let mut tally = Tally::default();
        tally.add(&[1.0, -3.001, 0.5, 0.0], 4, 0, &mut Scratch::default());
        assert_eq!(tally.predict_fp8(tally.amax).clipped, 0.0);
        assert_eq!(tally.predict_nvfp4(tally.amax).clipped, 0.0);
        assert_eq!(Tally::default().predict_nvfp4(1.0).flushed, 0.0);
    }
}
