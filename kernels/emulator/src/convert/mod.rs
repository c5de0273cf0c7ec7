//! Arithmetic of `cvt`: e4m3, e5m2, e2m1, ue8m0, f16, bf16, integers.
//!
//! Functions here take and return values or bit patterns, never registers of a warp. Rounding is always from the exact
//! value: an f64 holds every input of `cvt` and every product of two of them that the callers need.

pub mod float;
pub mod half;
pub mod integer;
pub mod minifloat;
mod rounding;
pub mod single;

pub use minifloat::{Minifloat, Narrow, decode, decode_x2, encode, encode_x2};

/// How a result that has no exact representation is rounded. `cvt` spells it once for floats (`.rn`) and once for
/// results that are integers (`.rni`); both mean the same here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Rounding {
    /// `.rn`, `.rni`: to nearest, ties to even.
    #[default]
    NearestEven,
    /// `.rz`, `.rzi`: towards zero.
    TowardZero,
    /// `.rm`, `.rmi`: towards minus infinity.
    Down,
    /// `.rp`, `.rpi`: towards plus infinity.
    Up,
    /// `.rna`: to nearest, ties away from zero (`cvt.rna.tf32.f32`).
    NearestAway,
}
