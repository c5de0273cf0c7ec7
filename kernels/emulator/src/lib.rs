//! Executes PTX on the CPU, instruction by instruction, behind the CUDA driver API, and checks as it goes.
//!
//! `ptx` reads the text; `vm` decodes a module once and runs it, blocks in parallel and warps in a seeded order;
//! `memory` holds what kernels read and write and knows of each byte whether it may be read; `tensor` and `convert` are
//! the arithmetic of single instructions; `driver` is the C interface (`libcuda`, `libcublas`, `libcurand`).
//!
//! It shows what a kernel computes and that it does so without data races, out-of-bounds accesses or reads of what
//! nobody wrote. It says nothing of speed, and nothing of what `ptxas` makes of the PTX.

pub mod banks;
pub mod card;
pub mod convert;
pub mod driver;
pub mod fault;
pub mod memory;
pub mod ptx;
pub mod tensor;
pub mod vm;

/// One 32-bit register of a warp, a value per lane.
pub type Lanes = [u32; 32];
