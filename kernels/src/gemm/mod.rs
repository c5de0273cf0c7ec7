//! Products of quantized matrices: `D = epilogue(alpha A B^T + bias)` (`nvfp4_gemm.cu`, `fp8_gemm.cu`).
//!
//! A is the activations `[m, k]`, B a weight `[n, k]`, both packed with K contiguous. [`Plan`] says which tile serves a
//! shape, and whether K is split; [`gemm`] launches what the plan says. [`scales`] has the orders of NVFP4's block scales.

mod check;
pub(crate) mod launch;
mod operand;
pub mod plan;
pub mod scales;

pub use launch::{FP8_SOURCE, NVFP4_SOURCE, REDUCE_SOURCE, Workspace, gemm, gemm_planned};
pub use operand::{BlockScales, Epilogue, Format, Operand, Product, Shape};
pub use plan::{Plan, Tile};
