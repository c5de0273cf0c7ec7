//! bf16 rows to NVFP4 (`quantize_nvfp4.cu`).

use cudarc::driver::{CudaViewMut, PushKernelArg};

use crate::device::{Family, Gpu, Source};
use crate::error::{Doing, KernelError};
use crate::operand::{Matrix, Nvfp4Out, grid, sized};

/// The kernel's PTX.
pub const SOURCE: Source = Source {
    name: "quantize_nvfp4",
    ptx: &[(
        Family::Blackwell,
        include_str!("../ptx/quantize_nvfp4.sm_120f.ptx"),
    )],
};

/// Quantizes `x` `[rows, width]` under the tensor scale that lies at `out.scale`: the bytes of the CPU path.
///
/// Where a number is not finite, `not_finite` (one word) becomes 1 and the codes of its block mean nothing. Nobody looks
/// at the word here: with a word for each layer, a caller who reads them all once at the end of a step can still name
/// the layer. Words are set, never cleared.
///
/// # Errors
/// A width that is not a multiple of 16, buffers that do not fit, a card below 12.0, or the driver's refusal.
pub fn quantize_nvfp4(
    gpu: &Gpu,
    x: Matrix<'_>,
    out: &mut Nvfp4Out<'_>,
    not_finite: &mut CudaViewMut<'_, u32>,
) -> Result<(), KernelError> {
    let rows = x.rows(gpu, SOURCE.name, 16)?;
    out.check(gpu, SOURCE.name, [rows, x.width])?;
    sized(
        SOURCE.name,
        "words for what is not finite",
        not_finite.len(),
        1,
    )?;
    if rows == 0 {
        return Ok(());
    }
    let function = gpu.function(&SOURCE, "quantize_nvfp4")?;
    let (rows, k) = (rows as u32, x.width as u32);
    let mut launch = gpu.stream().launch_builder(&function);
    launch
        .arg(&mut out.codes)
        .arg(&mut out.scales)
        .arg(not_finite)
        .arg(x.values)
        .arg(out.scale)
        .arg(&rows)
        .arg(&k);
    // A warp takes 256 columns.
    let warps = rows.next_multiple_of(64) as usize * x.width.div_ceil(256);
    let config = grid(SOURCE.name, warps * 32)?;
    // SAFETY: the arguments are those of the kernel's signature, and lengths and addresses were checked above.
    unsafe { launch.launch(config) }.doing("launching quantize_nvfp4")?;
    Ok(())
}
