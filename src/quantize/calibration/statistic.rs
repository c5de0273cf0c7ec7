//! From what was seen to the range that a static scale is made for.

use std::fmt;
use std::str::FromStr;

use super::capture::Tap;
use crate::numerics::tally::{Predicted, Tally};

/// How a range is chosen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Statistic {
    /// `max`: the largest magnitude; nothing that was seen is clipped.
    Max,
    /// `p99.9`: the magnitude that so many percent of the values do not exceed.
    Percentile(f64),
    /// `run-p99.9`: the same over the largest magnitudes of whole samples, as the scripts around comfy-dit-quantizer do.
    RunPercentile(f64),
    /// `mse`: the range whose scale leaves the smallest squared error, for each format its own.
    Mse,
    /// `headroom`: Model-Optimizer's `nvfp4_act_headroom` at its defaults; for FP8, to which it does not apply, `max`.
    Headroom,
}

/// What files list by default.
pub const LISTED: [Statistic; 8] = [
    Statistic::Max,
    Statistic::Percentile(99.0),
    Statistic::Percentile(99.9),
    Statistic::Percentile(99.99),
    Statistic::Percentile(99.999),
    Statistic::RunPercentile(99.9),
    Statistic::Mse,
    Statistic::Headroom,
];

/// The format that a static scale is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// `input_scale = amax / 2688`.
    Nvfp4,
    /// `input_scale = amax / 448`.
    Fp8,
}

/// A range and what it would do.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Choice {
    /// The largest magnitude that the scale holds.
    pub amax: f32,
    /// What becomes of the activations under it.
    pub predicted: Predicted,
}

/// Ratios to the largest magnitude that `mse` tries: 2^(i/8).
const RATIOS: std::ops::RangeInclusive<i32> = -64..=32;
/// Model-Optimizer's `rho`, `anchor_percentile` and `upper_percentile`, and how far below the latter blocks count.
const RHO: f32 = 16_384.0;
const ANCHOR: f64 = 0.01;
const UPPER: f64 = 0.9999;
const FLOOR: f32 = 1e6;

impl Statistic {
    /// The range of a tap, whose levels together are `whole`. `None` where nothing but zeros was seen.
    pub fn choose(self, tap: &Tap, whole: &Tally, format: Format) -> Option<Choice> {
        if let Self::Mse = self {
            return least_error(whole, format);
        }
        let amax = match (self, format) {
            (Self::Max, _) | (Self::Headroom, Format::Fp8) => whole.amax,
            (Self::Percentile(p) | Self::RunPercentile(p), _) if p >= 100.0 => whole.amax,
            (Self::Percentile(p), _) => whole.elements.quantile(p / 100.0)?,
            (Self::RunPercentile(p), _) => tap.sample_quantile(p / 100.0)?,
            (Self::Headroom, Format::Nvfp4) => headroom(whole)?,
            (Self::Mse, _) => return None,
        };
        // The middle of a bin may lie above all that is in it; headroom is meant to.
        let amax = match self {
            Self::Headroom => amax,
            _ => amax.min(whole.amax),
        };
        (amax > 0.0).then(|| Choice {
            amax,
            predicted: predict(whole, format, amax),
        })
    }
}

/// What `amax` would do to what was seen.
pub fn predict(whole: &Tally, format: Format, amax: f32) -> Predicted {
    match format {
        Format::Nvfp4 => whole.predict_nvfp4(amax),
        Format::Fp8 => whole.predict_fp8(amax),
    }
}

/// The range with the smallest predicted error; of equal ones the largest.
fn least_error(whole: &Tally, format: Format) -> Option<Choice> {
    if whole.amax <= 0.0 {
        return None;
    }
    let choices = RATIOS.map(|i| {
        let amax = whole.amax * (i as f32 / 8.0).exp2();
        Choice {
            amax,
            predicted: predict(whole, format, amax),
        }
    });
    let usable = choices.filter(|c| c.amax.is_finite() && c.amax > 0.0);
    usable.max_by(|a, b| a.predicted.sqnr_db.total_cmp(&b.predicted.sqnr_db))
}

/// Blocks at the low end of what was seen get scales well inside of E4M3's range, which leaves room above for what was not
/// seen: `max(16384 * p1, p99.99)` over the largest magnitudes of blocks.
fn headroom(whole: &Tally) -> Option<f32> {
    let mut blocks = whole.blocks.clone();
    blocks.clear_below(f32::MIN_POSITIVE);
    let upper = blocks.quantile(UPPER)?;
    blocks.clear_below(upper / FLOOR);
    let anchor = blocks.quantile(ANCHOR)?;
    Some((RHO * anchor).max(upper))
}

