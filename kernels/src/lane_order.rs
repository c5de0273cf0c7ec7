//! Block scales from the checkpoint's order into lane order, on the device (`lane_order.cu`): for weights of
//! [`gemv`](crate::gemv). Those of the products have their rows interleaved besides ([`gemm`](crate::gemm)).
//!
//! [`layout`] has the same on the host, and says what the orders are.

use cudarc::driver::{CudaView, CudaViewMut, PushKernelArg};

use crate::device::{Family, Gpu, Source};
use crate::error::{Doing, KernelError};
use crate::layout;
use crate::operand::{aligned, grid, sized};

/// The kernel's PTX.
pub const SOURCE: Source = Source {
    name: "lane_order",
    ptx: &[
        (Family::Ampere, include_str!("../ptx/lane_order.sm_80.ptx")),
        (
            Family::Blackwell,
            include_str!("../ptx/lane_order.sm_120f.ptx"),
        ),
    ],
};

/// [`layout::lane_order_from_swizzled`] of the scales of a `[rows, k]` matrix; both views 4-byte aligned.
///
/// # Errors
/// A `k` that is not a multiple of 16, buffers that do not fit, or the driver's refusal.
pub fn lane_order_from_swizzled(
    gpu: &Gpu,
    [rows, k]: [usize; 2],
    swizzled: &CudaView<'_, u8>,
    out: &mut CudaViewMut<'_, u8>,
) -> Result<(), KernelError> {
    let lens = layout::swizzled_len(rows, k).zip(layout::lane_order_len(rows, k));
    let (from, to) = lens
        .filter(|(_, to)| k.is_multiple_of(16) && *to / 512 < 1 << 32)
        .ok_or_else(|| {
            KernelError::shape(
                SOURCE.name,
                format!("no block scales of a matrix of {rows} x {k}"),
            )
        })?;
    sized(SOURCE.name, "swizzled scales", swizzled.len(), from)?;
    sized(SOURCE.name, "scales in lane order", out.len(), to)?;
    aligned(gpu, SOURCE.name, ("the swizzled scales", swizzled), 4)?;
    aligned(gpu, SOURCE.name, ("the scales in lane order", out), 4)?;
    if to == 0 {
        return Ok(());
    }
    let function = gpu.function(&SOURCE, "lane_order_from_swizzled")?;
    let config = grid(SOURCE.name, to / 4)?;
    let shape = [rows as u32, k as u32];
    let mut launch = gpu.stream().launch_builder(&function);
    launch.arg(out).arg(swizzled).arg(&shape[0]).arg(&shape[1]);
    // SAFETY: the arguments are those of the kernel's signature, and lengths and addresses were checked above.
    unsafe { launch.launch(config) }.doing("launching lane_order_from_swizzled")?;
    Ok(())
}
