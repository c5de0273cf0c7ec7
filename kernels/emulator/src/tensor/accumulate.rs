//! How the sum of one instruction is formed and rounded.
//!
//! Products are exact here: no significand of an input has more than 11 bits (f16, tf32), so no product more than 22,
//! and the least and greatest products (bf16: 2^-266 and 2^256) are far from f64's limits.
//!
//! What the tensor cores then do is not documented. On an RTX 5090, adding 1 to 2^n with an FP8 `mma.sync` was seen to
//! work up to n = 20 and with bf16 up to n = 21 (tests of the `quack` kernels, `test_gemm_sm120_fp8.py`), the rest being
//! cut off, not rounded. [`Accumulator::Truncated`] says it so: all terms, C among them, are aligned to the largest one
//! and cut towards zero to [`Width`] bits; the sum is exact, and cut to f32. The width for NVFP4 is not known: it is
//! taken to be that of FP8, with one term for the 16 (or 32) products under one pair of scales. So compare with a
//! tolerance, never bit for bit with a card.

use super::dot::{Factor, Rule};
use super::mma::Accumulator;

/// Bits of the largest term that are kept, its leading 1 included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Width(u64);

impl Width {
    /// Inputs of 4 to 8 bits: 2^20 + 1 is still seen.
    pub(super) const EIGHT: Self = Self(21);
    /// Inputs of 16 and 19 bits: 2^21 + 1 is still seen.
    pub(super) const SIXTEEN: Self = Self(22);
}

/// Sum of `terms` (exact, any number) and `c`, all finite, as a value that rounds to nearest f32 or f16 as the exact sum
/// would. For [`Accumulator::Truncated`] it already is cut to f32.
pub(super) fn sum(terms: &[f64], c: f64, rule: Rule) -> f64 {
    match rule.accumulator {
        Accumulator::Exact => exact(terms, c),
        Accumulator::Truncated => {
            let largest = terms
                .iter()
                .fold(c.abs(), |most, term| most.max(term.abs()));
            let grid = Grid::of(largest, rule.width);
            let steps: f64 = terms.iter().map(|term| grid.steps(*term)).sum();
            grid.value(steps + grid.steps(c))
        }
    }
}

/// [`sum`] by [`Accumulator::Truncated`] of 8 columns side by side, `terms` by row. Each is yet to be multiplied by its
/// column's scale.
#[inline(always)]
pub(super) fn sums<T: Factor, const K: usize>(
    terms: &[[T; 8]; K],
    scales: &[f64; 8],
    c: &[f64; 8],
    width: Width,
) -> [f64; 8] {
    let mut largest = [T::ZERO; 8];
    for terms in terms {
        for (most, term) in largest.iter_mut().zip(terms) {
            *most = most.or_larger(*term);
        }
    }
    let mut grids = [Grid {
        per_unit: 0.0,
        step: 0.0,
    }; 8];
    let mut units = [T::ZERO; 8];
    for n in 0..8 {
        grids[n] = Grid::of(c[n].abs().or_larger(largest[n].wide() * scales[n]), width);
        units[n] = T::of(grids[n].per_unit * scales[n]);
    }
    let mut steps = [0.0; 8];
    // Steps are below 2^21 in f32 (and 2^22 in f64), so that f32 holds the sum of eight.
    for eight in terms.chunks(8) {
        let mut part = [T::ZERO; 8];
        for terms in eight {
            for ((part, term), unit) in part.iter_mut().zip(terms).zip(&units) {
                *part = part.plus(term.times(*unit).whole());
            }
        }
        for (steps, part) in steps.iter_mut().zip(part) {
            *steps += part.wide();
        }
    }
    let mut out = [0.0; 8];
    for n in 0..8 {
        out[n] = grids[n].value(steps[n] + grids[n].steps(c[n]));
    }
    out
}

/// The plain f64 sum: what to answer where a term is infinite or NaN.
pub(super) fn special(terms: &[f64], c: f64) -> f64 {
    terms.iter().sum::<f64>() + c
}

/// The multiples that terms are cut to.
#[derive(Clone, Copy)]
struct Grid {
    /// 1 / step.
    per_unit: f64,
    step: f64,
}

impl Grid {
    #[inline(always)]
    fn of(largest: f64, width: Width) -> Self {
        // No term other than zero is as small as 2^-600, so the field is the exponent. The bound is for zero.
        let field = (largest.to_bits() >> 52).max(1023 - 600);
        // The field of the last bit that is kept. A check for overflow would keep the loop from being vectorised.
        let last = field.wrapping_sub(width.0 - 1);
        Self {
            per_unit: f64::from_bits(2046u64.wrapping_sub(last) << 52),
            step: f64::from_bits(last << 52),
        }
    }

    /// A term in whole steps, fewer than 2^22.
    #[inline(always)]
    fn steps(self, term: f64) -> f64 {
        (term * self.per_unit).trunc()
    }

    /// The sum of the cut terms, cut to the 24 bits of an f32. (A subnormal f32 is yet to be rounded.)
    #[inline(always)]
    fn value(self, steps: f64) -> f64 {
        let exact = steps * self.step;
        f64::from_bits(exact.to_bits() >> 29 << 29)
    }
}

/// The exact sum, rounded to odd at 53 bits: a set last bit says that something was cut off.
///
/// Shewchuk's expansion: `parts` is a list of numbers that do not overlap and whose sum is exactly that of the terms.
fn exact(terms: &[f64], c: f64) -> f64 {
    let near = special(terms, c);
    if !near.is_finite() {
        return near;
    }
    // Most sums fit: no addition leaves a rest.
    let mut total = c;
    let mut rests = 0.0;
    for term in terms {
        let (sum, rest) = two_sum(total, *term);
        total = sum;
        rests += rest.abs();
    }
    if rests == 0.0 {
        return total;
    }
    let mut parts: Vec<f64> = Vec::with_capacity(terms.len());
    for &term in terms.iter().chain(std::iter::once(&c)) {
        let mut carry = term;
        let mut kept = 0;
        for i in 0..parts.len() {
            let (sum, error) = two_sum(carry, parts[i]);
            if error != 0.0 {
                parts[kept] = error;
                kept += 1;
            }
            carry = sum;
        }
        parts.truncate(kept);
        parts.push(carry);
    }
    // From the largest down; the first that does not fit decides on which side of `total` the exact sum lies.
    let mut total = 0.0;
    let mut rest = 0.0;
    while let Some(part) = parts.pop() {
        (total, rest) = two_sum(total, part);
        if rest != 0.0 {
            break;
        }
    }
    crate::convert::single::odd(total, rest)
}

/// Knuth's: the rounded sum and exactly what it lacks.
fn two_sum(a: f64, b: f64) -> (f64, f64) {
    let sum = a + b;
    let part = sum - a;
    (sum, (a - (sum - part)) + (b - part))
}
