//! Counts from which every error figure of an E4M3 weight follows, for any scale.
//!
//! What NVFP4 makes of a number depends on its byte and on the largest magnitude byte of its block only. So one pass
//! counts the pairs (block maximum, magnitude), and a search over scales needs no second one.
//!
//! The trick: neighbours go to four tables in turn, so that runs of equal numbers do not wait for their own counter.

use super::{BLOCK, NAN, NanByte, block_max, number};

const PAIRS: usize = 128 * 128;
/// Bytes after which the small counters are emptied: none of them can have overflowed.
const ROOM: usize = 1 << 31;

/// How often each magnitude byte occurs in blocks of each largest magnitude byte. Parts of a weight add up exactly,
/// in any order.
#[derive(Clone)]
pub struct Histogram {
    counts: Vec<u64>,
    recent: Box<[[u32; PAIRS]; 4]>,
    /// Bytes in `recent`.
    filled: usize,
}

impl Default for Histogram {
    fn default() -> Self {
        Self::new()
    }
}

impl Histogram {
    /// No numbers yet.
    pub fn new() -> Self {
        Self {
            counts: vec![0; PAIRS],
            recent: Box::new([[0; PAIRS]; 4]),
            filled: 0,
        }
    }

    /// Counts whole rows of E4M3 bytes, K a multiple of 16.
    ///
    /// # Errors
    /// The first NaN; the numbers before its block are counted then.
    ///
    /// # Panics
    /// If `bytes` is not whole blocks.
    pub fn add(&mut self, bytes: &[u8]) -> Result<(), NanByte> {
        assert_eq!(bytes.len() % BLOCK, 0, "whole blocks of 16");
        for (at, part) in bytes.chunks(ROOM / 2).enumerate() {
            if self.filled + part.len() > ROOM {
                self.empty();
            }
            self.filled += part.len();
            count(part, &mut self.recent).map_err(|e| e.after(at * (ROOM / 2)))?;
        }
        Ok(())
    }

    /// Counts one block, whose largest magnitude byte is `max`.
    #[inline(always)]
    pub(super) fn add_block(&mut self, block: &[u8; BLOCK], max: u8) {
        if self.filled + BLOCK > ROOM {
            self.empty();
        }
        self.filled += BLOCK;
        count_block(block, max, &mut self.recent);
    }

    fn empty(&mut self) {
        for table in self.recent.iter_mut() {
            for (count, recent) in self.counts.iter_mut().zip(table) {
                *count += u64::from(std::mem::take(recent));
            }
        }
        self.filled = 0;
    }

    /// Adds the counts of another part of the weight.
    pub fn merge(&mut self, other: &Self) {
        for (max, magnitude, count) in other.pairs() {
            self.counts[usize::from(max) * 128 + usize::from(magnitude)] += count;
        }
    }

    /// The pairs that occur: (largest magnitude byte of the block, magnitude byte, count), in rising order.
    pub fn pairs(&self) -> impl Iterator<Item = (u8, u8, u64)> {
        (0..PAIRS).filter_map(|at| {
            let recent = self.recent.iter().map(|table| u64::from(table[at]));
            let count = self.counts[at] + recent.sum::<u64>();
            (count > 0).then_some(((at / 128) as u8, (at % 128) as u8, count))
        })
    }

    /// How often each magnitude byte occurs.
    pub fn magnitudes(&self) -> [u64; 128] {
        let mut magnitudes = [0; 128];
        for (_, magnitude, count) in self.pairs() {
            magnitudes[usize::from(magnitude)] += count;
        }
        magnitudes
    }

    /// The numbers counted.
    pub fn elements(&self) -> u64 {
        self.pairs().map(|(_, _, count)| count).sum()
    }

    /// The largest magnitude byte, 0 if there is none.
    pub fn largest(&self) -> u8 {
        self.pairs().last().map_or(0, |(max, _, _)| max)
    }

    /// The largest magnitude of a weight with this scale.
    pub fn amax(&self, weight_scale: f32) -> f32 {
        number(self.largest(), weight_scale)
    }
}

fn count(bytes: &[u8], tables: &mut [[u32; PAIRS]; 4]) -> Result<(), NanByte> {
    for (at, block) in bytes.as_chunks::<BLOCK>().0.iter().enumerate() {
        let max = block_max(block);
        if max == NAN {
            return Err(NanByte::in_block(block).after(at * BLOCK));
        }
        count_block(block, max, tables);
    }
    Ok(())
}

#[inline(always)]
fn count_block(block: &[u8; BLOCK], max: u8, tables: &mut [[u32; PAIRS]; 4]) {
    let row = usize::from(max & 0x7f) << 7;
    for half in block.as_chunks::<8>().0 {
        let word = u64::from_le_bytes(*half);
        for i in 0..8 {
            let magnitude = (word >> (8 * i)) as usize & 0x7f;
            tables[i % 4][row | magnitude] += 1;
        }
    }
}
