//! f32 operations with a rounding mode: what Rust's own operators round to nearest only.
//!
//! A sum is first had in f64 to 53 bits, rounded to odd: the last bit is set when anything was cut off. Rounding that to
//! 24 bits, whichever way, gives what rounding the exact sum would have given, as 53 >= 24 + 2.

use super::Rounding;
use super::float::{Float, FloatMode, to_bits};

/// a + b in f64, rounded to odd.
pub(super) fn add_to_odd(a: f64, b: f64) -> f64 {
    let sum = a + b;
    if !sum.is_finite() {
        return sum;
    }
    // Knuth's two-sum: `error` is exactly what `sum` lacks.
    let part = sum - a;
    let error = (a - (sum - part)) + (b - part);
    odd(sum, error)
}

/// `near` is the exact value less `error`: the neighbour towards zero of the exact value, its last bit set.
pub(crate) fn odd(near: f64, error: f64) -> f64 {
    if error == 0.0 || near.to_bits() & 1 == 1 {
        return near;
    }
    // An even `near`: the exact value lies between it and the odd neighbour on the error's side.
    if (error > 0.0) == (near > 0.0) {
        f64::from_bits(near.to_bits() + 1)
    } else {
        f64::from_bits(near.to_bits() - 1)
    }
}

fn rounded(value: f64, rounding: Rounding) -> f32 {
    let mode = FloatMode {
        rounding,
        ..FloatMode::default()
    };
    f32::from_bits(to_bits(value, Float::F32, mode) as u32)
}

/// `add.rz.f32` and so on: a + b. An exact zero is +0, with [`Rounding::Down`] -0, unless both are of one sign.
pub fn add(a: f32, b: f32, rounding: Rounding) -> f32 {
    if rounding == Rounding::NearestEven {
        return a + b;
    }
    fma_f64(f64::from(a), f64::from(b), rounding)
}

/// a * b.
pub fn mul(a: f32, b: f32, rounding: Rounding) -> f32 {
    if rounding == Rounding::NearestEven {
        return a * b;
    }
    // Two 24-bit significands: exact in f64.
    rounded(f64::from(a) * f64::from(b), rounding)
}

/// a * b + c, rounded once.
pub fn fma(a: f32, b: f32, c: f32, rounding: Rounding) -> f32 {
    fma_f64(f64::from(a) * f64::from(b), f64::from(c), rounding)
}

fn fma_f64(product: f64, addend: f64, rounding: Rounding) -> f32 {
    let sum = add_to_odd(product, addend);
    let cancelled = sum == 0.0 && product.is_sign_negative() != addend.is_sign_negative();
    if cancelled && rounding == Rounding::Down {
        return -0.0;
    }
    rounded(sum, rounding)
}

/// a / b.
pub fn div(a: f32, b: f32, rounding: Rounding) -> f32 {
    if rounding == Rounding::NearestEven {
        return a / b;
    }
    // A quotient that has not 24 bits itself differs from every number that has by 2^-48 of it or more: f64's error
    // does not move it across one.
    rounded(f64::from(a) / f64::from(b), rounding)
}

/// The square root.
pub fn sqrt(a: f32, rounding: Rounding) -> f32 {
    if rounding == Rounding::NearestEven {
        return a.sqrt();
    }
    // As for a quotient.
    rounded(f64::from(a).sqrt(), rounding)
}

/// `.ftz`: a subnormal becomes zero of the same sign.
pub fn ftz(a: f32) -> f32 {
    if a.is_subnormal() {
        0f32.copysign(a)
    } else {
        a
    }
}
