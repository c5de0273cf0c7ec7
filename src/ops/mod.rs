//! The only door to kernels: models call these, and never ask which precision or device serves them.

pub mod activation;
pub mod attention;
pub mod check;
pub mod conv;
pub mod kernels;
pub mod linear;
pub mod matmul;
pub mod norm;
pub(crate) mod product;
pub mod rope;
pub(crate) mod simd;
pub(crate) mod weight;

use candle_core::{CpuStorage, Layout};
pub use linear::Linear;
pub use weight::Input;

/// The floats of a contiguous F32 operand.
pub(crate) fn operand<'a>(
    storage: &'a CpuStorage,
    layout: &Layout,
) -> candle_core::Result<&'a [f32]> {
    let Some((start, end)) = layout.contiguous_offsets() else {
        candle_core::bail!("an operand of shape {:?} is not contiguous", layout.dims());
    };
    Ok(&storage.as_slice::<f32>()?[start..end])
}
