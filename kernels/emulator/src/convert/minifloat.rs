//! The formats of 4 to 8 bits.

use super::Rounding;

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
    /// `.rn`, `.rz`, `.rp`.
    pub rounding: Rounding,
    /// `.satfinite`: too large becomes the largest finite.
    pub satfinite: bool,
    /// `.relu`: negative becomes +0, NaN becomes the format's NaN.
    pub relu: bool,
}

/// The value of a code, exactly. Bits above the format's width are ignored.
pub fn decode(format: Minifloat, code: u8) -> f32 {
    let _ = (format, code);
    todo!()
}

/// The code of a value, in the low bits. `value` may be any f64; f32, f16 and bf16 convert to it exactly.
pub fn encode(format: Minifloat, value: f64, mode: Narrow) -> u8 {
    let _ = (format, value, mode);
    todo!()
}

/// `cvt.*.e4m3x2.f32 d, hi, lo`: the first source lands in the high half (e2m1: the high nibble of the low byte).
pub fn encode_x2(format: Minifloat, hi: f64, lo: f64, mode: Narrow) -> u16 {
    let _ = (format, hi, lo, mode);
    todo!()
}

/// `(hi, lo)` of a pack, the inverse of [`encode_x2`].
pub fn decode_x2(format: Minifloat, pack: u16) -> (f32, f32) {
    let _ = (format, pack);
    todo!()
}
