//! Arithmetic of f16 and bf16, each operation rounded once, and its packed form.

use super::float::{Float, FloatMode, to_bits};
use super::single::add_to_odd;

/// Which 16-bit format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Half {
    /// `.f16`
    F16,
    /// `.bf16`
    Bf16,
}

/// `.ftz`, `.sat`, `.relu` and `.NaN` of an operation on halves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct HalfMode {
    /// Subnormal inputs and results become zero of the same sign (PTX has it for f16 only).
    pub ftz: bool,
    /// Clamp to [0, 1], NaN becomes +0.
    pub sat: bool,
    /// Negative results become +0, NaN stays NaN (canonical).
    pub relu: bool,
}

impl Half {
    const fn float(self) -> Float {
        match self {
            Self::F16 => Float::F16,
            Self::Bf16 => Float::Bf16,
        }
    }
}

/// The value of a pattern.
pub fn to_f32(bits: u16, format: Half) -> f32 {
    match format {
        Half::F16 => ::half::f16::from_bits(bits).to_f32(),
        Half::Bf16 => f32::from_bits(u32::from(bits) << 16),
    }
}

/// Rounds to nearest even.
pub fn from_f32(value: f32, format: Half) -> u16 {
    to_bits(f64::from(value), format.float(), FloatMode::default()) as u16
}

fn input(bits: u16, format: Half, mode: HalfMode) -> f64 {
    let value = f64::from(to_f32(bits, format));
    let least = if format == Half::F16 {
        2f64.powi(-14)
    } else {
        f64::from(f32::MIN_POSITIVE)
    };
    if mode.ftz && value.abs() < least {
        0f64.copysign(value)
    } else {
        value
    }
}

/// Rounds a value that is exact, or rounded to odd at 53 bits.
fn output(value: f64, format: Half, mode: HalfMode) -> u16 {
    let relu = mode.relu && !value.is_nan();
    let float = FloatMode {
        sat: mode.sat,
        relu,
        ..FloatMode::default()
    };
    let bits = to_bits(value, format.float(), float) as u16;
    let mantissa = if format == Half::F16 { 10 } else { 7 };
    let subnormal = bits & 0x7fff < 1 << mantissa;
    if mode.ftz && subnormal {
        bits & 0x8000
    } else {
        bits
    }
}

/// `fma.rn`: a * b + c, rounded once.
pub fn fma(a: u16, b: u16, c: u16, format: Half, mode: HalfMode) -> u16 {
    let [a, b, c] = [a, b, c].map(|x| input(x, format, mode));
    // The product of two 11-bit significands is exact in f64.
    output(add_to_odd(a * b, c), format, mode)
}

/// `add.rn`.
pub fn add(a: u16, b: u16, format: Half, mode: HalfMode) -> u16 {
    output(
        add_to_odd(input(a, format, mode), input(b, format, mode)),
        format,
        mode,
    )
}

/// `sub.rn`.
pub fn sub(a: u16, b: u16, format: Half, mode: HalfMode) -> u16 {
    output(
        add_to_odd(input(a, format, mode), -input(b, format, mode)),
        format,
        mode,
    )
}

/// `mul.rn`.
pub fn mul(a: u16, b: u16, format: Half, mode: HalfMode) -> u16 {
    output(
        input(a, format, mode) * input(b, format, mode),
        format,
        mode,
    )
}

/// `min` and `max`: a NaN loses to a number; with `nan` (`.NaN`) it wins. -0 is less than +0. A NaN result is canonical.
pub fn min(a: u16, b: u16, format: Half, nan: bool) -> u16 {
    select(a, b, format, nan, |x, y| x < y)
}

/// See [`min`].
pub fn max(a: u16, b: u16, format: Half, nan: bool) -> u16 {
    select(a, b, format, nan, |x, y| x > y)
}

fn select(a: u16, b: u16, format: Half, nan: bool, first: impl Fn(i32, i32) -> bool) -> u16 {
    let infinity = if format == Half::F16 { 0x7c00 } else { 0x7f80 };
    let is_nan = |x: u16| x & 0x7fff > infinity;
    // Sign and magnitude as an ordered integer, -0 just below +0.
    let order = |x: u16| {
        if x & 0x8000 == 0 {
            i32::from(x)
        } else {
            -1 - i32::from(x & 0x7fff)
        }
    };
    match (is_nan(a), is_nan(b)) {
        (true, true) => 0x7fff,
        (true, false) | (false, true) if nan => 0x7fff,
        (true, false) => b,
        (false, true) => a,
        (false, false) if first(order(b), order(a)) => b,
        (false, false) => a,
    }
}

/// An operation on both halves of a pack.
pub fn map2(a: u32, b: u32, f: impl Fn(u16, u16) -> u16) -> u32 {
    let low = f(a as u16, b as u16);
    let high = f((a >> 16) as u16, (b >> 16) as u16);
    u32::from(high) << 16 | u32::from(low)
}

/// An operation with three operands on both halves of a pack.
pub fn map3(a: u32, b: u32, c: u32, f: impl Fn(u16, u16, u16) -> u16) -> u32 {
    let low = f(a as u16, b as u16, c as u16);
    let high = f((a >> 16) as u16, (b >> 16) as u16, (c >> 16) as u16);
    u32::from(high) << 16 | u32::from(low)
}
