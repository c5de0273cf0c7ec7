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

use super::mma::Accumulator;

/// Bits of the largest term that are kept, its leading 1 included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Width(i64);

impl Width {
    /// Inputs of 4 to 8 bits: 2^20 + 1 is still seen.
    pub(super) const EIGHT: Self = Self(21);
    /// Inputs of 16 and 19 bits: 2^21 + 1 is still seen.
    pub(super) const SIXTEEN: Self = Self(22);
}

/// Sum of `terms` (exact, any number) and `c`, as a value that rounds to nearest f32 or f16 as the exact sum would.
/// For [`Accumulator::Truncated`] it already is cut to f32.
pub(super) fn sum(terms: &[f64], c: f64, width: Width, accumulator: Accumulator) -> f64 {
    match accumulator {
        Accumulator::Exact => exact(terms, c),
        Accumulator::Truncated => {
            let largest = terms
                .iter()
                .fold(c.abs(), |most, term| most.max(term.abs()));
            match Grid::of(largest, width) {
                Some(grid) => {
                    let steps: i64 = terms.iter().map(|term| (term * grid.per_unit) as i64).sum();
                    grid.value(steps + grid.steps(c))
                }
                None => special(terms, c),
            }
        }
    }
}

/// What is left when all terms are zero or one is infinite; f64 knows the rules. A NaN term goes by `largest` unseen:
/// callers with inputs that can be NaN or infinite ask [`special`] first.
pub(super) fn special(terms: &[f64], c: f64) -> f64 {
    terms.iter().sum::<f64>() + c
}

/// The multiples that terms are cut to.
pub(super) struct Grid {
    /// 1 / step.
    pub per_unit: f64,
    step: f64,
}

impl Grid {
    /// None if the largest magnitude is zero or infinite.
    pub(super) fn of(largest: f64, width: Width) -> Option<Self> {
        // Terms are normal numbers of f64, so the field is the exponent.
        let exponent = (largest.to_bits() >> 52) as i64 - 1023;
        if largest == 0.0 || exponent > 1023 {
            return None;
        }
        let last = exponent - (width.0 - 1);
        let power = |exponent: i64| f64::from_bits(((exponent + 1023) as u64) << 52);
        Some(Self {
            per_unit: power(-last),
            step: power(last),
        })
    }

    /// A term in whole steps.
    pub(super) fn steps(&self, term: f64) -> i64 {
        (term * self.per_unit) as i64
    }

    /// The sum of the cut terms, cut to f32.
    pub(super) fn value(&self, steps: i64) -> f64 {
        toward_zero(steps as f64 * self.step)
    }
}

/// Cut to f32. `value` has few enough bits to be exact in f64.
fn toward_zero(value: f64) -> f64 {
    let near = value as f32;
    let cut = if f64::from(near).abs() > value.abs() {
        f32::from_bits(near.to_bits() - 1)
    } else {
        near
    };
    f64::from(cut)
}

/// The exact sum, rounded to odd at 53 bits: a set last bit says that something was cut off.
///
/// Shewchuk's expansion: `parts` is a list of numbers that do not overlap and whose sum is exactly that of the terms.
fn exact(terms: &[f64], c: f64) -> f64 {
    let near = special(terms, c);
    if !near.is_finite() {
        return near;
    }
    let mut parts: Vec<f64> = Vec::with_capacity(terms.len());
    for &term in terms.iter().chain(std::iter::once(&c)) {
        let mut carry = term;
        let mut kept = 0;
        for i in 0..parts.len() {
            let sum = carry + parts[i];
            let virtual_part = sum - carry;
            let error = (carry - (sum - virtual_part)) + (parts[i] - virtual_part);
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
        let sum = total + part;
        rest = part - (sum - total);
        total = sum;
        if rest != 0.0 {
            break;
        }
    }
    crate::convert::single::odd(total, rest)
}
