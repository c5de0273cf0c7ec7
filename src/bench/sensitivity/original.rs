//! How dear the original pipeline held each type of layer, as its policies v1 to v5 say, against what is measured.
//!
//! Its ranking is read off what each version moves back from NVFP4 to FP8: that what v4 gives up
//! first was held for worse than what v5 gives up next, and that what was never NVFP4 was held for worst of all.

use serde::{Deserialize, Serialize};

use crate::quantize::Policy;
use crate::quantize::policy::Target;

/// How dear a type of layer was held, the least first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Tier {
    /// NVFP4 in every version.
    Low,
    /// FP8 from v5 on.
    Medium,
    /// FP8 from v4 on.
    High,
    /// FP8 in every version.
    Critical,
}

impl Tier {
    /// Of a type (`attn.to_q`); nothing where no version has a rule for it.
    pub fn of(layer_type: &str) -> Option<Self> {
        let name = format!("transformer_blocks.0.{layer_type}.weight");
        let target = |policy| Some(Policy::built_in(policy)?.ok()?.decide(&name).target);
        match [target("v3")?, target("v4")?, target("v5")?] {
            [Target::Nvfp4, Target::Nvfp4, Target::Nvfp4] => Some(Self::Low),
            [Target::Nvfp4, Target::Nvfp4, Target::Fp8] => Some(Self::Medium),
            [Target::Nvfp4, Target::Fp8, _] => Some(Self::High),
            [Target::Fp8, ..] => Some(Self::Critical),
            _ => None,
        }
    }

    /// For tables.
    pub fn word(self) -> &'static str {
        match self {
            Self::Low => "low",
            Self::Medium => "medium",
            Self::High => "high",
            Self::Critical => "critical",
        }
    }
}

/// Spearman's rank correlation of pairs, equal values with their mean rank; nothing where one side is all alike.
pub fn rank_correlation(pairs: &[(f64, f64)]) -> Option<f64> {
    let side = |of: fn(&(f64, f64)) -> f64| ranks(&pairs.iter().map(of).collect::<Vec<_>>());
    let (a, b) = (side(|p| p.0), side(|p| p.1));
    let middle = (pairs.len() as f64 + 1.0) / 2.0;
    let sum = |of: &dyn Fn(f64, f64) -> f64| -> f64 {
        let pairs = a.iter().zip(&b);
        pairs.map(|(a, b)| of(a - middle, b - middle)).sum()
    };
    let spread = (sum(&|a, _| a * a) * sum(&|_, b| b * b)).sqrt();
    (spread > 0.0).then(|| sum(&|a, b| a * b) / spread)
}

/// Ranks from 1; those of equal values are their mean.
fn ranks(values: &[f64]) -> Vec<f64> {
    let rank = |v: &f64| {
        let below = values.iter().filter(|w| *w < v).count();
        let equal = values.iter().filter(|w| *w == v).count();
        below as f64 + (equal as f64 + 1.0) / 2.0
    };
    values.iter().map(rank).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn tiers_are_what_the_policies_say() {
        for (layer_type, tier) in [
            ("attn.to_q", Some(Tier::Low)),
            ("attn.to_k", Some(Tier::Low)),
            ("img_mlp.net.2", Some(Tier::Low)),
            ("img_mlp.net.0.proj", Some(Tier::Medium)),
            ("attn.to_v", Some(Tier::High)),
            ("attn.to_out.0", Some(Tier::High)),
            ("txt_mlp.net.0.proj", Some(Tier::Critical)),
            ("img_mod.1", Some(Tier::Critical)),
            ("attn.add_q_proj", None),
        ] {
            assert_eq!(Tier::of(layer_type), tier, "{layer_type}");
        }
    }

    /// `scipy.stats.spearmanr`.
    #[test]
    fn ranks_correlate_as_in_scipy() {
        let pairs = [(1.0, 5.0), (2.0, 6.0), (3.0, 7.0), (4.0, 8.0), (5.0, 7.0)];
        assert!((rank_correlation(&pairs).unwrap() - 0.820_782_681_668_123_6).abs() < 1e-12);
        let falling = [(1.0, 3.0), (2.0, 2.0), (9.0, 1.0)];
        assert!((rank_correlation(&falling).unwrap() + 1.0).abs() < 1e-12);
        assert_eq!(rank_correlation(&[(1.0, 1.0), (2.0, 1.0)]), None);
        assert_eq!(rank_correlation(&[]), None);
    }
}
