//! `residual + gate * y` (`gate_residual.cu`).

use cudarc::driver::{CudaView, CudaViewMut, DevicePtr, PushKernelArg};
use half::bf16;

use crate::device::{Family, Gpu, Source};
use crate::error::{Doing, KernelError};
use crate::operand::{Batches, Matrix, aligned, grid, sized};

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

/// What is added to a residual.
#[derive(Clone, Copy)]
pub struct Gated<'a> {
    /// What the gate multiplies, `[rows, width]`; 16-byte aligned.
    pub y: &'a CudaView<'a, bf16>,
    /// The gates, from the first one on; 16-byte aligned.
    pub gate: &'a CudaView<'a, bf16>,
    /// Which gate belongs to a row.
    pub batches: Batches,
}

/// `out` `[rows, width]` = `residual` `[rows, width]` + gate * y, with f32 in between, rounded once.
///
/// Without a residual `out` is the residual, and the sum takes its place.
///
/// # Errors
/// Lengths that do not fit each other, a width that is not a multiple of 8, or the driver's refusal.
pub fn gate_residual(
    gpu: &Gpu,
    out: &mut CudaViewMut<'_, bf16>,
    residual: Option<&CudaView<'_, bf16>>,
    gated: &Gated<'_>,
) -> Result<(), KernelError> {
    let Batches {
        width,
        sequence,
        stride,
    } = gated.batches;
    let y = Matrix {
        values: gated.y,
        width,
    };
    let rows = y.rows(gpu, SOURCE.name, 8)?;
    gated
        .batches
        .check(gpu, SOURCE.name, ("the gates", gated.gate), rows)?;
    let length = y.values.len();
    let own = out.device_ptr(gpu.stream()).0;
    // The guard lives until the launch: other streams wait for what it records.
    let read = match residual {
        Some(residual) => {
            sized(
                SOURCE.name,
                "numbers of the residual",
                residual.len(),
                length,
            )?;
            aligned(gpu, SOURCE.name, ("the residual", residual), 16)?;
            Some(residual.device_ptr(gpu.stream()))
        }
        None => None,
    };
    let residual = read.as_ref().map_or(own, |(address, _)| *address);
    sized(SOURCE.name, "numbers of the output", out.len(), length)?;
    aligned(gpu, SOURCE.name, ("the output", out), 16)?;
    if length == 0 {
        return Ok(());
    }
    let function = gpu.function(&SOURCE, "gate_residual_bf16")?;
    let numbers = [rows, width, sequence, stride].map(|n| n as u32);
    let mut launch = gpu.stream().launch_builder(&function);
    launch.arg(out).arg(&residual).arg(gated.y).arg(gated.gate);
    for number in &numbers {
        launch.arg(number);
    }
    let config = grid(SOURCE.name, length / 8)?;
    // SAFETY: the arguments are those of the kernel's signature, and lengths and addresses were checked above.
    unsafe { launch.launch(config) }.doing("launching gate_residual_bf16")?;
    Ok(())
}
