//! A running summary of activations that quantization is judged by: fixed memory, one pass, integer counts and maxima, so
//! that parts add up to the same bits in any order.
//!
//! The trick: of 16 numbers (an NVFP4 block) the bins are found by shifts and clamps, which vectorise; only the increments
//! are scalar. Per number of a block the place below the block's largest is counted in one of [`SAMPLED`] blocks.

mod histogram;
mod predict;

pub use self::histogram::Log2Histogram;
pub use self::predict::Predicted;
use super::nvfp4::BLOCK;
use super::simd::multiversion;

/// Bins of magnitudes: 64 an octave, values within 0.8 %.
pub type Elements = Log2Histogram<6>;
/// Bins of the largest magnitudes of blocks: 16 an octave, values within 3 %.
pub type Blocks = Log2Histogram<4>;

/// One block in so many is looked at closely: which one depends on its row and column alone.
const SAMPLED: usize = 8;
/// Parts of a block's range.
const PARTS: usize = 32;
/// Rows of [`Profile`]: two octaves of the block's largest magnitude each, and the two ends.
const ROWS: usize = Blocks::BINS.div_ceil(ROW_BINS) + 1;
/// Bins of a block's largest magnitude in a row.
const ROW_BINS: usize = 32;

/// How magnitudes lie below the largest of their block: `counts[row][part]`, part 32 for the largest itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Profile {
    counts: Vec<[u64; PARTS + 1]>,
}

impl Default for Profile {
    fn default() -> Self {
        Self {
            counts: vec![[0; PARTS + 1]; ROWS],
        }
    }
}

impl Profile {
    /// Counts of all rows, one after the other.
    pub fn counts(&self) -> &[u64] {
        self.counts.as_flattened()
    }

    /// How the other numbers of a block lie below its largest, which is in this bin: shares of 1. Blocks of any size where
    /// none of that size was looked at.
    fn below(&self, bin: usize) -> [f64; PARTS + 1] {
        let mut counts = self.counts[profile_row(bin)];
        if counts.iter().all(|n| *n == 0) {
            let all = self.counts.iter();
            counts = std::array::from_fn(|part| all.clone().map(|row| row[part]).sum());
        }
        let seen: u64 = counts.iter().sum();
        // One of each block is the largest itself.
        counts[PARTS] -= (seen / BLOCK as u64).min(counts[PARTS]);
        let others = counts.iter().sum::<u64>().max(1) as f64;
        counts.map(|n| n as f64 / others)
    }

    /// Counts of all rows, to fill in.
    pub fn counts_mut(&mut self) -> &mut [u64] {
        self.counts.as_flattened_mut()
    }
}

/// What is kept of the numbers that came by.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Tally {
    /// The largest magnitude, exactly; not a number, or infinite, where one of them was.
    pub amax: f32,
    /// Magnitudes.
    pub elements: Elements,
    /// The largest magnitude of every 16 columns of a row.
    pub blocks: Blocks,
    /// What lies below it.
    pub profile: Profile,
}

impl Tally {
    /// Bytes that every one of them takes.
    pub const BYTES: usize = 8 * (Elements::BINS + Blocks::BINS + ROWS * (PARTS + 1));

    /// Counts rows of `k` numbers, the first of which is row `row` of its tensor, and returns their largest magnitude: not a
    /// number, or infinite, where one of them is.
    ///
    /// # Panics
    /// If `k` is 0.
    pub fn add(&mut self, x: &[f32], k: usize, row: usize) -> f32 {
        let mut largest = 0;
        for (i, x) in x.chunks(k).enumerate() {
            let magnitude = add_row(
                x,
                row + i,
                self.elements.counts_mut(),
                self.blocks.counts_mut(),
                &mut self.profile.counts,
            );
            // As bits magnitudes are in order, NaN above all of them.
            largest = largest.max(magnitude);
        }
        self.amax = f32::from_bits(self.amax.to_bits().max(largest));
        f32::from_bits(largest)
    }

