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
pub mod rows;
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

/// An output whose disjoint parts are written by several threads.
#[derive(Clone, Copy)]
pub(crate) struct OutPtr(*mut f32);
// SAFETY: what `row` asks of its callers keeps threads apart.
unsafe impl Send for OutPtr {}
// SAFETY: as above.
unsafe impl Sync for OutPtr {}

impl OutPtr {
    pub(crate) fn new(out: &mut [f32]) -> Self {
        Self(out.as_mut_ptr())
    }

    /// `len` floats from `offset` on.
    ///
    /// # Safety
    /// They lie in the output, which still lives, and nobody else touches them meanwhile.
    pub(crate) unsafe fn row<'a>(self, offset: usize, len: usize) -> &'a mut [f32] {
        // SAFETY: the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.0.add(offset), len) }
    }
}
