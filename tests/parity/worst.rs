//! The largest difference of each kind of stage.

use std::collections::BTreeMap;

/// Largest differences, over the reference's root mean square.
#[derive(Clone, Copy)]
pub struct Limits {
    /// Embeddings, blocks, velocities.
    pub stage: f64,
    /// Latents after steps.
    pub latents: f64,
}

/// The largest difference per kind of stage, with its limit.
pub struct Worst {
    /// What to hold stages to.
    pub limits: Limits,
    kinds: BTreeMap<String, (f64, f64)>,
}

impl Worst {
    /// Nothing compared yet.
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            kinds: BTreeMap::new(),
        }
    }

    /// Notes `max |got - expected| / rms(expected)` under `kind`.
    pub fn compare(&mut self, kind: &str, limit: f64, got: &[f32], expected: &[f32]) {
        assert_eq!(got.len(), expected.len(), "{kind}");
        let rms = (expected.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>()
            / expected.len() as f64)
            .sqrt();
        let largest = got
            .iter()
            .zip(expected)
            .map(|(a, b)| f64::from((a - b).abs()))
            .fold(0.0, f64::max);
        assert!(
            expected.iter().all(|v| v.is_finite()),
            "{kind}: the reference"
        );
        assert!(got.iter().all(|v| v.is_finite()), "{kind} is not finite");
        self.note(kind, limit, largest / rms);
    }

    /// Notes a difference that is to stay at or below `limit`.
    pub fn note(&mut self, kind: &str, limit: f64, difference: f64) {
        let entry = self.kinds.entry(kind.to_owned()).or_insert((0.0, limit));
        // A NaN must not pass as small.
        entry.0 = match difference.is_nan() {
            true => f64::INFINITY,
            false => entry.0.max(difference),
        };
    }

    /// Prints every kind, and fails where one is over its limit.
    pub fn report(&self, pipeline: &str) {
        for (kind, (worst, limit)) in &self.kinds {
            println!("{pipeline:10} {kind:28} {worst:.1e}  (limit {limit:.0e})");
        }
        let failed: Vec<_> = self
            .kinds
            .iter()
            .filter(|(_, (worst, limit))| worst > limit)
            .collect();
        assert!(failed.is_empty(), "{pipeline}: {failed:?}");
    }
}
