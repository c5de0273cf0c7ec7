//! A running summary of activations that quantization is judged by: fixed memory, one pass, integer counts and maxima, so
//! that parts add up to the same bits in any order.
//!
//! The trick: of 16 numbers (an NVFP4 block) the bins are found by shifts and clamps, which vectorise; only the increments
//! are scalar, in a [`Scratch`] that stays in the first cache, from which the few octaves that were met are added to the
//! counts. Per number of a block the place below the block's largest is counted in one of [`SAMPLED`] blocks.

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
const SAMPLED: usize = 16;
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
    pub fn add(&mut self, x: &[f32], k: usize, row: usize, scratch: &mut Scratch) -> f32 {
        let mut largest = 0;
        // Before a count of 32 bits could overflow.
        let rows = (1 << 30) / k.max(1) + 1;
        for (part, x) in x.chunks(rows * k).enumerate() {
            let mut to = To {
                elements: &mut *scratch,
                blocks: self.blocks.counts_mut(),
                profile: &mut self.profile.counts,
            };
            let met = add_rows(x, k, row + part * rows, &mut to);
            scratch.empty_into(self.elements.counts_mut(), met);
            // As bits magnitudes are in order, NaN above all of them.
            largest = largest.max(met[1]);
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

/// Bins of a table, so many that a masked index is always inside.
const TABLE: usize = Elements::BINS.next_power_of_two();
/// Blocks whose bins are found before they are counted: apart, since a load that meets part of a wide store waits for it.
const TOGETHER: usize = 16;

/// Where magnitudes are counted first: two tables in turn, so that equal neighbours do not wait for each other.
#[derive(Clone, Debug)]
pub struct Scratch {
    even: Box<[u32; TABLE]>,
    odd: Box<[u32; TABLE]>,
}

impl Default for Scratch {
    fn default() -> Self {
        Self {
            even: Box::new([0; TABLE]),
            odd: Box::new([0; TABLE]),
        }
    }
}

impl Scratch {
    fn count(&mut self, bins: &[u16]) {
        let (fours, rest) = bins.as_chunks::<4>();
        let place = |bin: u64| bin as usize % TABLE;
        for [a, b, c, d] in fours {
            // One load for four.
            let four =
                u64::from(*a) | u64::from(*b) << 16 | u64::from(*c) << 32 | u64::from(*d) << 48;
            self.even[place(four)] += 1;
            self.odd[place(four >> 16)] += 1;
            self.even[place(four >> 32)] += 1;
            self.odd[place(four >> 48)] += 1;
        }
        rest.iter()
            .for_each(|bin| self.even[place(u64::from(*bin))] += 1);
    }

    /// Adds the counts of magnitudes with these bits, the smallest and the largest met.
    fn empty_into(&mut self, counts: &mut [u64], [smallest, largest]: [u32; 2]) {
        let met = Elements::bin_of_bits(smallest)..=Elements::bin_of_bits(largest);
        if met.is_empty() {
            return;
        }
        let met = usize::from(*met.start())..=usize::from(*met.end());
        let even = self.even[met.clone()].iter_mut();
        let both = even.zip(&mut self.odd[met.clone()]);
        for (n, (even, odd)) in counts[met].iter_mut().zip(both) {
            *n += u64::from(std::mem::take(even)) + u64::from(std::mem::take(odd));
        }
    }
}

/// What a row is added to.
struct To<'a> {
    elements: &'a mut Scratch,
    blocks: &'a mut [u64],
    profile: &'a mut [[u64; PARTS + 1]],
}

/// Counts rows of `k`, the first of which is row `row`, and returns the bits of the smallest and the largest magnitude.
fn add_rows(x: &[f32], k: usize, row: usize, to: &mut To<'_>) -> [u32; 2] {
    let (whole, rest) = x.as_chunks::<BLOCK>();
    if k.is_multiple_of(BLOCK) && rest.is_empty() {
        return add_blocks(whole, k / BLOCK, row, to);
    }
    let mut met = [u32::MAX, 0];
    for (i, x) in x.chunks(k).enumerate() {
        let (whole, rest) = x.as_chunks::<BLOCK>();
        // More blocks in a row than there are: the row does not end.
        let [low, high] = add_blocks(whole, whole.len() + 1, row + i, to);
        met = [met[0].min(low), met[1].max(high)];
        let magnitudes = rest.iter().map(|x| x.to_bits() & MAGNITUDE);
        if let Some(top) = magnitudes.clone().max() {
            for magnitude in magnitudes {
                met = [met[0].min(magnitude), met[1].max(magnitude)];
                to.elements.count(&[Elements::bin_of_bits(magnitude)]);
            }
            to.add_block(rest, top, (row + i + whole.len()).is_multiple_of(SAMPLED));
        }
    }
    met
}

multiversion! {
    /// Counts blocks, so many of which are a row, the first one being row `row`; returns the bits of the smallest and the
    /// largest magnitude.
    fn add_blocks(x: &[[f32; BLOCK]], per_row: usize, row: usize, to: &mut To<'_>) -> [u32; 2] {
        let mut low = [u32::MAX; BLOCK];
        let mut largest = 0;
        let mut bins = [[0u16; BLOCK]; TOGETHER];
        let mut tops = [0u32; TOGETHER];
        // Of each row one block in sixteen is looked at, in the next row its neighbour.
        let (mut row, mut column) = (row, 0);
        for blocks in x.chunks(TOGETHER) {
            for ((x, bins), top) in blocks.iter().zip(&mut bins).zip(&mut tops) {
                *top = 0;
                for i in 0..BLOCK {
                    let magnitude = x[i].to_bits() & MAGNITUDE;
                    *top = (*top).max(magnitude);
                    low[i] = low[i].min(magnitude);
                    bins[i] = Elements::bin_of_bits(magnitude);
                }
            }
            to.elements.count(bins[..blocks.len()].as_flattened());
            for (x, top) in blocks.iter().zip(tops) {
                largest = largest.max(top);
                to.add_block(x, top, (row + column).is_multiple_of(SAMPLED));
                column += 1;
                if column == per_row {
                    (row, column) = (row + 1, 0);
                }
            }
        }
        [low.into_iter().min().unwrap_or(u32::MAX), largest]
    }
}

/// All bits but the sign.
const MAGNITUDE: u32 = 0x7fff_ffff;

impl To<'_> {
    /// Counts a block whose largest magnitude has the bits `top`.
    #[inline(always)]
    fn add_block(&mut self, x: &[f32], top: u32, sampled: bool) {
        let bin = usize::from(Blocks::bin_of_bits(top));
        self.blocks[bin] += 1;
        if !sampled || bin == 0 {
            return;
        }
        let parts = PARTS as f32 / f32::from_bits(top);
        let mut places = [0u16; BLOCK];
        for (place, x) in places.iter_mut().zip(x) {
            let part = ((x.abs() * parts) as i32).min(PARTS as i32 - 1) as u16;
            let is_largest = x.to_bits() & MAGNITUDE == top;
            *place = if is_largest { PARTS as u16 } else { part };
        }
        let counts = &mut self.profile[profile_row(bin)];
        for place in &places[..x.len()] {
            counts[usize::from(*place)] += 1;
        }
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
            whole.add(x, k, 0, &mut Scratch::default());
            let cut = cut.min(rows);
            let (mut a, mut b) = (Tally::default(), Tally::default());
            b.add(&x[cut * k..], k, cut, &mut Scratch::default());
            a.add(&x[..cut * k], k, 0, &mut Scratch::default());
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
            tally.add(&[1.0, bad, 2.0], 3, 0, &mut Scratch::default());
            assert!(!tally.amax.is_finite(), "{bad}");
        }
    }

    #[test]
    fn a_profile_counts_one_block_in_sixteen() {
        let mut tally = Tally::default();
        let row: Vec<f32> = (0..64 * BLOCK).map(|i| (i % BLOCK + 1) as f32).collect();
        tally.add(&row, row.len(), 0, &mut Scratch::default());
        let counts = &tally.profile.counts[profile_row(Blocks::bin(16.0))];
        // 1 to 16 of 16, twice as many parts.
        assert_eq!(counts.iter().sum::<u64>(), (4 * BLOCK) as u64);
        assert_eq!(
            (counts[2], counts[30], counts[31], counts[32]),
            (4, 4, 0, 4)
        );
        assert_eq!(tally.profile.below(Blocks::bin(16.0))[PARTS], 0.0);
        // Blocks of a size that was not looked at are taken for blocks like all others.
        assert_eq!(
            tally.profile.below(1),
            tally.profile.below(Blocks::bin(16.0))
        );
    }
}
