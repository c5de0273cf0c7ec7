//! Summaries of measurements, and whether a difference is more than chance.
//!
//! For two policies over the same prompts and seeds, take the difference of each pair and ask
//! [`bootstrap_mean`]`(&differences, ..).`[`excludes`](Interval::excludes)`(0.0)`.

use crate::numerics::splitmix::{STEP, splitmix64};

/// The mean; NaN of nothing.
pub fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

/// The middle value, or the mean of the two middle ones; NaN of nothing.
pub fn median(values: &[f64]) -> f64 {
    quantile(&sorted(values), 0.5)
}

/// The nearest-rank percentile: the smallest value that at least `percent` of 100 of the values do not exceed. It is
/// one of the values, never between two (numpy's `inverted_cdf`). NaN of nothing; `percent` is cut to 0 to 100.
pub fn percentile(values: &[f64], percent: f64) -> f64 {
    let sorted = sorted(values);
    // Multiplied first: 7 * 100 / 100 is 7, 0.07 * 100 is above 7.
    let rank = (percent.clamp(0.0, 100.0) * sorted.len() as f64 / 100.0).ceil() as usize;
    let last = sorted.len().saturating_sub(1);
    sorted
        .get(rank.saturating_sub(1).min(last))
        .copied()
        .unwrap_or(f64::NAN)
}

/// A range that holds a quantity with some confidence.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Interval {
    /// Its lower end.
    pub low: f64,
    /// Its upper end.
    pub high: f64,
}

impl Interval {
    /// Whether `value` lies outside of it; never, if an end is NaN.
    pub fn excludes(&self, value: f64) -> bool {
        value < self.low || value > self.high
    }
}

/// The percentile bootstrap of the mean (Efron 1979; Efron, Tibshirani 1993, chapter 13): `resamples` times as many
/// values as there are, drawn with replacement, and the quantiles `(1 - level) / 2` and `(1 + level) / 2` of their
/// means (between two means: linear, as numpy does it).
///
/// The values must be independent: one per prompt, not one per pixel. With few values the interval is too narrow: that
/// of 20 normal ones and `level` 0.95 holds the true mean in 93 of 100 cases. One value gives an interval of no width;
/// no value, no resamples or a value that is not finite may give NaN. Equal arguments give equal results everywhere.
pub fn bootstrap_mean(values: &[f64], resamples: usize, seed: u64, level: f64) -> Interval {
    let mut random = SplitMix64(seed);
    let mut resampled = || {
        let draws = (0..values.len()).map(|_| values[random.below(values.len())]);
        draws.sum::<f64>() / values.len() as f64
    };
    let means: Vec<f64> = (0..resamples).map(|_| resampled()).collect();
    let means = sorted(&means);
    let level = level.clamp(0.0, 1.0);
    Interval {
        low: quantile(&means, (1.0 - level) / 2.0),
        high: quantile(&means, (1.0 + level) / 2.0),
    }
}

/// A copy in rising order, NaN last.
fn sorted(values: &[f64]) -> Vec<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted
}

/// The quantile `q` (0 to 1) of sorted values, linear between two of them; NaN of nothing.
fn quantile(sorted: &[f64], q: f64) -> f64 {
    let Some(last) = sorted.len().checked_sub(1) else {
        return f64::NAN;
    };
    let place = q * last as f64;
    let below = (place.floor() as usize).min(last);
    let (low, high) = (sorted[below], sorted[(below + 1).min(last)]);
    // Not through `high - low`, which is NaN for two infinities.
    if low == high {
        return low;
    }
    low + (high - low) * (place - below as f64)
}

/// A state of splitmix64.
struct SplitMix64(u64);

impl SplitMix64 {
    fn next(&mut self) -> u64 {
        let next = splitmix64(self.0);
        self.0 = self.0.wrapping_add(STEP);
        next
    }

    /// A number below `n`: the high half of a product, uneven by less than `n / 2^64`.
    fn below(&mut self, n: usize) -> usize {
        ((u128::from(self.next()) * n as u128) >> 64) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Standard normal values (Box-Muller).
    fn normal(random: &mut SplitMix64, n: usize) -> Vec<f64> {
        let mut uniform = || (random.next() >> 11) as f64 / (1u64 << 53) as f64;
        let mut one = || {
            let (r, turn) = ((-2.0 * (1.0 - uniform()).ln()).sqrt(), uniform());
            r * (std::f64::consts::TAU * turn).cos()
        };
        (0..n).map(|_| one()).collect()
    }

    #[test]
    fn splitmix64_is_the_published_one() {
        let mut random = SplitMix64(1_234_567);
        // The first outputs of Vigna's C code with this seed.
        let expected = [6_457_827_717_110_365_317, 3_203_168_211_198_807_973];
        assert_eq!([random.next(), random.next()], expected);
    }

    /// The bootstrap's own closed form: its means have the variance `sum (x - mean)^2 / n^2`, and are normal.
    #[test]
    fn ends_are_the_normal_ones() {
        let values = normal(&mut SplitMix64(3), 200);
        let m = mean(&values);
        let deviation =
            (values.iter().map(|v| (v - m).powi(2)).sum::<f64>()).sqrt() / values.len() as f64;
        let interval = bootstrap_mean(&values, 40_000, 1, 0.95);
        for (end, expected) in [(interval.low - m, -1.96), (interval.high - m, 1.96)] {
            let found = end / deviation;
            println!("{found} deviations");
            assert!((found - expected).abs() < 0.06, "{found} deviations");
        }
    }

    /// For n = 20 the normal interval with the population deviation has `t < 1.96 * sqrt(19 / 20)` for 19 degrees
    /// of freedom: a coverage of 0.928. Of 2000 trials the standard error is 0.006.
    #[test]
    fn covers_as_often_as_theory_says() {
        let mut random = SplitMix64(9);
        let trials = 2000;
        let held = (0..trials)
            .filter(|trial| {
                let values = normal(&mut random, 20);
                !bootstrap_mean(&values, 400, *trial, 0.95).excludes(0.0)
            })
            .count();
        let coverage = held as f64 / trials as f64;
        println!("coverage {coverage}");
        assert!((coverage - 0.928).abs() < 0.02, "{coverage}");
    }

    #[test]
    fn edges() {
        assert!(mean(&[]).is_nan() && median(&[]).is_nan() && percentile(&[], 95.0).is_nan());
        assert!(bootstrap_mean(&[], 10, 0, 0.95).low.is_nan());
        assert!(!bootstrap_mean(&[1.0], 0, 0, 0.95).excludes(0.0));
        assert_eq!(median(&[4.0, 1.0, 3.0, 2.0]), 2.5);
        assert_eq!(median(&[f64::INFINITY; 2]), f64::INFINITY);
        let hundred: Vec<f64> = (1..=100).map(f64::from).collect();
        for p in [1.0, 7.0, 29.0, 57.0, 95.0, 100.0] {
            assert_eq!(percentile(&hundred, p), p);
        }
        assert_eq!(percentile(&hundred, 94.5), 95.0);
        assert!(bootstrap_mean(&[1.0, 2.0, 3.0], 1000, 0, 0.95).excludes(0.0));
    }
}
