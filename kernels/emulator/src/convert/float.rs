//! Rounding of an exact value to f32, f16, bf16 or tf32.

use super::Rounding;

/// A floating-point format of 16 to 64 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Float {
    /// `.f16`
    F16,
    /// `.bf16`
    Bf16,
    /// `.tf32`: an f32 with 10 mantissa bits.
    Tf32,
    /// `.f32`
    F32,
    /// `.f64`
    F64,
}

/// The qualifiers of a `cvt` whose result is a float.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct FloatMode {
    /// `.rn`, `.rz`, `.rm`, `.rp`, `.rna`.
    pub rounding: Rounding,
    /// `.ftz`: f32 subnormals, at the input or as the result, become zero of the same sign.
    pub ftz: bool,
    /// `.sat`: clamp to [0, 1], NaN becomes +0.
    pub sat: bool,
    /// `.satfinite`: too large becomes the largest finite.
    pub satfinite: bool,
    /// `.relu`: negative becomes +0, NaN becomes the canonical NaN.
    pub relu: bool,
}

/// The bit pattern of `value` in `to`, in the low bits (tf32: 32 bits with the low 13 zero).
pub fn to_bits(value: f64, to: Float, mode: FloatMode) -> u64 {
    let _ = (value, to, mode);
    todo!()
}

/// The value of a bit pattern, exactly.
pub fn from_bits(bits: u64, from: Float) -> f64 {
    let _ = (bits, from);
    todo!()
}

/// `cvt` between two floats: bits to bits. Same formats with an integer rounding: see [`super::integer::to_integral`].
pub fn convert(bits: u64, from: Float, to: Float, mode: FloatMode) -> u64 {
    let _ = (bits, from, to, mode);
    todo!()
}
