//! The inner loops: 16 rows times 8 columns.
//!
//! All 8 columns of a row go side by side, so that no sum runs across a vector. The same code is compiled for AVX2 as
//! well; Rust fuses no multiplications, so both give the same bits.

use super::accumulate::{Width, special, sum, sums};
use super::mma::Accumulator;

/// D before its rounding to the result's type, or C.
pub(super) type Tile = [[f64; 8]; 16];

/// A type that holds every product of two inputs exactly: f32 for inputs of 8 bits (8-bit products between 2^-32 and
/// 2^32) and f64 for those of 16 and 19.
pub(super) trait Factor: Copy {
    /// Zero.
    const ZERO: Self;
    /// The exact product.
    fn times(self, other: Self) -> Self;
    /// The sum, which the caller knows to be exact.
    fn plus(self, other: Self) -> Self;
    /// The larger magnitude; `self` is one already.
    fn or_larger(self, other: Self) -> Self;
    /// Cut to a whole number.
    fn whole(self) -> Self;
    /// To the type: a number of steps for each unit. One too small for f32 becomes zero, and so do the products it cuts.
    /// One beyond 1e30 is only ever multiplied by zeros, as products of f32 are not less than 2^-32; it is bounded so
    /// that they stay zeros.
    fn of(value: f64) -> Self;
    /// From the type.
    fn wide(self) -> f64;
}

macro_rules! factor {
    ($type:ty, $largest_unit:expr) => {
        impl Factor for $type {
            const ZERO: Self = 0.0;
            #[inline(always)]
            fn times(self, other: Self) -> Self {
                self * other
            }
            #[inline(always)]
            fn plus(self, other: Self) -> Self {
                self + other
            }
            #[inline(always)]
            fn or_larger(self, other: Self) -> Self {
                let other = other.abs();
                if other > self { other } else { self }
            }
            #[inline(always)]
            fn whole(self) -> Self {
                self.trunc()
            }
            #[inline(always)]
            fn of(value: f64) -> Self {
                value.min($largest_unit) as Self
            }
            #[inline(always)]
            fn wide(self) -> f64 {
                self as f64
            }
        }
    };
}

factor!(f32, 1e30);
factor!(f64, f64::MAX);

/// What all outputs have in common.
#[derive(Clone, Copy)]
pub(super) struct Rule {
    /// Of [`Accumulator::Truncated`].
    pub width: Width,
    /// Which rounding.
    pub accumulator: Accumulator,
}

/// A and B as numbers in blocks of K along k, N of them: one term of the sum is a block's products, added exactly, times
/// the scales of its row and column.
pub(super) struct Blocks<'a, T, const K: usize, const N: usize> {
    /// Rows of A.
    pub a: &'a [[[T; K]; N]; 16],
    /// B by k, then column.
    pub b: &'a [[[T; 8]; K]; N],
    /// Scales of A: of a row, block by block.
    pub scale_a: &'a [[f64; N]; 16],
    /// Scales of B: of a block, column by column.
    pub scale_b: &'a [[f64; 8]; N],
}

/// A and B as numbers, each product a term of the sum, with one scale for each row of A and column of B.
pub(super) struct Products<'a, T, const K: usize> {
    /// Rows of A.
    pub a: &'a [[T; K]; 16],
    /// B by k, then column.
    pub b: &'a [[T; 8]; K],
    /// Scales of the rows.
    pub scale_a: &'a [f64; 16],
    /// Scales of the columns.
    pub scale_b: &'a [f64; 8],
}

/// Operands that can be multiplied row by row.
trait Rows {
    /// Row `r` of A * B + C.
    fn row(&self, r: usize, c: &[f64; 8], rule: Rule) -> [f64; 8];
}

impl<T: Factor, const K: usize> Rows for Products<'_, T, K> {
    #[inline(always)]
    fn row(&self, r: usize, c: &[f64; 8], rule: Rule) -> [f64; 8] {
        let mut terms = [[T::ZERO; 8]; K];
        for ((terms, a), b) in terms.iter_mut().zip(&self.a[r]).zip(self.b) {
            for (term, b) in terms.iter_mut().zip(b) {
                *term = a.times(*b);
            }
        }
        let mut scales = [0.0; 8];
        for (scale, b) in scales.iter_mut().zip(self.scale_b) {
            *scale = self.scale_a[r] * b;
        }
        finish(&terms, &scales, c, rule)
    }
}

