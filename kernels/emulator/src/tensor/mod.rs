//! The warp-wide matrix instructions: `mma.sync`, `ldmatrix`, `stmatrix`.

mod accumulate;
mod dot;
pub mod fragment;
pub mod ldmatrix;
pub mod mma;
pub mod scaled;
pub mod stmatrix;

pub use mma::{
    Accumulator, Eight, Integer, Sixteen, mma_f8, mma_f8_f16, mma_int8, mma_k8, mma_k8_f16,
    mma_k16, mma_k16_f16, mma_tf32,
};
pub use scaled::{BlockScales, Mxf4, ScaleFormat, ScaleVec, mma_mxf4nvf4, mma_mxf8f6f4};
