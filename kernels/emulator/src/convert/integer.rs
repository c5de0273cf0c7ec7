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

/// `cvt.rzi.s32.f32`: NaN is 0 (64-bit results from f32 or f64: 0x8000000000000000), out of range clamps.
/// The result is sign- or zero-extended to 64 bits.
pub fn from_float(value: f64, to: Int, rounding: Rounding) -> u64 {
    let _ = (value, to, rounding);
    todo!()
}

/// `cvt.rn.f32.s32`: `bits` is read as `from` says, higher bits are ignored.
pub fn to_float(bits: u64, from: Int, to: Float, mode: FloatMode) -> u64 {
    let _ = (bits, from, to, mode);
    todo!()
}

/// `cvt.s8.s32` and the like: extends, or cuts off; `sat` clamps instead. The result is extended to 64 bits by `to`.
pub fn convert(bits: u64, from: Int, to: Int, sat: bool) -> u64 {
    let _ = (bits, from, to, sat);
    todo!()
}

/// `cvt.rni.f32.f32`: a float rounded to a whole number, as a float.
pub fn to_integral(value: f64, rounding: Rounding) -> f64 {
    let _ = (value, rounding);
    todo!()
}
