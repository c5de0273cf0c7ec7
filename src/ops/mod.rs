//! The only door to kernels: models call these, and never ask which precision or device serves them.

mod gemm;
pub mod linear;

pub use linear::Linear;
