//! `mma.sync` without scales.

use crate::Lanes;
use crate::convert::Minifloat;

/// How the sum of one instruction is rounded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Accumulator {
    /// What was measured on an RTX 5090.
    #[default]
    Truncated,
    /// The exact sum, rounded once to nearest even.
    Exact,
}

/// 16-bit inputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Sixteen {
    /// `.f16`
    F16,
    /// `.bf16`
    Bf16,
}

/// Types of an m16n8k32 instruction on inputs of 8 bits (or fewer, in containers of 8).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Eight {
    /// Elements of A.
    pub a: Minifloat,
    /// Elements of B.
    pub b: Minifloat,
    /// How the sum is rounded.
    pub accumulator: Accumulator,
}

/// Types of an m16n8k32 instruction on integers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Integer {
    /// A is `.s8` rather than `.u8`.
    pub a_signed: bool,
    /// B is `.s8` rather than `.u8`.
    pub b_signed: bool,
    /// `.satfinite`: clamp rather than wrap.
    pub satfinite: bool,
}

/// m16n8k16 on f16 or bf16, f32 accumulators.
pub fn mma_k16(
    a: &[Lanes; 4],
    b: &[Lanes; 2],
    c: &[Lanes; 4],
    inputs: Sixteen,
    sum: Accumulator,
) -> [Lanes; 4] {
    let _ = (a, b, c, inputs, sum);
    todo!()
}

/// m16n8k16 on f16, f16 accumulators.
pub fn mma_k16_f16(a: &[Lanes; 4], b: &[Lanes; 2], c: &[Lanes; 2], sum: Accumulator) -> [Lanes; 2] {
    let _ = (a, b, c, sum);
    todo!()
}

/// m16n8k8 on f16 or bf16, f32 accumulators.
pub fn mma_k8(
    a: &[Lanes; 2],
    b: &[Lanes; 1],
    c: &[Lanes; 4],
    inputs: Sixteen,
    sum: Accumulator,
) -> [Lanes; 4] {
    let _ = (a, b, c, inputs, sum);
    todo!()
}

/// m16n8k8 on f16, f16 accumulators.
pub fn mma_k8_f16(a: &[Lanes; 2], b: &[Lanes; 1], c: &[Lanes; 2], sum: Accumulator) -> [Lanes; 2] {
    let _ = (a, b, c, sum);
    todo!()
}

/// m16n8k8 on tf32, f32 accumulators.
pub fn mma_tf32(a: &[Lanes; 4], b: &[Lanes; 2], c: &[Lanes; 4], sum: Accumulator) -> [Lanes; 4] {
    let _ = (a, b, c, sum);
    todo!()
}

/// m16n8k32 on e4m3, e5m2 (`kind::f8f6f4`: also e2m1, e2m3, e3m2), f32 accumulators.
pub fn mma_f8(
    a: &[Lanes; 4],
    b: &[Lanes; 2],
    c: &[Lanes; 4],
    types: Eight,
) -> Result<[Lanes; 4], String> {
    let _ = (a, b, c, types);
    todo!()
}

/// As [`mma_f8`] with f16 accumulators.
pub fn mma_f8_f16(
    a: &[Lanes; 4],
    b: &[Lanes; 2],
    c: &[Lanes; 2],
    types: Eight,
) -> Result<[Lanes; 2], String> {
    let _ = (a, b, c, types);
    todo!()
}

/// m16n8k32 on s8 or u8, s32 accumulators.
pub fn mma_int8(a: &[Lanes; 4], b: &[Lanes; 2], c: &[Lanes; 4], types: Integer) -> [Lanes; 4] {
    let _ = (a, b, c, types);
    todo!()
}
