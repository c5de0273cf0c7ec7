//! Bank conflicts of shared memory: how often a warp's access must go round.
//!
//! Shared memory has 32 banks of 4 bytes. A warp's access is served in phases of at most 128 bytes: all lanes at once up
//! to 4 bytes a lane, halves of a warp at 8, quarters at 16, eight rows of 16 bytes for `ldmatrix`. Within a phase each
//! bank delivers one word a wavefront; lanes that want the same word share it. One wavefront a phase is conflict-free.
//! Source: the CUDA C++ programming guide on shared memory, and the profiler's `l1tex__data_pipe_lsu_wavefronts`.

use std::collections::BTreeMap;
use std::ops::AddAssign;

/// Number of banks.
const BANKS: u64 = 32;
/// Bytes of a bank's word.
const WORD: u64 = 4;

/// What accesses took.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Wavefronts {
    /// Accesses of a warp.
    pub accesses: u64,
    /// Phases with at least one lane in them: the least number of wavefronts possible.
    pub phases: u64,
    /// Wavefronts needed.
    pub wavefronts: u64,
}

impl Wavefronts {
    /// Whether no phase went round more than once.
    pub fn conflict_free(&self) -> bool {
        self.wavefronts == self.phases
    }
}

impl AddAssign for Wavefronts {
    fn add_assign(&mut self, other: Self) {
        self.accesses += other.accesses;
        self.phases += other.phases;
        self.wavefronts += other.wavefronts;
    }
}

/// A load or store of `bytes` (1 to 16) a lane. `lanes`: each lane's shared address, nothing for lanes that are off.
pub fn access(lanes: &[Option<u64>; 32], bytes: u64) -> Wavefronts {
    let lanes_of_phase = match bytes {
        0..=4 => 32,
        5..=8 => 16,
        _ => 8,
    };
    of_phases(lanes.chunks(lanes_of_phase).map(|lanes| {
        let on = lanes.iter().flatten();
        on.map(|address| (*address, bytes)).collect()
    }))
}

/// `ldmatrix` or `stmatrix`: the addresses of the rows, 16 bytes each, eight rows a matrix of 8x8 16-bit numbers.
pub fn matrix(rows: &[u64]) -> Wavefronts {
    of_phases(
        rows.chunks(8)
            .map(|rows| rows.iter().map(|row| (*row, 16)).collect()),
    )
}

/// Phases as lists of (address, bytes).
fn of_phases(phases: impl Iterator<Item = Vec<(u64, u64)>>) -> Wavefronts {
    let mut all = Wavefronts {
        accesses: 1,
        ..Wavefronts::default()
    };
    for accesses in phases.filter(|p| !p.is_empty()) {
        all.phases += 1;
        all.wavefronts += rounds(&accesses);
    }
    all
}

/// The most words that one bank must deliver.
fn rounds(accesses: &[(u64, u64)]) -> u64 {
    let mut words: Vec<u64> = accesses
        .iter()
        .flat_map(|(address, bytes)| address / WORD..(address + bytes).div_ceil(WORD))
        .collect();
    words.sort_unstable();
    words.dedup();
    let mut of_bank = [0u64; BANKS as usize];
    for word in words {
        of_bank[(word % BANKS) as usize] += 1;
    }
    of_bank.into_iter().max().unwrap_or(0)
}

/// Wavefronts of a launch by the line of the PTX text.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BankReport {
    lines: BTreeMap<usize, Wavefronts>,
}

impl BankReport {
    /// Counts an access of the instruction on `line`.
    pub fn add(&mut self, line: usize, wavefronts: Wavefronts) {
        *self.lines.entry(line).or_default() += wavefronts;
    }

    /// Joins what another block counted.
    pub fn merge(&mut self, other: &Self) {
        for (line, wavefronts) in &other.lines {
            self.add(*line, *wavefronts);
        }
    }

    /// Each line with what its accesses took, in the order of lines.
    pub fn lines(&self) -> impl Iterator<Item = (usize, Wavefronts)> + '_ {
        self.lines.iter().map(|(line, w)| (*line, *w))
    }

    /// All lines together.
    pub fn total(&self) -> Wavefronts {
        let mut total = Wavefronts::default();
        for wavefronts in self.lines.values() {
            total += *wavefronts;
        }
        total
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lanes(address: impl Fn(u64) -> u64) -> [Option<u64>; 32] {
        std::array::from_fn(|lane| Some(address(lane as u64)))
    }

    /// The examples of the programming guide: stride one is free, stride two takes two, stride 32 takes 32, one word is
    /// broadcast, stride three is free again.
    #[test]
    fn strides_of_words() {
        for (stride, expected) in [
            (0, 1),
            (1, 1),
            (2, 2),
            (3, 1),
            (4, 4),
            (8, 8),
            (32, 32),
            (33, 1),
        ] {
            let found = access(&lanes(|lane| lane * stride * 4), 4);
            assert_eq!(
                (found.phases, found.wavefronts),
                (1, expected),
                "stride {stride}"
            );
        }
    }

    #[test]
    fn wide_accesses_go_in_halves_and_quarters() {
        let eight = access(&lanes(|lane| lane * 8), 8);
        assert_eq!((eight.phases, eight.wavefronts), (2, 2));
        let sixteen = access(&lanes(|lane| lane * 16), 16);
        assert_eq!((sixteen.phases, sixteen.wavefronts), (4, 4));
        assert!(sixteen.conflict_free());
        // Eight lanes 128 bytes apart meet in the same four banks.
        let strided = access(&lanes(|lane| lane * 128), 16);
        assert_eq!((strided.phases, strided.wavefronts), (4, 32));
        // All lanes read one chunk.
        let same = access(&lanes(|_| 64), 16);
        assert_eq!((same.phases, same.wavefronts), (4, 4));
    }

    #[test]
    fn lanes_that_are_off_take_no_part() {
        let mut some = lanes(|lane| lane * 128);
        for lane in some.iter_mut().skip(1) {
            *lane = None;
        }
        let one = access(&some, 16);
        assert_eq!((one.phases, one.wavefronts), (1, 1));
        assert_eq!(access(&[None; 32], 4).phases, 0);
    }

    /// Rows of 64 bytes, unswizzled: rows 0, 2, 4, 6 share banks, four times round. With chunk ^ ((row >> 1) & 3) once.
    #[test]
    fn rows_of_64_bytes_want_a_swizzle() {
        let plain: Vec<_> = (0..32).map(|row| row * 64).collect();
        assert_eq!(matrix(&plain).wavefronts, 4 * 4);
        for chunk in 0..4 {
            let swizzled: Vec<_> = (0..32u64)
                .map(|row| row * 64 + (chunk ^ ((row >> 1) & 3)) * 16)
                .collect();
            assert!(matrix(&swizzled).conflict_free());
        }
    }

    #[test]
    fn a_report_adds_by_line() {
        let mut report = BankReport::default();
        report.add(7, access(&lanes(|lane| lane * 4), 4));
        report.add(7, access(&lanes(|lane| lane * 8), 4));
        let mut other = BankReport::default();
        other.add(9, matrix(&[0, 128]));
        report.merge(&other);
        let lines: Vec<_> = report.lines().collect();
        assert_eq!(lines.len(), 2);
        assert_eq!(
            (lines[0].0, lines[0].1.accesses, lines[0].1.wavefronts),
            (7, 2, 3)
        );
        assert_eq!((lines[1].0, lines[1].1.wavefronts), (9, 2));
        assert_eq!(report.total().phases, 3);
    }
}
