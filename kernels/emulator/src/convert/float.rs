//! Rounding of an exact value to f32, f16, bf16 or tf32.

use super::Rounding;
use super::rounding::{Shape, round};

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

impl Float {
    /// Widths of the fields. tf32 counts with the 10 mantissa bits it keeps.
    const fn shape(self) -> Shape {
        let (exponent, mantissa) = match self {
            Self::F16 => (5, 10),
            Self::Bf16 => (8, 7),
            Self::Tf32 => (8, 10),
            Self::F32 => (8, 23),
            Self::F64 => (11, 52),
        };
        Shape { exponent, mantissa }
    }

    /// The canonical NaN: what the hardware gives for every operation that yields NaN.
    pub const fn nan(self) -> u64 {
        match self {
            Self::F16 | Self::Bf16 => 0x7fff,
            Self::Tf32 | Self::F32 => 0x7fff_ffff,
            Self::F64 => 0x7ff8_0000_0000_0000,
        }
    }
}

/// The bit pattern of `value` in `to`, in the low bits (tf32: 32 bits with the low 13 zero). A NaN becomes
/// [`Float::nan`] whatever its sign and payload were.
pub fn to_bits(value: f64, to: Float, mode: FloatMode) -> u64 {
    if value.is_nan() {
        return if mode.sat { 0 } else { to.nan() };
    }
    let negative = value.is_sign_negative();
    if (mode.sat || mode.relu) && negative {
        return 0;
    }
    if mode.sat && value > 1.0 {
        return to_bits(1.0, to, FloatMode::default());
    }
    let shape = to.shape();
    let infinity = ((1u64 << shape.exponent) - 1) << shape.mantissa;
    let overflow = if mode.satfinite {
        infinity - 1
    } else {
        infinity
    };
    let fields = if value.is_infinite() {
        overflow
    } else {
        let fields = round(value, shape, mode.rounding);
        // IEEE 754: a directed rounding never steps over the largest finite number towards infinity's far side.
        let stays = match mode.rounding {
            Rounding::NearestEven | Rounding::NearestAway => false,
            Rounding::TowardZero => true,
            Rounding::Down => !negative,
            Rounding::Up => negative,
        };
        match fields {
            f if f < infinity => f,
            _ if stays => infinity - 1,
            _ => overflow,
        }
    };
    let flushed = mode.ftz && to == Float::F32 && fields < 1 << shape.mantissa;
    let fields = if flushed { 0 } else { fields };
    let bits = fields | u64::from(negative) << (shape.exponent + shape.mantissa);
    if to == Float::Tf32 { bits << 13 } else { bits }
}

/// The value of a bit pattern, exactly.
pub fn from_bits(bits: u64, from: Float) -> f64 {
    match from {
        Float::F64 => f64::from_bits(bits),
        Float::F32 => f64::from(f32::from_bits(bits as u32)),
        Float::Tf32 => f64::from(f32::from_bits(bits as u32 & !0x1fff)),
        Float::Bf16 => f64::from(f32::from_bits((bits as u32) << 16)),
        Float::F16 => f64::from(::half::f16::from_bits(bits as u16).to_f32()),
    }
}

/// `cvt` between two floats: bits to bits. Same formats with an integer rounding: see [`super::integer::to_integral`].
pub fn convert(bits: u64, from: Float, to: Float, mode: FloatMode) -> u64 {
    let value = from_bits(bits, from);
    let flushed = mode.ftz && from == Float::F32 && f32::from_bits(bits as u32).is_subnormal();
    to_bits(if flushed { 0f64.copysign(value) } else { value }, to, mode)
}
