//! Which samples a calibration has seen.

use serde::{Deserialize, Serialize};

/// No sample has a number as large as this: sums over several files stay in 64 bits.
pub(super) const MOST: u64 = 1 << 56;

/// A set of sample numbers, as unbroken rows `[first, last]` in order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Samples(Vec<[u64; 2]>);

impl Samples {
    /// How many there are.
    pub fn count(&self) -> u64 {
        self.0.iter().map(|[first, last]| last - first + 1).sum()
    }

    /// All of them, in order.
    pub fn iter(&self) -> impl Iterator<Item = u64> {
        self.0.iter().flat_map(|[first, last]| *first..=*last)
    }

    /// Whether sample `i` is in.
    pub fn contains(&self, i: u64) -> bool {
        self.0
            .iter()
            .any(|[first, last]| (*first..=*last).contains(&i))
    }

    /// Whether rows are in order and apart, and no sum over them can overflow.
    pub(super) fn is_sound(&self) -> bool {
        let apart = |w: &[[u64; 2]]| w[0][1].checked_add(1).is_some_and(|next| next < w[1][0]);
        self.0
            .iter()
            .all(|[first, last]| first <= last && *last < MOST)
            && self.0.windows(2).all(apart)
    }

    /// Takes sample `i` in.
    pub fn insert(&mut self, i: u64) {
        let _ = self.merge(&Self(vec![[i, i]]));
    }

    /// Takes in all of another set.
    ///
    /// # Errors
    /// The first sample that is in both.
    pub fn merge(&mut self, other: &Self) -> Result<(), u64> {
        let both = |[first, last]: &[u64; 2]| {
            let rows = other.0.iter();
            rows.filter(|o| o[0] <= *last && *first <= o[1])
                .map(|o| o[0].max(*first))
                .min()
        };
        let twice = self.0.iter().filter_map(both).min();
        let mut rows = [self.0.as_slice(), &other.0].concat();
        rows.sort_unstable();
        self.0.clear();
        for [first, last] in rows {
            match self.0.last_mut() {
                Some(row) if first <= row[1].saturating_add(1) => row[1] = row[1].max(last),
                _ => self.0.push([first, last]),
            }
        }
        twice.map_or(Ok(()), Err)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_set_of_numbers(a in prop::collection::btree_set(0u64..60, 0..30), b in prop::collection::btree_set(0u64..60, 0..30)) {
            let of = |set: &std::collections::BTreeSet<u64>| {
                let mut samples = Samples::default();
                // From the last to the first: the order does not count.
                set.iter().rev().for_each(|i| samples.insert(*i));
                samples
            };
            let (mut mine, theirs) = (of(&a), of(&b));
            prop_assert!(mine.is_sound());
            prop_assert_eq!(mine.count(), a.len() as u64);
            prop_assert!((0..60).all(|i| mine.contains(i) == a.contains(&i)));
            let twice = a.intersection(&b).min().copied();
            prop_assert_eq!(mine.merge(&theirs), twice.map_or(Ok(()), Err));
            prop_assert_eq!(mine, of(&a.union(&b).copied().collect()));
        }
    }
}
