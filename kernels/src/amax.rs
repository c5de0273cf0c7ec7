//! Scales from the largest magnitude of a tensor (`amax.cu`), for layers without a calibrated one.

use cudarc::driver::{CudaViewMut, LaunchConfig, PushKernelArg};

use crate::device::{Family, Gpu, Source};
use crate::error::{Doing, KernelError};
use crate::operand::{Matrix, grid, sized};

/// The kernel's PTX.
pub const SOURCE: Source = Source {
    name: "amax",
    ptx: &[
        (Family::Ada, include_str!("../ptx/amax.sm_89.ptx")),
        (Family::Blackwell, include_str!("../ptx/amax.sm_120f.ptx")),
    ],
};

/// Words that [`dynamic_scale`] needs in between.
pub const SCRATCH: usize = 1024;

/// What a scale is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// amax / 448, or 1 where that has no finite reciprocal.
    E4m3,
    /// amax / (448 * 6), or 1 where that is zero.
    Nvfp4,
}

/// Writes the scale of `x` to `scale` (one number on the device), the same bits as the CPU path.
///
/// Where a number is not finite the scale is not either; the quantizer that follows reports it. `scratch` holds
/// [`SCRATCH`] words.
///
/// # Errors
/// A width that is not a multiple of 8, buffers that do not fit, a card below 8.9, or the driver's refusal.
pub fn dynamic_scale(
    gpu: &Gpu,
    x: Matrix<'_>,
    format: Format,
    scale: &mut CudaViewMut<'_, f32>,
    scratch: &mut CudaViewMut<'_, u32>,
) -> Result<(), KernelError> {
    x.rows(gpu, SOURCE.name, 8)?;
    sized(SOURCE.name, "scales", scale.len(), 1)?;
    sized(SOURCE.name, "words in between", scratch.len(), SCRATCH)?;
    let chunks = x.values.len() / 8;
    let mut config = grid(SOURCE.name, chunks)?;
    // No more blocks than there are words, nor than fit the card.
    let most = gpu.multiprocessors().saturating_mul(6).min(SCRATCH as u32);
    config.grid_dim.0 = config.grid_dim.0.min(most);
    let function = gpu.function(&SOURCE, "amax_blocks")?;
    let mut launch = gpu.stream().launch_builder(&function);
    launch.arg(&mut *scratch).arg(x.values).arg(&chunks);
    // SAFETY: the arguments are those of the kernel's signature; there are no more blocks than words.
    unsafe { launch.launch(config) }.doing("launching amax_blocks")?;

    let name = match format {
        Format::E4m3 => "scale_e4m3",
        Format::Nvfp4 => "scale_nvfp4",
    };
    let function = gpu.function(&SOURCE, name)?;
    let count = config.grid_dim.0;
    let mut launch = gpu.stream().launch_builder(&function);
    launch.arg(scale).arg(scratch).arg(&count);
    let one = LaunchConfig {
        grid_dim: (1, 1, 1),
        ..config
    };
    // SAFETY: the arguments are those of the kernel's signature, and the first pass wrote `count` words.
    unsafe { launch.launch(one) }.doing(format!("launching {name}"))?;
    Ok(())
}
