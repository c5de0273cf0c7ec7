//! Counts of magnitudes by their binary logarithm, in fixed memory.
//!
//! A bin is an octave's `2^BITS`th part: the exponent of an F32 and the top bits of its mantissa, so that finding it is a
//! shift. Bins are as wide everywhere in proportion to what they hold, at most `2^-BITS`; a bin's middle is off by half of that.

use std::ops::Range;

/// Where bins begin: 2^-24. What is smaller, zero too, has a bin of its own.
const LOWEST: u32 = (127 - 24) << 23;
/// Octaves from there, to 2^24. What is larger has a bin of its own.
const OCTAVES: usize = 48;

/// A histogram of magnitudes with `2^BITS` bins an octave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log2Histogram<const BITS: u32> {
    counts: Vec<u64>,
}

impl<const BITS: u32> Default for Log2Histogram<BITS> {
    fn default() -> Self {
        Self {
            counts: vec![0; Self::BINS],
        }
    }
}

impl<const BITS: u32> Log2Histogram<BITS> {
    /// Bins, with the one below all octaves (the first) and the one above.
    pub const BINS: usize = (OCTAVES << BITS) + 2;

    /// The bin of a magnitude by its bits. In 16 bits, of which vectors hold twice as many.
    #[inline(always)]
    pub(super) fn bin_of_bits(magnitude: u32) -> u16 {
        const { assert!(Self::BINS < 1 << 16 && BITS <= 8) };
        let first = ((LOWEST >> (23 - BITS)) - 1) as u16;
        let last = Self::BINS as u16 - 1;
        ((magnitude >> (23 - BITS)) as u16)
            .saturating_sub(first)
            .min(last)
    }

    /// The bin of a number's magnitude.
    pub fn bin(x: f32) -> usize {
        usize::from(Self::bin_of_bits(x.abs().to_bits()))
    }

    /// What belongs to a bin: from the first up to, without it, the second. The last bin ends nowhere.
    pub fn edges(bin: usize) -> Range<f32> {
        let lower = |bin: usize| match bin {
            0 => 0.0,
            _ if bin < Self::BINS => f32::from_bits(LOWEST + ((bin as u32 - 1) << (23 - BITS))),
            _ => f32::INFINITY,
        };
        lower(bin)..lower(bin + 1)
    }

    /// What a bin stands for: its middle; zero for the first, the lower edge of the last.
    pub fn value(bin: usize) -> f32 {
        let Range { start, end } = Self::edges(bin);
        match bin {
            0 => 0.0,
            _ if end.is_finite() => 0.5 * (start + end),
            _ => start,
        }
    }

    /// Counts a number more.
    pub fn add(&mut self, x: f32) {
        self.counts[Self::bin(x)] += 1;
    }

    /// Counts `n` numbers more.
    ///
    /// # Panics
    /// If there is no such bin.
    pub fn add_to_bin(&mut self, bin: usize, n: u64) {
        self.counts[bin] += n;
    }

    /// Forgets the bins that lie below the one of `limit`.
    pub fn clear_below(&mut self, limit: f32) {
        // The first bin is below everything, unless that is what is asked for.
        let first = Self::bin(limit).max(usize::from(limit > 0.0));
        self.counts[..first].fill(0);
    }

    /// Counts by bin.
    pub fn counts(&self) -> &[u64] {
        &self.counts
    }

    /// Counts by bin, to fill in.
    pub fn counts_mut(&mut self) -> &mut [u64] {
        &mut self.counts
    }

    /// Bins that are not empty, and their counts.
    pub fn filled(&self) -> impl Iterator<Item = (usize, u64)> {
        let all = self.counts.iter().copied().enumerate();
        all.filter(|(_, n)| *n > 0)
    }

    /// All counts together.
    pub fn total(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// Adds the counts of another one: exact, in any order.
    pub fn merge(&mut self, other: &Self) {
        for (n, more) in self.counts.iter_mut().zip(&other.counts) {
            *n += more;
        }
    }

    /// The smallest magnitude that at least `share` of the numbers do not exceed, off by at most half a bin: with 64 bins an
    /// octave 0.8 % from 2^-24 to 2^24. `None` where nothing was counted.
    pub fn quantile(&self, share: f64) -> Option<f32> {
        let total = self.total();
        let wanted = ((share * total as f64).ceil() as u64).clamp(1, total.max(1));
        let mut seen = 0;
        self.filled()
            .find(|(_, n)| {
                seen += n;
                seen >= wanted
            })
            .map(|(bin, _)| Self::value(bin))
    }

    /// How many numbers lie above `limit`. Of the bin in which it lies, the part above it in proportion.
    pub fn above(&self, limit: f32) -> f64 {
        self.filled()
            .map(|(bin, n)| n as f64 * (1.0 - part_below::<BITS>(bin, limit)))
            .sum()
    }
}

/// The part of a bin that lies below `limit`.
fn part_below<const BITS: u32>(bin: usize, limit: f32) -> f64 {
    let Range { start, end } = Log2Histogram::<BITS>::edges(bin);
    match (limit <= start, limit >= end) {
        (true, _) => 0.0,
        (_, true) => 1.0,
        _ => f64::from(limit - start) / f64::from(end - start),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    type Fine = Log2Histogram<6>;

    proptest! {
        #[test]
        fn a_bin_holds_what_its_edges_say(bits in 0u32..0x7f80_0000) {
            let x = f32::from_bits(bits);
            let bin = Fine::bin(-x);
            prop_assert!(Fine::edges(bin).contains(&x), "{x} in {bin}");
        }

        #[test]
        fn its_value_is_off_by_at_most_a_128th(exponent in -24i32..24, mantissa in 1f32..2.0) {
            let x = mantissa * 2f32.powi(exponent);
            let value = Fine::value(Fine::bin(x));
            prop_assert!((value - x).abs() <= x / 128.0, "{x} {value}");
        }

        #[test]
        fn quantiles_are_those_of_the_sorted_numbers(
            mut x in prop::collection::vec(1e-6f32..1e6, 1..300), share in 0f64..1.0
        ) {
            let mut histogram = Fine::default();
            x.iter().for_each(|x| histogram.add(*x));
            x.sort_by(f32::total_cmp);
            let at = ((share * x.len() as f64).ceil() as usize).clamp(1, x.len()) - 1;
            let got = histogram.quantile(share).unwrap_or_default();
            prop_assert!((got - x[at]).abs() <= x[at] / 128.0, "{got} {}", x[at]);
        }
    }

    #[test]
    fn what_lies_outside_is_counted_too() {
        let mut histogram = Fine::default();
        for x in [0.0, -0.0, f32::MIN_POSITIVE, 1e30, f32::MAX] {
            histogram.add(x);
        }
        let filled: Vec<_> = histogram.filled().collect();
        assert_eq!(filled, [(0, 3), (Fine::BINS - 1, 2)]);
        assert_eq!(histogram.quantile(0.5), Some(0.0));
        assert_eq!(histogram.quantile(1.0), Some(16_777_216.0));
        assert_eq!(Fine::default().quantile(0.5), None);
    }

    #[test]
    fn numbers_above_a_limit() {
        let mut histogram = Log2Histogram::<4>::default();
        for x in [0.5, 1.0, 2.0, 2.0, 64.0] {
            histogram.add(x);
        }
        assert_eq!(histogram.above(1.5), 3.0);
        assert_eq!(histogram.above(0.0), 5.0);
        // 2 begins a bin that ends at 2.125.
        assert_eq!(histogram.above(2.0625), 2.0);
    }
}
