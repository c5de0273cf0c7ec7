//! Number formats as pure functions on slices: no tensor names, no files.
//!
//! * [`widen`]: every stored format to F32.
//! * [`e4m3`], [`e2m1`]: the two element formats, F32 to codes; [`fp8`]: E4M3 under one scale.
//! * [`nvfp4`]: E2M1 codes under E4M3 block scales under one F32 scale; [`swizzle`]: how the block scales are stored.
//! * [`e4m3_source`]: weights that are E4M3 already to NVFP4, fast.
//! * [`machine`]: which vector instructions there are.
//! * [`tally`]: what there is to know about activations that came by.
//! * [`search`]: which scale loses least; [`error`]: how much was lost.
//!
//! The arithmetic is that of comfy-kitchen's eager backend on a CPU, bit for bit.

pub mod e2m1;
pub mod e4m3;
pub mod e4m3_source;
pub mod error;
pub mod fp8;
pub mod machine;
pub mod nvfp4;
pub mod search;
pub(crate) mod simd;
pub mod splitmix;
pub mod swizzle;
pub mod tally;
pub mod widen;
