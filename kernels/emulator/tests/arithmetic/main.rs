//! The arithmetic of single instructions against what others state: tables of CUTLASS, CUDA's headers, ml_dtypes and
//! ptxas (see `tests/fixtures`), the `half` crate, Rust's own operators and exact integers.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod accumulator;
mod float;
mod half;
mod integer;
mod layout;
mod matrix_copy;
mod minifloat;
mod one_hot;
mod random;
mod scales;
mod speed;

/// splitmix64: numbers for tests, the same each time.
pub struct Random(pub u64);

impl Random {
    /// Any 64 bits.
    pub fn any(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// From 0 up to below `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        self.any() % end
    }
}
