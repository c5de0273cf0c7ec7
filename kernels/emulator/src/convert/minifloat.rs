//! The formats of 4 to 8 bits.

use super::Rounding;
use super::rounding::{Shape, power_of_two, round, value};

/// A format of 4 to 8 bits. `fn` in a name: no infinity, as in e4m3fn; PTX writes `.e4m3` for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Minifloat {
    /// `.e4m3`: 8 bits, largest 448, NaN 0x7F and 0xFF, no infinity.
    E4m3,
    /// `.e5m2`: 8 bits, IEEE-like, largest 57344.
    E5m2,
    /// `.e2m1`: 4 bits, largest 6, neither NaN nor infinity.
    E2m1,
    /// `.e2m3`: 6 bits, largest 7.5, neither NaN nor infinity.
    E2m3,
    /// `.e3m2`: 6 bits, largest 28, neither NaN nor infinity.
    E3m2,
    /// `.ue8m0`: 8 bits, a power of two from 2^-127 to 2^127, NaN 0xFF, no zero.
    Ue8m0,
}

/// The qualifiers of a narrowing `cvt`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Narrow {
    /// `.rn`; ue8m0 has `.rz` and `.rp`.
    pub rounding: Rounding,
    /// `.satfinite`: too large becomes the largest finite.
    pub satfinite: bool,
    /// `.relu`: negative, -0 too, becomes +0; a NaN stays one.
    pub relu: bool,
}

impl Minifloat {
    /// Widths of the fields; ue8m0 has no mantissa and no subnormals and is treated apart.
    const fn shape(self) -> Shape {
        let (exponent, mantissa) = match self {
            Self::E4m3 => (4, 3),
            Self::E5m2 => (5, 2),
            Self::E2m1 => (2, 1),
            Self::E2m3 => (2, 3),
            Self::E3m2 => (3, 2),
            Self::Ue8m0 => (8, 0),
        };
        Shape { exponent, mantissa }
    }

    /// Code of the largest finite magnitude.
    pub const fn largest(self) -> u8 {
        match self {
            Self::E4m3 => 0x7e,
            Self::E5m2 => 0x7b,
            Self::E2m1 => 0x7,
            Self::E2m3 | Self::E3m2 => 0x1f,
            Self::Ue8m0 => 0xfe,
        }
    }

    /// Bits of a code.
    pub const fn bits(self) -> u32 {
        match self {
            Self::E4m3 | Self::E5m2 | Self::Ue8m0 => 8,
            Self::E2m3 | Self::E3m2 => 6,
            Self::E2m1 => 4,
        }
    }

    /// What a NaN becomes: the format's positive NaN, or its largest number where it has none.
    const fn nan(self) -> u8 {
        match self {
            Self::E4m3 | Self::E5m2 => 0x7f,
            Self::Ue8m0 => 0xff,
            Self::E2m1 | Self::E2m3 | Self::E3m2 => self.largest(),
        }
    }

    /// What an overflow becomes without `.satfinite`.
    const fn overflow(self) -> u8 {
        match self {
            Self::E5m2 => 0x7c,
            _ => self.nan(),
        }
    }
}

/// The value of a code, exactly. Bits above the format's width are ignored.
pub fn decode(format: Minifloat, code: u8) -> f32 {
    if format == Minifloat::Ue8m0 {
        return if code == 0xff {
            f32::NAN
        } else {
            power_of_two(i64::from(code) - 127) as f32
        };
    }
    let sign = 1u8 << (format.bits() - 1);
    let fields = code & (sign - 1);
    let magnitude = match (format, fields) {
        (Minifloat::E4m3, 0x7f) | (Minifloat::E5m2, 0x7d..) => f64::NAN,
        (Minifloat::E5m2, 0x7c) => f64::INFINITY,
        _ => value(u64::from(fields), format.shape()),
    } as f32;
    if code & sign != 0 {
        -magnitude
    } else {
        magnitude
    }
}

/// The code of a value, in the low bits. `value` may be any f64; f32, f16 and bf16 convert to it exactly.
///
/// Where PTX leaves words, the host code of NVIDIA's `cuda_fp8.hpp`, `cuda_fp6.hpp` and `cuda_fp4.hpp` is followed: a
/// NaN loses its sign, and ue8m0 takes the magnitude of a negative value.
pub fn encode(format: Minifloat, value: f64, mode: Narrow) -> u8 {
    if value.is_nan() {
        return format.nan();
    }
    if format == Minifloat::Ue8m0 {
        return encode_ue8m0(value.abs(), mode);
    }
    if mode.relu && value.is_sign_negative() {
        return 0;
    }
    let sign = if value.is_sign_negative() {
        1u8 << (format.bits() - 1)
    } else {
        0
    };
    let overflow = if mode.satfinite || format.bits() < 8 {
        format.largest()
    } else {
        format.overflow()
    };
    if value.is_infinite() {
        return sign | overflow;
    }
    let code = round(value, format.shape(), mode.rounding);
    sign | if code > u64::from(format.largest()) {
        overflow
    } else {
        code as u8
    }
}

/// `value` is not negative and not NaN. Everything up to 2^-127, zero too, is code 0.
fn encode_ue8m0(value: f64, mode: Narrow) -> u8 {
    let overflow = if mode.satfinite { 0xfe } else { 0xff };
    if value.is_infinite() {
        return overflow;
    }
    if value <= power_of_two(-127) {
        return 0;
    }
    let bits = value.to_bits();
    let below = (bits >> 52) as i64 - 1023;
    let inexact = bits & ((1 << 52) - 1) != 0;
    let exponent = below + i64::from(inexact && mode.rounding == Rounding::Up);
    if exponent > 127 {
        overflow
    } else {
        (exponent + 127) as u8
    }
}

/// `cvt.*.e4m3x2.f32 d, hi, lo`: the first source lands in the high half (e2m1: the high nibble of the low byte).
pub fn encode_x2(format: Minifloat, hi: f64, lo: f64, mode: Narrow) -> u16 {
    let width = if format == Minifloat::E2m1 { 4 } else { 8 };
    u16::from(encode(format, hi, mode)) << width | u16::from(encode(format, lo, mode))
}

/// `(hi, lo)` of a pack, the inverse of [`encode_x2`].
pub fn decode_x2(format: Minifloat, pack: u16) -> (f32, f32) {
    let width = if format == Minifloat::E2m1 { 4 } else { 8 };
    (
        decode(format, (pack >> width) as u8),
        decode(format, pack as u8),
    )
}
