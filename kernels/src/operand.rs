//! What the row kernels read and write, and what is checked of it before a launch.

use cudarc::driver::{CudaView, CudaViewMut, DevicePtr, LaunchConfig};
use half::bf16;

use crate::device::Gpu;
use crate::error::KernelError;
use crate::layout;

/// Rows of bf16 numbers, row-major.
#[derive(Clone, Copy)]
pub struct Matrix<'a> {
    /// `[rows, width]`; 16-byte aligned.
    pub values: &'a CudaView<'a, bf16>,
    /// Numbers of a row.
    pub width: usize,
}

/// Which of a few vectors belongs to a row: one vector for each batch row, as modulations are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Batches {
    /// Numbers of a vector and of a row.
    pub width: usize,
    /// Rows of a batch row, which share a vector.
    pub sequence: usize,
    /// Numbers from one batch row's vector to the next, a multiple of 8: the vectors may lie side by side with others.
    pub stride: usize,
}

/// Where E4M3 codes go, and the scale under which they are made.
pub struct E4m3Out<'a> {
    /// One number on the device, finite and above 0, with a finite reciprocal.
    pub scale: &'a CudaView<'a, f32>,
    /// `[rows, width]`; 8-byte aligned.
    pub codes: CudaViewMut<'a, u8>,
}

/// Where NVFP4 codes go, and the tensor's scale under which they are made.
pub struct Nvfp4Out<'a> {
    /// One number on the device, finite and above 0.
    pub scale: &'a CudaView<'a, f32>,
    /// `[rows, width / 2]`, an even column in the high nibble; 4-byte aligned.
    pub codes: CudaViewMut<'a, u8>,
    /// Block scales in lane order ([`layout::lane_order_len`] bytes), padding included; 4-byte aligned.
    pub scales: CudaViewMut<'a, u8>,
}

impl Matrix<'_> {
    /// The rows, if the numbers are whole, aligned rows whose width is a multiple of `multiple`, and not too many.
    pub(crate) fn rows(
        &self,
        gpu: &Gpu,
        kernel: &'static str,
        multiple: usize,
    ) -> Result<usize, KernelError> {
        let (width, len) = (self.width, self.values.len());
        if width == 0 || !width.is_multiple_of(multiple) || !len.is_multiple_of(width) {
            return Err(KernelError::shape(
                kernel,
                format!(
                    "{len} numbers in rows of {width}: the width must be a multiple of {multiple} and divide them"
                ),
            ));
        }
        aligned(gpu, kernel, ("the input", self.values), 16)?;
        let rows = len / width;
        // Kernels count pieces of 8 numbers, padding included, in 32 bits.
        let padded = rows
            .next_multiple_of(64)
            .checked_mul(width.next_multiple_of(256));
        if padded.is_none_or(|padded| padded / 8 >= 1 << 31) {
            return Err(KernelError::shape(
                kernel,
                format!("{rows} rows of {width} are too many"),
            ));
        }
        Ok(rows)
    }
}

impl Batches {
    /// Refuses `values` that are too few for `rows` rows, and rows that are no whole batch.
    pub(crate) fn check(
        &self,
        gpu: &Gpu,
        kernel: &'static str,
        (what, values): (&str, &CudaView<'_, bf16>),
        rows: usize,
    ) -> Result<(), KernelError> {
        let Self {
            width,
            sequence,
            stride,
        } = *self;
        if sequence == 0 || !rows.is_multiple_of(sequence) {
            return Err(KernelError::shape(
                kernel,
                format!("{rows} rows are no whole batches of {sequence}"),
            ));
        }
        let end = (rows / sequence).saturating_sub(1).checked_mul(stride);
        let end = end.and_then(|end| end.checked_add(width));
        let fits = end.is_some_and(|end| end <= values.len());
        if !fits || !stride.is_multiple_of(8) || u32::try_from(stride).is_err() {
            return Err(KernelError::shape(
                kernel,
                format!(
                    "{what}: {} vectors of {width}, {stride} apart, in {} numbers; the distance must be a multiple of 8",
                    rows / sequence,
                    values.len()
                ),
            ));
        }
        aligned(gpu, kernel, (what, values), 16)
    }
}

impl E4m3Out<'_> {
    pub(crate) fn check(
        &self,
        gpu: &Gpu,
        kernel: &'static str,
        numbers: usize,
    ) -> Result<(), KernelError> {
        sized(kernel, "E4M3 codes", self.codes.len(), numbers)?;
        sized(kernel, "scale", self.scale.len(), 1)?;
        aligned(gpu, kernel, ("the E4M3 codes", &self.codes), 8)
    }
}

impl Nvfp4Out<'_> {
    pub(crate) fn check(
        &self,
        gpu: &Gpu,
        kernel: &'static str,
        [rows, width]: [usize; 2],
    ) -> Result<(), KernelError> {
        let scales = layout::lane_order_len(rows, width).unwrap_or(usize::MAX);
        sized(
            kernel,
            "bytes of NVFP4 codes",
            self.codes.len(),
            rows * width / 2,
        )?;
        sized(kernel, "block scales", self.scales.len(), scales)?;
        sized(kernel, "scale", self.scale.len(), 1)?;
        aligned(gpu, kernel, ("the NVFP4 codes", &self.codes), 4)?;
        aligned(gpu, kernel, ("the block scales", &self.scales), 4)
    }
}

/// Refuses a buffer of another length.
pub(crate) fn sized(
    kernel: &'static str,
    what: &str,
    len: usize,
    expected: usize,
) -> Result<(), KernelError> {
    if len == expected {
        return Ok(());
    }
    Err(KernelError::shape(
        kernel,
        format!("{len} {what}, expected {expected}"),
    ))
}

/// Refuses a view that begins between the multiples of `bytes`.
pub(crate) fn aligned<T>(
    gpu: &Gpu,
    kernel: &'static str,
    (what, view): (&str, &impl DevicePtr<T>),
    bytes: u64,
) -> Result<(), KernelError> {
    let address = view.device_ptr(gpu.stream()).0;
    if address.is_multiple_of(bytes) {
        return Ok(());
    }
    Err(KernelError::shape(
        kernel,
        format!("{what} begins at {address:#x}, which is no multiple of {bytes}"),
    ))
}

/// Blocks of 256 threads, one thread for each piece of work.
///
/// # Errors
/// Where there are 2^32 pieces or more: kernels count in 32 bits.
pub(crate) fn grid(kernel: &'static str, pieces: usize) -> Result<LaunchConfig, KernelError> {
    let pieces = u32::try_from(pieces)
        .map_err(|_| KernelError::shape(kernel, format!("{pieces} pieces of work are too many")))?;
    Ok(LaunchConfig {
        grid_dim: (pieces.div_ceil(256).max(1), 1, 1),
        block_dim: (256, 1, 1),
        shared_mem_bytes: 0,
    })
}
