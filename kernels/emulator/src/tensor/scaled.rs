//! `mma.sync` with block scales.

use super::mma::{Accumulator, Eight};
use crate::Lanes;

/// How many scales a row has in one instruction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ScaleVec {
    /// `.scale_vec::1X`
    X1,
    /// `.scale_vec::2X`
    X2,
    /// `.scale_vec::4X`
    X4,
}

/// Type of the scales.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ScaleFormat {
    /// `.ue4m3`
    Ue4m3,
    /// `.ue8m0`
    Ue8m0,
}

/// Qualifiers of `kind::mxf4nvf4` (and `kind::mxf4`, which is `X2` with `Ue8m0`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Mxf4 {
    /// `X2` or `X4`.
    pub vec: ScaleVec,
    /// `Ue4m3` only with `X4`.
    pub scale: ScaleFormat,
    /// How the sum is rounded.
    pub accumulator: Accumulator,
}

/// The scale operands `{scale-a}, {byte-id-a, thread-id-a}, {scale-b}, {byte-id-b, thread-id-b}`.
#[derive(Debug, Clone, Copy)]
pub struct BlockScales<'a> {
    /// Register with the scales of A.
    pub a: &'a Lanes,
    /// Register with the scales of B.
    pub b: &'a Lanes,
    /// Byte at which A's scales begin.
    pub byte_a: u16,
    /// Which pair of each four lanes supplies A's scales: 0 or 1.
    pub thread_a: u16,
    /// Byte at which B's scales begin.
    pub byte_b: u16,
    /// Which lane of each four supplies B's scales: 0 to 3.
    pub thread_b: u16,
}

/// m16n8k64 on e2m1, f32 accumulators. A selector that PTX reserves is an error.
pub fn mma_mxf4nvf4(
    a: &[Lanes; 4],
    b: &[Lanes; 2],
    c: &[Lanes; 4],
    scales: &BlockScales<'_>,
    types: Mxf4,
) -> Result<[Lanes; 4], String> {
    let _ = (a, b, c, scales, types);
    todo!()
}

/// m16n8k32 on formats of 8, 6 and 4 bits in containers of 8, one ue8m0 scale per row, f32 accumulators.
pub fn mma_mxf8f6f4(
    a: &[Lanes; 4],
    b: &[Lanes; 2],
    c: &[Lanes; 4],
    scales: &BlockScales<'_>,
    types: Eight,
) -> Result<[Lanes; 4], String> {
    let _ = (a, b, c, scales, types);
    todo!()
}