impl fmt::Display for Statistic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Max => f.write_str("max"),
            Self::Percentile(p) => write!(f, "p{p}"),
            Self::RunPercentile(p) => write!(f, "run-p{p}"),
            Self::Mse => f.write_str("mse"),
            Self::Headroom => f.write_str("headroom"),
        }
    }
}

impl FromStr for Statistic {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, String> {
        let percent = |digits: &str| match digits.parse::<f64>() {
            Ok(p) if p > 0.0 && p <= 100.0 => Ok(p),
            _ => Err(format!("`{word}` is no percentile; give one as p99.9")),
        };
        match word {
            "max" | "amax" => Ok(Self::Max),
            "mse" => Ok(Self::Mse),
            "headroom" => Ok(Self::Headroom),
            _ => match (word.strip_prefix("run-p"), word.strip_prefix('p')) {
                (Some(digits), _) => Ok(Self::RunPercentile(percent(digits)?)),
                (None, Some(digits)) => Ok(Self::Percentile(percent(digits)?)),
                _ => Err(format!(
                    "`{word}` is no statistic; there are max, p99.9 (any percentile of values), run-p99.9 (of the samples' maxima), mse and headroom"
                )),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn names_come_back() {
        for statistic in LISTED {
            let name = statistic.to_string();
            assert_eq!(name.parse::<Statistic>(), Ok(statistic), "{name}");
        }
        for wrong in ["p", "p0", "p101", "pNaN", "run-px", "mean", ""] {
            assert!(wrong.parse::<Statistic>().is_err(), "{wrong}");
        }
    }

    fn seen(x: &[f32]) -> (Tap, Tally) {
        let mut tally = Tally::default();
        tally.add(x, x.len(), 0, &mut Default::default());
        let mut tap = Tap::default();
        tap.levels[2] = Some(Box::new(tally));
        let whole = tap.whole();
        (tap, whole)
    }

    #[test]
    fn each_chooses_as_it_says() {
        // 1 to 1000; the samples' maxima are 8, 8 and 64.
        let x: Vec<f32> = (1..=1000).map(|i| i as f32).collect();
        let (mut tap, whole) = seen(&x);
        tap.samples = [
            (crate::numerics::tally::Elements::bin(8.0), 2),
            (crate::numerics::tally::Elements::bin(64.0), 1),
        ]
        .into();
        let amax = |s: Statistic, f| s.choose(&tap, &whole, f).unwrap().amax;
        for format in [Format::Nvfp4, Format::Fp8] {
            assert_eq!(amax(Statistic::Max, format), 1000.0);
            assert_eq!(amax(Statistic::Percentile(100.0), format), 1000.0);
            let p = amax(Statistic::Percentile(90.0), format);
            assert!((p / 900.0 - 1.0).abs() < 0.01, "{p}");
            let p = amax(Statistic::RunPercentile(60.0), format);
            assert!((p / 8.0 - 1.0).abs() < 0.01, "{p}");
            let p = amax(Statistic::RunPercentile(99.9), format);
            assert!((p / 64.0 - 1.0).abs() < 0.01, "{p}");
            let best = Statistic::Mse.choose(&tap, &whole, format).unwrap();
            let max = Statistic::Max.choose(&tap, &whole, format).unwrap();
            assert!(best.predicted.sqnr_db >= max.predicted.sqnr_db);
        }
        assert_eq!(amax(Statistic::Headroom, Format::Fp8), 1000.0);
    }

    /// Model-Optimizer's formula on blocks whose largest are 1 (hundreds of them), 2^-30 (to be ignored) and 40.
    #[test]
    fn headroom_is_anchored_low() {
        let mut x = vec![1.0; 16 * 500];
        x.extend([2f32.powi(-23); 16]);
        x.extend([40.0; 16]);
        let (tap, whole) = seen(&x);
        let got = Statistic::Headroom
            .choose(&tap, &whole, Format::Nvfp4)
            .unwrap();
        assert!((got.amax / 16_384.0 - 1.0).abs() < 0.04, "{got:?}");
        assert_eq!(got.predicted.clipped, 0.0);
        let (tap, whole) = seen(&[0.0; 32]);
        assert_eq!(
            Statistic::Headroom.choose(&tap, &whole, Format::Nvfp4),
            None
        );
        assert_eq!(Statistic::Max.choose(&tap, &whole, Format::Nvfp4), None);
    }
}
