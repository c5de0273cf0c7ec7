//! bf16 to E4M3 (`quantize_e4m3.cu`).

use cudarc::driver::{CudaViewMut, PushKernelArg};

use crate::device::{Family, Gpu, Source};
use crate::error::{Doing, KernelError};
use crate::operand::{E4m3Out, Matrix, grid, sized};

/// The kernel's PTX.
pub const SOURCE: Source = Source {
    name: "quantize_e4m3",
    ptx: &[
        (Family::Ada, include_str!("../ptx/quantize_e4m3.sm_89.ptx")),
        (
            Family::Blackwell,
            include_str!("../ptx/quantize_e4m3.sm_120f.ptx"),
        ),
    ],
};

/// Quantizes `x` under the scale that lies at `out.scale`: the bytes of the CPU path.
///
/// Where a number is not finite, `not_finite` (one word) becomes 1; see
/// [`quantize_nvfp4`](crate::quantize_nvfp4::quantize_nvfp4).
///
/// # Errors
/// A width that is not a multiple of 8, buffers that do not fit, a card below 8.9, or the driver's refusal.
pub fn quantize_e4m3(
    gpu: &Gpu,
    x: Matrix<'_>,
    out: &mut E4m3Out<'_>,
    not_finite: &mut CudaViewMut<'_, u32>,
) -> Result<(), KernelError> {
    let rows = x.rows(gpu, SOURCE.name, 8)?;
    out.check(gpu, SOURCE.name, x.values.len())?;
    sized(
        SOURCE.name,
        "words for what is not finite",
        not_finite.len(),
        1,
    )?;
    if rows == 0 {
        return Ok(());
    }
    let function = gpu.function(&SOURCE, "quantize_e4m3")?;
    let chunks = x.values.len() / 8;
    let config = grid(SOURCE.name, chunks)?;
    let mut launch = gpu.stream().launch_builder(&function);
    launch
        .arg(&mut out.codes)
        .arg(not_finite)
        .arg(x.values)
        .arg(out.scale)
        .arg(&chunks);
    // SAFETY: the arguments are those of the kernel's signature, and lengths and addresses were checked above.
    unsafe { launch.launch(config) }.doing("launching quantize_e4m3")?;
    Ok(())
}
