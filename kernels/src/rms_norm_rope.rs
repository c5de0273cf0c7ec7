//! RMSNorm of every head and rotary positions (`rms_norm_rope.cu`).

use cudarc::driver::{CudaView, CudaViewMut, DevicePtr, PushKernelArg};
use half::bf16;

use crate::device::{Family, Gpu, Source};
use crate::error::{Doing, KernelError};
use crate::operand::{aligned, grid, sized};

/// The kernel's PTX.
pub const SOURCE: Source = Source {
    name: "rms_norm_rope",
    ptx: &[
        (
            Family::Ampere,
            include_str!("../ptx/rms_norm_rope.sm_80.ptx"),
        ),
        (
            Family::Blackwell,
            include_str!("../ptx/rms_norm_rope.sm_120f.ptx"),
        ),
    ],
};

/// Where the rows of a batch of sequences lie in a buffer that may be wider and longer than they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Strides {
    /// Numbers from one row to the next, a multiple of 8.
    pub row: usize,
    /// Numbers from one batch row to the next, a multiple of 8.
    pub batch: usize,
}

/// Heads of one stream, and what is done to them.
///
/// The columns of a row are `groups` groups of `heads` heads: group g is normalised with row g of `weights` and rotated;
/// groups behind the last weight are copied. So the queries and keys of a fused projection are one call with two groups,
/// in place, and a call with three groups moves the values along to where attention reads them.
#[derive(Clone, Copy)]
pub struct HeadNorm<'a> {
    /// `[weighted groups, head_dim]`; 16-byte aligned.
    pub weights: &'a CudaView<'a, bf16>,
    /// Cosines of the angles, `[sequence, head_dim / 2]`; 16-byte aligned.
    pub cos: &'a CudaView<'a, f32>,
    /// Sines of the angles, `[sequence, head_dim / 2]`; 16-byte aligned.
    pub sin: &'a CudaView<'a, f32>,
    /// Numbers of a head: 32, 64 or 128.
    pub head_dim: usize,
    /// Heads of a group.
    pub heads: usize,
    /// Groups of a row.
    pub groups: usize,
    /// Batch rows.
    pub batch: usize,
    /// Rows of each batch row.
    pub sequence: usize,
    /// Added to the mean square: 1e-6.
    pub eps: f32,
}

impl HeadNorm<'_> {
    /// Computes it from `input` into `out`, or in place where there is no input. Both views begin at the first number of
    /// the first row (of the stream: a part of the joint sequence is a part of its buffer) and are 16-byte aligned.
    ///
    /// # Errors
    /// Heads of other widths, tables or rows that do not fit, or the driver's refusal.
    pub fn run(
        &self,
        gpu: &Gpu,
        input: Option<(&CudaView<'_, bf16>, Strides)>,
        (out, to): (&mut CudaViewMut<'_, bf16>, Strides),
    ) -> Result<(), KernelError> {
        let weighted = self.check(gpu)?;
        self.check_rows(("the output", out.len()), to)?;
        aligned(gpu, SOURCE.name, ("the output", out), 16)?;
        let (from, strides) = match input {
            None => (out.device_ptr(gpu.stream()).0, to),
            Some((input, strides)) => {
                self.check_rows(("the input", input.len()), strides)?;
                aligned(gpu, SOURCE.name, ("the input", input), 16)?;
                (input.device_ptr(gpu.stream()).0, strides)
            }
        };
        let rows = self.batch * self.sequence;
        let chunks = rows * self.width() / 8;
        if chunks == 0 {
            return Ok(());
        }
        let function = gpu.function(&SOURCE, "rms_norm_rope")?;
        let numbers = [
            rows,
            self.sequence,
            self.groups,
            weighted,
            self.heads,
            self.head_dim,
        ];
        let numbers = numbers.map(|n| n as u32);
        let strides = [strides.batch, strides.row, to.batch, to.row];
        let config = grid(SOURCE.name, chunks)?;
        let mut launch = gpu.stream().launch_builder(&function);
        launch
            .arg(out)
            .arg(&from)
            .arg(self.weights)
            .arg(self.cos)
            .arg(self.sin);
        for number in &numbers {
            launch.arg(number);
        }
        for stride in &strides {
            launch.arg(stride);
        }
        launch.arg(&self.eps);
        // SAFETY: the arguments are those of the kernel's signature, and lengths and addresses were checked above.
        unsafe { launch.launch(config) }.doing("launching rms_norm_rope")?;
        Ok(())
    }

    /// Numbers of a row.
    fn width(&self) -> usize {
        self.groups * self.heads * self.head_dim
    }

    /// How many groups have a weight, if heads and tables are in order.
    fn check(&self, gpu: &Gpu) -> Result<usize, KernelError> {
        let head = self.head_dim;
        if ![32, 64, 128].contains(&head) {
            let message = format!("heads of {head}: there are kernels for 32, 64 and 128");
            return Err(KernelError::shape(SOURCE.name, message));
        }
        let weighted = self.weights.len() / head;
        sized(
            SOURCE.name,
            "numbers of the weights",
            self.weights.len(),
            weighted * head,
        )?;
        if weighted > self.groups {
            let message = format!("{weighted} weights for {} groups of heads", self.groups);
            return Err(KernelError::shape(SOURCE.name, message));
        }
        aligned(gpu, SOURCE.name, ("the weights", self.weights), 16)?;
        for (what, table) in [("the cosines", self.cos), ("the sines", self.sin)] {
            sized(SOURCE.name, what, table.len(), self.sequence * head / 2)?;
            aligned(gpu, SOURCE.name, (what, table), 16)?;
        }
        Ok(weighted)
    }

    fn check_rows(&self, (what, len): (&str, usize), at: Strides) -> Result<(), KernelError> {
        let last = |count: usize, stride: usize| count.saturating_sub(1).checked_mul(stride);
        let end = last(self.batch, at.batch)
            .zip(last(self.sequence, at.row))
            .and_then(|(batch, row)| batch.checked_add(row)?.checked_add(self.width()));
        let rows = self.batch.checked_mul(self.sequence);
        let few = rows.is_some_and(|rows| rows <= u32::MAX as usize && self.width() < 1 << 31);
        let fits = end.is_some_and(|end| end <= len) || rows == Some(0);
        // Rows that overlap would be normalised twice.
        let apart = (self.sequence <= 1 || at.row >= self.width())
            && (self.batch <= 1
                || last(self.sequence, at.row)
                    .and_then(|s| s.checked_add(self.width()))
                    .is_some_and(|end| at.batch >= end));
        if few && fits && apart && at.row.is_multiple_of(8) && at.batch.is_multiple_of(8) {
            return Ok(());
        }
        Err(KernelError::shape(
            SOURCE.name,
            format!(
                "{what}: {} x {} rows of {} with strides {} and {} in {len} numbers; strides must be multiples of 8",
                self.batch,
                self.sequence,
                self.width(),
                at.batch,
                at.row
            ),
        ))
    }
}
