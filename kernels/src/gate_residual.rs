//! `residual + gate * y` (`gate_residual.cu`).

use cudarc::driver::{CudaView, CudaViewMut, LaunchConfig, PushKernelArg};
use half::bf16;

use crate::device::{Family, Gpu, Source};
use crate::error::{Doing, KernelError};

/// The kernel's PTX.
pub const SOURCE: Source = Source {
    name: "gate_residual",
    ptx: &[
        (
            Family::Ampere,
            include_str!("../ptx/gate_residual.sm_80.ptx"),
        ),
        (
            Family::Blackwell,
            include_str!("../ptx/gate_residual.sm_120f.ptx"),
        ),
    ],
};

/// `out` `[rows, width]` = `residual` `[rows, width]` + `gate` `[width]` * `y` `[rows, width]`, with f32 in between.
///
/// # Errors
/// Lengths that do not fit each other, a width that is not a multiple of 8, or the driver's refusal.
pub fn gate_residual(
    gpu: &Gpu,
    out: &mut CudaViewMut<'_, bf16>,
    residual: &CudaView<'_, bf16>,
    gate: &CudaView<'_, bf16>,
    y: &CudaView<'_, bf16>,
) -> Result<(), KernelError> {
    let (width, length) = (gate.len(), y.len());
    if width == 0 || width % 8 != 0 || length % width != 0 {
        return Err(KernelError::shape(
            SOURCE.name,
            format!(
                "a gate of {width} for {length} numbers: the width must be a multiple of 8 and divide them"
            ),
        ));
    }
    if residual.len() != length || out.len() != length {
        return Err(KernelError::shape(
            SOURCE.name,
            format!(
                "y has {length} numbers, the residual {}, the output {}",
                residual.len(),
                out.len()
            ),
        ));
    }
    if length == 0 {
        return Ok(());
    }
    let function = gpu.function(&SOURCE, "gate_residual_bf16")?;
    let (rows, width) = ((length / width) as u32, width as u32);
    let blocks = (length / 8)
        .div_ceil(256)
        .min(gpu.multiprocessors() as usize * 8);
    let mut launch = gpu.stream().launch_builder(&function);
    launch
        .arg(out)
        .arg(residual)
        .arg(y)
        .arg(gate)
        .arg(&rows)
        .arg(&width);
    // SAFETY: the arguments are those of the kernel's signature, and the lengths were compared above.
    unsafe {
        launch.launch(LaunchConfig {
            grid_dim: (blocks as u32, 1, 1),
            block_dim: (256, 1, 1),
            shared_mem_bytes: 0,
        })
    }
    .doing("launching gate_residual_bf16")?;
    Ok(())
}
