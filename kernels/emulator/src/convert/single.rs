//! f32 operations with a rounding mode: what Rust's own operators round to nearest only.

use super::Rounding;

/// `add.rz.f32` and so on: a + b.
pub fn add(a: f32, b: f32, rounding: Rounding) -> f32 {
    let _ = (a, b, rounding);
    todo!()
}

/// a * b.
pub fn mul(a: f32, b: f32, rounding: Rounding) -> f32 {
    let _ = (a, b, rounding);
    todo!()
}

/// a * b + c, rounded once.
pub fn fma(a: f32, b: f32, c: f32, rounding: Rounding) -> f32 {
    let _ = (a, b, c, rounding);
    todo!()
}

/// a / b.
pub fn div(a: f32, b: f32, rounding: Rounding) -> f32 {
    let _ = (a, b, rounding);
    todo!()
}

/// The square root.
pub fn sqrt(a: f32, rounding: Rounding) -> f32 {
    let _ = (a, rounding);
    todo!()
}

/// `.ftz`: a subnormal becomes zero of the same sign.
pub fn ftz(a: f32) -> f32 {
    if a.is_subnormal() {
        0f32.copysign(a)
    } else {
        a
    }
}
