//! Arithmetic of f16 and bf16, each operation rounded once, and its packed form.

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
    /// Subnormal inputs and results become zero of the same sign (f16 only).
    pub ftz: bool,
    /// Clamp to [0, 1], NaN becomes +0.
    pub sat: bool,
    /// Negative results become +0, NaN stays NaN (canonical).
    pub relu: bool,
}

/// The value of a pattern.
pub fn to_f32(bits: u16, format: Half) -> f32 {
    let _ = (bits, format);
    todo!()
}

/// Rounds to nearest even.
pub fn from_f32(value: f32, format: Half) -> u16 {
    let _ = (value, format);
    todo!()
}

/// `fma.rn`: a * b + c, rounded once. `add` is `fma(a, 1, b)`, `sub` is `fma(b, -1, a)`, `mul` is [`mul`].
pub fn fma(a: u16, b: u16, c: u16, format: Half, mode: HalfMode) -> u16 {
    let _ = (a, b, c, format, mode);
    todo!()
}

/// `add.rn`.
pub fn add(a: u16, b: u16, format: Half, mode: HalfMode) -> u16 {
    let _ = (a, b, format, mode);
    todo!()
}

/// `sub.rn`.
pub fn sub(a: u16, b: u16, format: Half, mode: HalfMode) -> u16 {
    let _ = (a, b, format, mode);
    todo!()
}

/// `mul.rn`.
pub fn mul(a: u16, b: u16, format: Half, mode: HalfMode) -> u16 {
    let _ = (a, b, format, mode);
    todo!()
}

/// `min` and `max`: a NaN loses to a number; with `nan` (`.NaN`) it wins. -0 is less than +0.
pub fn min(a: u16, b: u16, format: Half, nan: bool) -> u16 {
    let _ = (a, b, format, nan);
    todo!()
}

/// See [`min`].
pub fn max(a: u16, b: u16, format: Half, nan: bool) -> u16 {
    let _ = (a, b, format, nan);
    todo!()
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
