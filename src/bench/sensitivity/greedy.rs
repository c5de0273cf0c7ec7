//! Which groups to put into NVFP4 under a budget: those first that cost least error for the time that they save.
//!
//! Errors of groups are taken to be independent of each other and of FP8's: their squares add up, by step. That is a
//! prediction; what is suggested is converted and measured.

use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// What a suggestion may cost.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Budget {
    /// So many times the velocity error of policy v3 at most; then as fast as can be.
    TimesV3(f64),
    /// Seconds a picture that the blocks' linears may take; no more error than that asks for.
    Seconds(f64),
}

impl FromStr for Budget {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let seconds =
            |number: &str, unit: f64| number.parse().map(|x: f64| Self::Seconds(x * unit));
        let parsed = match (text.strip_suffix("ms"), text.strip_suffix('s')) {
            (Some(number), _) => seconds(number, 1e-3),
            (None, Some(number)) => seconds(number, 1.0),
            (None, None) => text.parse().map(Self::TimesV3),
        };
        match parsed {
            Ok(budget @ (Self::TimesV3(x) | Self::Seconds(x))) if x.is_finite() && x > 0.0 => {
                Ok(budget)
            }
            _ => Err("a budget is a number above 0 (times the error of v3), or seconds with their unit: 0.9, 12ms, 3.5s".to_owned()),
        }
    }
}

/// A group that may become NVFP4.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// Velocity error by step with this group alone in NVFP4.
    pub by_step: Vec<f64>,
    /// Seconds of a picture that it saves. Negative where it costs some.
    pub saved_s: f64,
}

/// What a choice must keep.
#[derive(Clone, Copy, Debug)]
pub enum Limit {
    /// Predicted velocity error at most.
    Error(f64),
    /// Seconds to save at least.
    Saved(f64),
}

/// The error that is predicted of all `chosen` together: by step the squares of what each adds to that of FP8 add up.
/// The mean over steps.
pub fn predict<'a>(fp8: &[f64], chosen: impl Iterator<Item = &'a Candidate> + Clone) -> f64 {
    let steps = fp8.iter().enumerate().map(|(step, fp8)| {
        let square = fp8 * fp8;
        let added = chosen.clone().map(|c| c.by_step[step].powi(2) - square);
        (square + added.sum::<f64>()).max(0.0).sqrt()
    });
    steps.sum::<f64>() / fp8.len().max(1) as f64
}

/// Places in `candidates`, in the order in which they were taken: the least error for the time first. What saves no time is
/// never taken; what would break a limit on the error is passed over; a limit on time ends the choice once it is kept.
pub fn choose(fp8: &[f64], candidates: &[Candidate], limit: Limit) -> Vec<usize> {
    let alone = |c: &Candidate| predict(fp8, std::iter::once(c)) - predict(fp8, [].iter());
    // Less than nothing is an accident of the measurement.
    let price = |i: &usize| alone(&candidates[*i]).max(0.0) / candidates[*i].saved_s;
    let mut order: Vec<usize> = (0..candidates.len())
        .filter(|i| candidates[*i].saved_s > 0.0)
        .collect();
    order.sort_by(|a, b| price(a).total_cmp(&price(b)).then(a.cmp(b)));
    let mut chosen: Vec<usize> = Vec::new();
    for i in order {
        match limit {
            Limit::Saved(wanted) => {
                let saved: f64 = chosen.iter().map(|i| candidates[*i].saved_s).sum();
                if saved >= wanted {
                    break;
                }
                chosen.push(i);
            }
            Limit::Error(most) => {
                let with = chosen.iter().chain([&i]).map(|i| &candidates[*i]);
                if predict(fp8, with) <= most {
                    chosen.push(i);
                }
            }
        }
    }
    chosen
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidates(of: &[(f64, f64)]) -> Vec<Candidate> {
        let one = |(error, saved_s): &(f64, f64)| Candidate {
            by_step: vec![*error, *error],
            saved_s: *saved_s,
        };
        of.iter().map(one).collect()
    }

    const FP8: [f64; 2] = [0.3, 0.3];

    #[test]
    fn squares_add_up() {
        // 0.3^2 + (0.5^2 - 0.3^2) + (0.34^2 - 0.3^2)
        let c = candidates(&[(0.5, 1.0), (0.34, 1.0)]);
        let expected = (0.25f64 + 0.34 * 0.34 - 0.09).sqrt();
        assert!((predict(&FP8, c.iter()) - expected).abs() < 1e-12);
        assert!((predict(&FP8, [].iter()) - 0.3).abs() < 1e-12);
    }

    #[test]
    fn the_cheapest_error_for_the_time_comes_first() {
        // Added for each second: 0.1, 0.02, none, no time saved, 0.2.
        let c = candidates(&[
            (0.4, 1.0),
            (0.34, 2.0),
            (0.29, 0.5),
            (0.3, -1.0),
            (0.5, 1.0),
        ]);
        assert_eq!(choose(&FP8, &c, Limit::Error(9.0)), [2, 1, 0, 4]);
        assert_eq!(choose(&FP8, &c, Limit::Saved(2.0)), [2, 1]);
        assert_eq!(choose(&FP8, &c, Limit::Saved(0.0)), [] as [usize; 0]);
        assert_eq!(choose(&FP8, &c, Limit::Saved(99.0)), [2, 1, 0, 4]);
    }

    #[test]
    fn what_breaks_the_limit_is_passed_over() {
        // Added for each second: 0.002, 0.1, 1. The last two together: 0.408; the first with the last: 0.506.
        let c = candidates(&[(0.5, 100.0), (0.4, 1.0), (0.31, 0.01)]);
        assert_eq!(choose(&FP8, &c, Limit::Error(0.45)), [1, 2]);
        assert_eq!(choose(&FP8, &c, Limit::Error(0.3)), [] as [usize; 0]);
        assert_eq!(choose(&FP8, &c, Limit::Error(0.501)), [0]);
    }

    #[test]
    fn budgets_are_read_with_their_unit() {
        let read = |text: &str| text.parse::<Budget>();
        assert_eq!(read("0.9"), Ok(Budget::TimesV3(0.9)));
        assert_eq!(read("12ms"), Ok(Budget::Seconds(0.012)));
        assert_eq!(read("3.5s"), Ok(Budget::Seconds(3.5)));
        for wrong in ["", "0", "-1", "NaN", "inf", "s", "ms", "1m", "x"] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }
}
