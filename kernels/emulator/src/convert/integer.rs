//! Integers to and from floats, and to each other.

use super::Rounding;
use super::float::{Float, FloatMode};

/// An integer type of PTX.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Int {
    /// 8, 16, 32 or 64.
    pub bits: u8,
    /// `.s*` rather than `.u*`.
    pub signed: bool,
}

impl Int {
    /// Smallest and largest value.
    const fn range(self) -> (i128, i128) {
        if self.signed {
            (-(1 << (self.bits - 1)), (1 << (self.bits - 1)) - 1)
        } else {
            (0, (1 << self.bits) - 1)
        }
    }

    /// The value of a register that holds this type; bits above the type's are ignored.
    const fn value(self, bits: u64) -> i128 {
        let above = 64 - self.bits as u32;
        if self.signed {
            ((bits << above) as i64 >> above) as i128
        } else {
            (bits << above >> above) as i128
        }
    }
}

/// `cvt.rzi.s32.f32`: out of range clamps, NaN is 0; for 64-bit results NaN is 0x8000000000000000, signed or not, as
/// NVIDIA's `cuda_fp16.h` says of `__half2ll_rz` and `__half2ull_rz`. The result is sign- or zero-extended to 64 bits.
pub fn from_float(value: f64, to: Int, rounding: Rounding) -> u64 {
    if value.is_nan() {
        return if to.bits == 64 { 1 << 63 } else { 0 };
    }
    let (least, most) = to.range();
    // `as` saturates; i128 holds every 64-bit integer.
    (to_integral(value, rounding) as i128).clamp(least, most) as u64
}

/// `cvt.rn.f32.s32`: `bits` is read as `from` says, higher bits are ignored.
pub fn to_float(bits: u64, from: Int, to: Float, mode: FloatMode) -> u64 {
    let value = from.value(bits);
    let near = value as f64;
    // A 64-bit integer may have more bits than f64 holds. Rounding twice is avoided by rounding to odd first: the last
    // bit of the 53 then says that something was cut off, and no result with fewer bits can mistake it for a tie.
    let exact = near as i128 == value;
    if exact {
        return super::float::to_bits(near, to, mode);
    }
    if to == Float::F64 {
        return directed_f64(value, near, mode).to_bits();
    }
    let toward_zero = if (near as i128).abs() > value.abs() {
        near.to_bits() - 1
    } else {
        near.to_bits()
    };
    super::float::to_bits(f64::from_bits(toward_zero | 1), to, mode)
}

/// An integer that f64 does not hold, rounded; `near` is the nearest.
fn directed_f64(value: i128, near: f64, mode: FloatMode) -> f64 {
    if mode.sat {
        return if value < 0 { 0.0 } else { 1.0 };
    }
    let above = near as i128 > value;
    match mode.rounding {
        Rounding::NearestEven | Rounding::NearestAway => near,
        Rounding::Up if !above => near.next_up(),
        Rounding::Down if above => near.next_down(),
        Rounding::TowardZero if above == (value > 0) => f64::from_bits(near.to_bits() - 1),
        _ => near,
    }
}

/// `cvt.s8.s32` and the like: extends, or cuts off; `sat` clamps instead. The result is extended to 64 bits by `to`.
pub fn convert(bits: u64, from: Int, to: Int, sat: bool) -> u64 {
    let value = from.value(bits);
    let (least, most) = to.range();
    if sat {
        value.clamp(least, most) as u64
    } else {
        to.value(value as u64) as u64
    }
}

/// `cvt.rni.f32.f32`: a float rounded to a whole number, as a float. The sign survives: -0.25 becomes -0.
pub fn to_integral(value: f64, rounding: Rounding) -> f64 {
    match rounding {
        Rounding::NearestEven => value.round_ties_even(),
        Rounding::NearestAway => value.round(),
        Rounding::TowardZero => value.trunc(),
        Rounding::Down => value.floor(),
        Rounding::Up => value.ceil(),
    }
}
