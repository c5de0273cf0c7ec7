//! LayerNorm with modulation and RMSNorm, fused with the quantizers of the linears that read them (`norm_quantize.cu`).

use cudarc::driver::{CudaView, CudaViewMut, LaunchConfig, PushKernelArg};
use half::bf16;

use crate::device::{Family, Gpu, Source};
use crate::error::{Doing, KernelError};
use crate::operand::{Batches, E4m3Out, Matrix, Nvfp4Out, aligned, sized};

/// The kernel's PTX.
pub const SOURCE: Source = Source {
    name: "norm_quantize",
    ptx: &[
        (
            Family::Ampere,
            include_str!("../ptx/norm_quantize.sm_80.ptx"),
        ),
        (Family::Ada, include_str!("../ptx/norm_quantize.sm_89.ptx")),
        (
            Family::Blackwell,
            include_str!("../ptx/norm_quantize.sm_120f.ptx"),
        ),
    ],
};

/// The widest row.
pub const MAX_WIDTH: usize = 16_384;

/// What of a norm leaves the kernel: any of the three, all from the same f32 numbers.
pub struct Outputs<'a> {
    /// `[rows, width]`, rounded; 16-byte aligned.
    pub bf16: Option<CudaViewMut<'a, bf16>>,
    /// Cards from 8.9 on.
    pub e4m3: Option<E4m3Out<'a>>,
    /// Cards from 12.0 on.
    pub nvfp4: Option<Nvfp4Out<'a>>,
    /// One word, which becomes 1 where codes are wanted of a number that is not finite; see
    /// [`quantize_nvfp4`](crate::quantize_nvfp4::quantize_nvfp4).
    pub not_finite: CudaViewMut<'a, u32>,
}

/// `LN(x) * (1 + scale) + shift`, without affine parameters.
#[derive(Clone, Copy)]
pub struct LayerNorm<'a> {
    /// What is normalised, `[rows, width]`.
    pub x: &'a CudaView<'a, bf16>,
    /// The scales, from the first one on; 16-byte aligned.
    pub scale: &'a CudaView<'a, bf16>,
    /// The shifts, as the scales.
    pub shift: &'a CudaView<'a, bf16>,
    /// Which scale and shift belong to a row.
    pub batches: Batches,
    /// Added to the variance: 1e-6.
    pub eps: f32,
}

/// `x / sqrt(mean(x^2) + eps) * weight`.
#[derive(Clone, Copy)]
pub struct RmsNorm<'a> {
    /// What is normalised, `[rows, width]`.
    pub x: Matrix<'a>,
    /// `[width]`; 16-byte aligned.
    pub weight: &'a CudaView<'a, bf16>,
    /// Added to the mean square.
    pub eps: f32,
}

impl LayerNorm<'_> {
    /// Computes it.
    ///
    /// # Errors
    /// A width that is no multiple of 64 or above [`MAX_WIDTH`], buffers that do not fit, an output for which the card is
    /// too old, or the driver's refusal.
    pub fn run(&self, gpu: &Gpu, out: &mut Outputs<'_>) -> Result<(), KernelError> {
        let Self {
            x, batches, eps, ..
        } = *self;
        let x = Matrix {
            values: x,
            width: batches.width,
        };
        let rows = out.check(gpu, x)?;
        for vectors in [("the scales", self.scale), ("the shifts", self.shift)] {
            batches.check(gpu, SOURCE.name, vectors, rows)?;
        }
        let norm = Norm {
            x,
            scale: self.scale,
            shift: self.shift,
            batches,
            eps,
        };
        norm.launch(gpu, "layer_norm_modulate", out)
    }
}

impl RmsNorm<'_> {
    /// Computes it.
    ///
    /// # Errors
    /// As [`LayerNorm::run`].
    pub fn run(&self, gpu: &Gpu, out: &mut Outputs<'_>) -> Result<(), KernelError> {
        let Self { x, weight, eps } = *self;
        let rows = out.check(gpu, x)?;
        sized(SOURCE.name, "numbers of the weight", weight.len(), x.width)?;
        aligned(gpu, SOURCE.name, ("the weight", weight), 16)?;
        // One batch, so every row takes the vector at 0.
        let batches = Batches {
            width: x.width,
            sequence: rows,
            stride: 0,
        };
        let norm = Norm {
            x,
            scale: weight,
            shift: weight,
            batches,
            eps,
        };
        norm.launch(gpu, "rms_norm", out)
    }
}

