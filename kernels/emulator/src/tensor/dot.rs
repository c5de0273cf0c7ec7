//! The inner loops: 16 rows times 8 columns.

use super::accumulate::{Grid, Width, special, sum};
use super::mma::Accumulator;

/// D before its rounding to the result's type, or C.
pub(super) type Tile = [[f64; 8]; 16];

/// A type that holds every product of two inputs exactly: f32 for inputs of 8 bits (8-bit products between 2^-32 and
/// 2^32) and f64 for those of 16 and 19.
pub(super) trait Factor: Copy {
    /// The exact product.
    fn times(self, other: Self) -> Self;
    /// The larger magnitude; `self` is one already.
    fn or_larger(self, other: Self) -> Self;
    /// Cut to a whole number of steps; the caller's grid keeps it far from the ends of i32.
    fn steps(self, per_unit: Self) -> i32;
    /// To the type: a power of two that is too small for f32 becomes zero, and so do the products it cuts.
    fn of(value: f64) -> Self;
    /// From the type.
    fn wide(self) -> f64;
}

macro_rules! factor {
    ($type:ty) => {
        impl Factor for $type {
            fn times(self, other: Self) -> Self {
                self * other
            }
            fn or_larger(self, other: Self) -> Self {
                let other = other.abs();
                if other > self { other } else { self }
            }
            fn steps(self, per_unit: Self) -> i32 {
                (self * per_unit) as i32
            }
            fn of(value: f64) -> Self {
                value as Self
            }
            fn wide(self) -> f64 {
                value_of(self)
            }
        }
    };
}

fn value_of(value: impl Into<f64>) -> f64 {
    value.into()
}

factor!(f32);
factor!(f64);

/// What all outputs have in common.
pub(super) struct Rule {
    /// Of [`Accumulator::Truncated`].
    pub width: Width,
    /// Which rounding.
    pub accumulator: Accumulator,
}

/// A and B as numbers, each row of A and column of B with a factor of its own (1, or its block scale).
pub(super) struct Scaled<'a, T, const K: usize> {
    /// Rows of A.
    pub a: &'a [[T; K]; 16],
    /// Columns of B.
    pub b: &'a [[T; K]; 8],
    /// Factors of the rows.
    pub scale_a: [f64; 16],
    /// Factors of the columns.
    pub scale_b: [f64; 8],
}

/// A * B + C. K is a multiple of 4.
pub(super) fn multiply<T: Factor, const K: usize>(
    input: &Scaled<'_, T, K>,
    c: &Tile,
    rule: &Rule,
) -> Tile {
    let finite = |row: &[T; K]| row.iter().all(|x| x.wide().is_finite());
    let a_finite: [bool; 16] =
        std::array::from_fn(|r| finite(&input.a[r]) && input.scale_a[r].is_finite());
    let b_finite: [bool; 8] =
        std::array::from_fn(|n| finite(&input.b[n]) && input.scale_b[n].is_finite());
    let mut out = [[0.0; 8]; 16];
    for (r, row) in out.iter_mut().enumerate() {
        for (n, d) in row.iter_mut().enumerate() {
            let (a, b) = (&input.a[r], &input.b[n]);
            let (scale, c) = (input.scale_a[r] * input.scale_b[n], c[r][n]);
            let finite = a_finite[r] && b_finite[n] && c.is_finite();
            *d = if finite && rule.accumulator == Accumulator::Truncated {
                truncated(a, b, (scale, c), rule.width)
            } else {
                let terms: [f64; K] = std::array::from_fn(|k| a[k].wide() * b[k].wide() * scale);
                if finite {
                    sum(&terms, c, rule.width, rule.accumulator)
                } else {
                    special(&terms, c)
                }
            };
        }
    }
    out
}

/// [`sum`] of scaled products, in the narrower type.
fn truncated<T: Factor, const K: usize>(
    a: &[T; K],
    b: &[T; K],
    (scale, c): (f64, f64),
    width: Width,
) -> f64 {
    let products: [T; K] = std::array::from_fn(|k| a[k].times(b[k]));
    // Four chains, so that they need not wait for each other.
    let mut largest = [T::of(0.0); 4];
    for four in products.chunks_exact(4) {
        for (most, &product) in largest.iter_mut().zip(four) {
            *most = most.or_larger(product);
        }
    }
    let largest = largest.iter().fold(0.0f64, |most, x| most.max(x.wide()));
    let Some(grid) = Grid::of((largest * scale).max(c.abs()), width) else {
        return special(&[], c);
    };
    let per_unit = T::of(grid.per_unit * scale);
    let steps: i32 = products.iter().map(|p| p.steps(per_unit)).sum();
    grid.value(i64::from(steps) + grid.steps(c))
}

/// Exact products of integers: element `k` of a row times element `k` of a column, summed.
pub(super) fn integers(a: &[i16], b: &[i16]) -> i32 {
    a.iter()
        .zip(b)
        .map(|(&a, &b)| i32::from(a) * i32::from(b))
        .sum()
}
