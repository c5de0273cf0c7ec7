//! CUDA kernels for NVFP4 and FP8 on Blackwell, and how they are launched.
//!
//! Each kernel is one file `kernels/NAME.cu`, compiled to `kernels/ptx/NAME.ARCH.ptx` (`kernels/build`), and one module
//! here which checks shapes and launches it. The PTX is part of the binary; the driver is found at run time.
//!
//! Numbers: activations are bf16, row-major, the last dimension contiguous. Sums are in f32, but for what tensor cores
//! cut off: an RTX 5090 keeps about 22 bits of a sum of FP8 products. Ada and Hopper keep 14, so that there a K tile's
//! sums are added in f32 outside of them.

pub mod amax;
pub mod attention;
pub mod attention_fp8;
pub mod dequant_gemm;
pub mod device;
pub mod error;
pub mod gate_residual;
pub mod gemm;
pub mod gemv;
pub mod lane_order;
pub mod layout;
pub mod norm_quantize;
pub mod operand;
pub mod qk_norm_rope_fp8;
pub mod quantize_e4m3;
pub mod quantize_nvfp4;
pub mod rms_norm_rope;

pub use device::{Family, Gpu, Source};
pub use error::KernelError;