impl Outputs<'_> {
    /// The rows of `x`, if the outputs fit it and the card.
    fn check(&self, gpu: &Gpu, x: Matrix<'_>) -> Result<usize, KernelError> {
        let rows = x.rows(gpu, SOURCE.name, 64)?;
        if x.width > MAX_WIDTH {
            return Err(KernelError::shape(
                SOURCE.name,
                format!("rows of {}: at most {MAX_WIDTH}", x.width),
            ));
        }
        let needs = |wanted: bool, oldest, what| {
            if wanted && gpu.family() < oldest {
                let message = format!("{what} codes are not made on {}", gpu.family());
                return Err(KernelError::shape(SOURCE.name, message));
            }
            Ok(())
        };
        needs(self.e4m3.is_some(), Family::Ada, "E4M3")?;
        needs(self.nvfp4.is_some(), Family::Blackwell, "NVFP4")?;
        if let Some(bf16) = &self.bf16 {
            sized(
                SOURCE.name,
                "numbers of the output",
                bf16.len(),
                x.values.len(),
            )?;
            aligned(gpu, SOURCE.name, ("the output", bf16), 16)?;
        }
        if let Some(e4m3) = &self.e4m3 {
            e4m3.check(gpu, SOURCE.name, x.values.len())?;
        }
        if let Some(nvfp4) = &self.nvfp4 {
            nvfp4.check(gpu, SOURCE.name, [rows, x.width])?;
        }
        sized(
            SOURCE.name,
            "words for what is not finite",
            self.not_finite.len(),
            1,
        )?;
        Ok(rows)
    }
}

/// Either norm, checked.
struct Norm<'a> {
    x: Matrix<'a>,
    scale: &'a CudaView<'a, bf16>,
    shift: &'a CudaView<'a, bf16>,
    batches: Batches,
    eps: f32,
}

impl Norm<'_> {
    fn launch(
        &self,
        gpu: &Gpu,
        name: &'static str,
        out: &mut Outputs<'_>,
    ) -> Result<(), KernelError> {
        let Batches {
            width,
            sequence,
            stride,
        } = self.batches;
        let rows = self.x.values.len() / width;
        if rows == 0 {
            return Ok(());
        }
        let blocks = match out.nvfp4 {
            Some(_) => rows.next_multiple_of(64),
            None => rows,
        };
        let function = gpu.function(&SOURCE, name)?;
        let numbers = [rows, width, sequence, stride].map(|n| n as u32);
        let mut launch = gpu.stream().launch_builder(&function);
        launch.arg(self.x.values).arg(self.scale).arg(self.shift);
        for number in &numbers {
            launch.arg(number);
        }
        launch.arg(&self.eps);
        match &mut out.bf16 {
            Some(bf16) => launch.arg(bf16),
            None => launch.arg(&NULL),
        };
        match &mut out.e4m3 {
            Some(e4m3) => launch.arg(&mut e4m3.codes).arg(e4m3.scale),
            None => launch.arg(&NULL).arg(&NULL),
        };
        match &mut out.nvfp4 {
            Some(fp4) => launch
                .arg(&mut fp4.codes)
                .arg(&mut fp4.scales)
                .arg(fp4.scale),
            None => launch.arg(&NULL).arg(&NULL).arg(&NULL),
        };
        launch.arg(&mut out.not_finite);
        // A block takes a row, a thread four times 8 numbers of it.
        let threads = width.div_ceil(32).next_multiple_of(32) as u32;
        let config = LaunchConfig {
            grid_dim: (blocks as u32, 1, 1),
            block_dim: (threads, 1, 1),
            shared_mem_bytes: 0,
        };
        // SAFETY: the arguments are those of the kernel's signature, and lengths and addresses were checked before.
        unsafe { launch.launch(config) }.doing(format!("launching {name}"))?;
        Ok(())
    }
}

/// A pointer to nothing.
const NULL: u64 = 0;