impl<T: Factor, const K: usize, const N: usize> Rows for Blocks<'_, T, K, N> {
    #[inline(always)]
    fn row(&self, r: usize, c: &[f64; 8], rule: Rule) -> [f64; 8] {
        let mut terms = [[0.0; 8]; N];
        for (j, terms) in terms.iter_mut().enumerate() {
            let mut dots = [T::ZERO; 8];
            for (a, b) in self.a[r][j].iter().zip(&self.b[j]) {
                for (dot, b) in dots.iter_mut().zip(b) {
                    *dot = dot.plus(a.times(*b));
                }
            }
            for ((term, dot), scale) in terms.iter_mut().zip(dots).zip(self.scale_b[j]) {
                *term = dot.wide() * (self.scale_a[r][j] * scale);
            }
        }
        finish(&terms, &[1.0; 8], c, rule)
    }
}

/// Sums of the terms of 8 columns, each term times its column's scale.
#[inline(always)]
fn finish<T: Factor, const K: usize>(
    terms: &[[T; 8]; K],
    scales: &[f64; 8],
    c: &[f64; 8],
    rule: Rule,
) -> [f64; 8] {
    // Infinities and NaN of any operand end up in this sum; products of finite numbers are too small to make one.
    let mut plain = [T::ZERO; 8];
    for terms in terms {
        for (sum, term) in plain.iter_mut().zip(terms) {
            *sum = sum.plus(*term);
        }
    }
    let mut finite = true;
    for n in 0..8 {
        finite &= (plain[n].wide() * scales[n] + c[n]).is_finite();
    }
    if rule.accumulator == Accumulator::Truncated && finite {
        return sums(terms, scales, c, rule.width);
    }
    column_by_column(terms, scales, c, rule)
}

#[inline(never)]
fn column_by_column<T: Factor, const K: usize>(
    terms: &[[T; 8]; K],
    scales: &[f64; 8],
    c: &[f64; 8],
    rule: Rule,
) -> [f64; 8] {
    let mut out = [0.0; 8];
    for (n, out) in out.iter_mut().enumerate() {
        let column: [f64; K] = std::array::from_fn(|k| terms[k][n].wide() * scales[n]);
        let plain = special(&column, c[n]);
        *out = if plain.is_finite() {
            sum(&column, c[n], rule)
        } else {
            plain
        };
    }
    out
}

#[inline(always)]
fn tile(input: &impl Rows, c: &Tile, rule: Rule) -> Tile {
    let mut out = *c;
    for (r, row) in out.iter_mut().enumerate() {
        *row = input.row(r, &c[r], rule);
    }
    out
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn tile_avx2(input: &impl Rows, c: &Tile, rule: Rule) -> Tile {
    tile(input, c, rule)
}

fn fastest(input: &impl Rows, c: &Tile, rule: Rule) -> Tile {
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx2") {
        // SAFETY: the processor has what the function is compiled for.
        return unsafe { tile_avx2(input, c, rule) };
    }
    tile(input, c, rule)
}

/// A * B + C.
pub(super) fn multiply<T: Factor, const K: usize>(
    input: &Products<'_, T, K>,
    c: &Tile,
    rule: Rule,
) -> Tile {
    fastest(input, c, rule)
}

/// A * B + C with block scales.
pub(super) fn multiply_blocks<T: Factor, const K: usize, const N: usize>(
    input: &Blocks<'_, T, K, N>,
    c: &Tile,
    rule: Rule,
) -> Tile {
    fastest(input, c, rule)
}

/// Exact products of integers: element `k` of a row times element `k` of a column, summed.
pub(super) fn integers(a: &[i16; 32], b: &[i16; 32]) -> i32 {
    a.iter()
        .zip(b)
        .map(|(&a, &b)| i32::from(a) * i32::from(b))
        .sum()
}