    /// Adds what another one saw: exact, in any order.
    pub fn merge(&mut self, other: &Self) {
        self.amax = f32::from_bits(self.amax.to_bits().max(other.amax.to_bits()));
        self.elements.merge(&other.elements);
        self.blocks.merge(&other.blocks);
        let mine = self.profile.counts_mut().iter_mut();
        for (n, more) in mine.zip(other.profile.counts()) {
            *n += more;
        }
    }
}

/// The row of [`Profile`] for a block whose largest magnitude is in this bin.
fn profile_row(bin: usize) -> usize {
    bin / ROW_BINS
}

multiversion! {
    /// Counts one row and returns the bits of its largest magnitude.
    fn add_row(x: &[f32], row: usize, elements: &mut [u64], blocks: &mut [u64], profile: &mut [[u64; PARTS + 1]]) -> u32 {
        let elements = &mut elements[..Elements::BINS];
        let mut largest = 0;
        for (column, block) in x.chunks(BLOCK).enumerate() {
            let mut bins = [0u32; BLOCK];
            let mut max = 0;
            for (bin, x) in bins.iter_mut().zip(block) {
                let magnitude = x.to_bits() & 0x7fff_ffff;
                max = max.max(magnitude);
                *bin = Elements::bin_of_bits(magnitude);
            }
            for bin in &bins[..block.len()] {
                elements[*bin as usize] += 1;
            }
            let bin = Blocks::bin_of_bits(max) as usize;
            blocks[bin] += 1;
            largest = largest.max(max);
            if (row + column) % SAMPLED == 0 && bin > 0 {
                let counts = &mut profile[profile_row(bin)];
                let parts = PARTS as f32 / f32::from_bits(max);
                for x in block {
                    let part = ((x.abs() * parts) as usize).min(PARTS - 1);
                    let is_largest = x.to_bits() & 0x7fff_ffff == max;
                    counts[if is_largest { PARTS } else { part }] += 1;
                }
            }
        }
        largest
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Whatever the order and the parts, the counts are the same, and are what a plain loop counts.
        #[test]
        fn parts_add_up(x in prop::collection::vec(-100f32..100.0, 1..400), k in 1usize..70, cut in 0usize..8) {
            let rows = x.len() / k;
            prop_assume!(rows > 0);
            let x = &x[..rows * k];
            let mut whole = Tally::default();
            whole.add(x, k, 0);
            let cut = cut.min(rows);
            let (mut a, mut b) = (Tally::default(), Tally::default());
            b.add(&x[cut * k..], k, cut);
            a.add(&x[..cut * k], k, 0);
            b.merge(&a);
            prop_assert_eq!(&whole, &b);

            let mut elements = Elements::default();
            x.iter().for_each(|x| elements.add(*x));
            let mut blocks = Blocks::default();
            let amax = |x: &[f32]| x.iter().fold(0f32, |m, x| m.max(x.abs()));
            x.chunks(k).flat_map(|row| row.chunks(BLOCK)).for_each(|block| blocks.add(amax(block)));
            prop_assert_eq!(&whole.elements, &elements);
            prop_assert_eq!(&whole.blocks, &blocks);
            prop_assert_eq!(whole.amax, amax(x));
        }
    }

    #[test]
    fn what_is_no_number_shows() {
        for bad in [f32::NAN, f32::INFINITY, -f32::INFINITY] {
            let mut tally = Tally::default();
            tally.add(&[1.0, bad, 2.0], 3, 0);
            assert!(!tally.amax.is_finite(), "{bad}");
        }
    }

    #[test]
    fn a_profile_counts_one_block_in_eight() {
        let mut tally = Tally::default();
        let row: Vec<f32> = (0..64 * BLOCK).map(|i| (i % BLOCK + 1) as f32).collect();
        tally.add(&row, row.len(), 0);
        let counts = &tally.profile.counts[profile_row(Blocks::bin(16.0))];
        // 1 to 16 of 16, twice as many parts.
        assert_eq!(counts.iter().sum::<u64>(), (8 * BLOCK) as u64);
        assert_eq!(
            (counts[2], counts[30], counts[31], counts[32]),
            (8, 8, 0, 8)
        );
    }
}
