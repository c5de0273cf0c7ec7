//! What generations showed of a model's activations: a [`Tap`] per distinct input, and which layers read it.
//!
//! Layers that share their input (`to_q`, `to_k`, `to_v`; all modulations) share a tap. Six tallies, one per range of noise
//! levels, are all that a tap holds, however much it sees.

use std::collections::BTreeMap;

use crate::numerics::tally::{Elements, Tally};

/// Ranges of noise levels: the sixths of [0, 1], the noisiest first, as in ComfyUI's capture.
pub const LEVELS: usize = 6;

/// The range to which a noise level `sigma` in [0, 1] belongs.
pub fn level_of(sigma: f32) -> usize {
    let at = ((1.0 - sigma.clamp(0.0, 1.0)) * LEVELS as f32) as usize;
    at.min(LEVELS - 1)
}

/// An input of one or several layers.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Tap {
    /// By range of noise levels; nothing where it never ran.
    pub levels: [Option<Box<Tally>>; LEVELS],
    /// Bins of [`Elements`] of the largest magnitudes of whole samples, and how many samples had them.
    pub samples: BTreeMap<usize, u64>,
}

impl Tap {
    /// All noise levels together.
    pub fn whole(&self) -> Tally {
        let mut whole = Tally::default();
        self.levels.iter().flatten().for_each(|t| whole.merge(t));
        whole
    }

    /// Adds what another one saw: exact, in any order.
    pub fn merge(&mut self, other: &Self) {
        for (mine, theirs) in self.levels.iter_mut().zip(&other.levels) {
            match (mine, theirs) {
                (Some(mine), Some(theirs)) => mine.merge(theirs),
                (mine @ None, Some(theirs)) => *mine = Some(theirs.clone()),
                (_, None) => {}
            }
        }
        for (bin, n) in &other.samples {
            *self.samples.entry(*bin).or_default() += n;
        }
    }

    /// The largest magnitude that at least `share` of the samples do not exceed, to within a bin.
    pub fn sample_quantile(&self, share: f64) -> Option<f32> {
        let mut histogram = Elements::default();
        let known = self
            .samples
            .iter()
            .filter(|(bin, _)| **bin < Elements::BINS);
        known.for_each(|(bin, n)| histogram.add_to_bin(*bin, *n));
        histogram.quantile(share)
    }
}

/// Taps by the layers that read them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Capture {
    /// In the order in which the layers first ran.
    pub taps: Vec<Tap>,
    /// Place in `taps` by layer name without prefix.
    pub layers: BTreeMap<String, usize>,
}

impl Capture {
    /// Adds what another run of the same model saw: exact, in any order.
    ///
    /// # Errors
    /// The first layer that only one of them has, or that shares its input with other layers.
    pub fn merge(&mut self, other: &Self) -> Result<(), String> {
        if self.layers.is_empty() {
            *self = other.clone();
            return Ok(());
        }
        let pairs = self.layers.iter().zip(&other.layers);
        let differs = |((a, i), (b, j)): &((&String, &usize), (&String, &usize))| a != b || i != j;
        let first = pairs.clone().find(differs).map(|((a, _), (b, _))| a.min(b));
        let longer = match self.layers.len() > other.layers.len() {
            true => self,
            false => {
                if self.layers.len() == other.layers.len() && first.is_none() {
                    let pairs = self.taps.iter_mut().zip(&other.taps);
                    pairs.for_each(|(mine, theirs)| mine.merge(theirs));
                    return Ok(());
                }
                other
            }
        };
        let last = longer.layers.keys().next_back();
        Err(first.or(last).cloned().unwrap_or_default())
    }

    /// Bytes of all tallies.
    pub fn bytes(&self) -> usize {
        let tallies = self.taps.iter().flat_map(|tap| tap.levels.iter().flatten());
        tallies.count() * Tally::BYTES
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// ComfyUI's `clamp(int((1 - sigma) * 6), 0, 5)`.
    #[test]
    fn levels_are_sixths() {
        let sigmas = [
            1.0, 0.84, 0.82, 0.65, 0.34, 0.32, 0.17, 0.16, 0.0, 1.5, -1.0,
        ];
        let levels = sigmas.map(level_of);
        assert_eq!(levels, [0, 0, 1, 2, 3, 4, 4, 5, 5, 0, 5]);
    }

    #[test]
    fn other_layers_do_not_merge() {
        let capture = |layers: &[&str]| Capture {
            taps: vec![Tap::default(); layers.len()],
            layers: layers
                .iter()
                .zip(0..)
                .map(|(l, i)| ((*l).to_owned(), i))
                .collect(),
        };
        let mut a = capture(&["a", "b"]);
        assert!(a.merge(&capture(&["a", "b"])).is_ok());
        assert_eq!(a.merge(&capture(&["a", "c"])), Err("b".to_owned()));
        assert_eq!(a.merge(&capture(&["a"])), Err("b".to_owned()));
        assert_eq!(a.merge(&capture(&["a", "b", "c"])), Err("c".to_owned()));
    }
}
