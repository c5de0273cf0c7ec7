//! A few rows times a weight, weight-only: the timestep's layers and the modulations (`gemv.cu`).

use cudarc::driver::{CudaView, CudaViewMut, LaunchConfig, PushKernelArg};
use half::bf16;

use crate::device::{Family, Gpu, Source};
use crate::error::{Doing, KernelError};
use crate::layout;
use crate::operand::{aligned, sized};

/// The kernel's PTX.
pub const SOURCE: Source = Source {
    name: "gemv",
    ptx: &[
        (Family::Ampere, include_str!("../ptx/gemv.sm_80.ptx")),
        (Family::Blackwell, include_str!("../ptx/gemv.sm_120f.ptx")),
    ],
};

/// A weight `[n, k]` as it lies on the device; 16-byte aligned.
#[derive(Clone, Copy)]
pub enum Weight<'a> {
    /// `[n, k]`.
    Bf16(&'a CudaView<'a, bf16>),
    /// Codes `[n, k]`.
    E4m3(&'a CudaView<'a, u8>),
    /// NVFP4.
    Nvfp4 {
        /// `[n, k / 2]`, an even column in the high nibble.
        codes: &'a CudaView<'a, u8>,
        /// Block scales in lane order ([`lane_order`](crate::lane_order)), not interleaved as the products take them.
        scales: &'a CudaView<'a, u8>,
    },
}

/// Where results `[m, n]` go.
pub enum Out<'a> {
    /// As they are.
    F32(CudaViewMut<'a, f32>),
    /// Rounded.
    Bf16(CudaViewMut<'a, bf16>),
}

/// `act(x weight^T * scale + bias)`.
#[derive(Clone, Copy)]
pub struct Gemv<'a> {
    /// `[m, k]`, m small; 16-byte aligned.
    pub x: &'a CudaView<'a, f32>,
    /// Columns of `x` and of the weight, a multiple of 16.
    pub k: usize,
    /// `[n, k]`.
    pub weight: Weight<'a>,
    /// The weight's tensor scale, one number on the device; 1 without.
    pub scale: Option<&'a CudaView<'a, f32>>,
    /// `[n]`.
    pub bias: Option<&'a CudaView<'a, bf16>>,
    /// SiLU of the result. A modulation reads silu(temb): the layer before it applies it, once for all of them.
    pub silu: bool,
}

impl Gemv<'_> {
    /// Computes it.
    ///
    /// # Errors
    /// Shapes that do not fit each other, a `k` that is no multiple of 16, or the driver's refusal.
    pub fn run(&self, gpu: &Gpu, out: &mut Out<'_>) -> Result<(), KernelError> {
        let (m, n) = self.check(gpu)?;
        let len = match out {
            Out::F32(out) => out.len(),
            Out::Bf16(out) => out.len(),
        };
        sized(SOURCE.name, "numbers of the output", len, m * n)?;
        if len == 0 {
            return Ok(());
        }
        let at_once = if m == 1 { 1 } else { 10 };
        let format = match self.weight {
            Weight::Bf16(_) => "bf16",
            Weight::E4m3(_) => "e4m3",
            Weight::Nvfp4 { .. } => "nvfp4",
        };
        let name = format!("gemv_{format}_{at_once}");
        let function = gpu.function(&SOURCE, &name)?;
        let silu = u32::from(self.silu);
        let shape = [m, n, self.k].map(|n| n as u32);
        let mut launch = gpu.stream().launch_builder(&function);
        match out {
            Out::F32(out) => launch.arg(out).arg(&NULL),
            Out::Bf16(out) => launch.arg(&NULL).arg(out),
        };
        launch.arg(&silu).arg(self.x);
        match self.scale {
            Some(scale) => launch.arg(scale),
            None => launch.arg(&NULL),
        };
        match self.bias {
            Some(bias) => launch.arg(bias),
            None => launch.arg(&NULL),
        };
        for number in &shape {
            launch.arg(number);
        }
        match self.weight {
            Weight::Bf16(values) => launch.arg(values),
            Weight::E4m3(codes) => launch.arg(codes),
            Weight::Nvfp4 { codes, scales } => launch.arg(codes).arg(scales),
        };
        let config = LaunchConfig {
            grid_dim: (n.div_ceil(32) as u32, m.div_ceil(at_once) as u32, 1),
            block_dim: (256, 1, 1),
            shared_mem_bytes: 0,
        };
        // SAFETY: the arguments are those of the kernel's signature, and lengths and addresses were checked above.
        unsafe { launch.launch(config) }.doing(format!("launching {name}"))?;
        Ok(())
    }

    /// m and n, if the operands fit each other.
    fn check(&self, gpu: &Gpu) -> Result<(usize, usize), KernelError> {
        let k = self.k;
        let refuse = |message: String| Err(KernelError::shape(SOURCE.name, message));
        if k == 0 || !k.is_multiple_of(16) || !self.x.len().is_multiple_of(k) {
            let len = self.x.len();
            return refuse(format!(
                "{len} numbers in rows of {k}: the width must be a multiple of 16 and divide them"
            ));
        }
        aligned(gpu, SOURCE.name, ("the input", self.x), 16)?;
        let m = self.x.len() / k;
        let n = match self.weight {
            Weight::Bf16(values) => values.len() / k,
            Weight::E4m3(codes) => codes.len() / k,
            Weight::Nvfp4 { codes, .. } => codes.len() / (k / 2),
        };
        if m > 10 * 0xffff || n > i32::MAX as usize || k > i32::MAX as usize {
            return refuse(format!("{m} rows times a weight of {n} x {k} are too many"));
        }
        match self.weight {
            Weight::Bf16(values) => {
                sized(SOURCE.name, "numbers of the weight", values.len(), n * k)?;
                aligned(gpu, SOURCE.name, ("the weight", values), 16)?;
            }
            Weight::E4m3(codes) => {
                sized(SOURCE.name, "codes of the weight", codes.len(), n * k)?;
                aligned(gpu, SOURCE.name, ("the weight", codes), 16)?;
            }
            Weight::Nvfp4 { codes, scales } => {
                let blocks = layout::lane_order_len(n, k).unwrap_or(usize::MAX);
                sized(
                    SOURCE.name,
                    "bytes of codes of the weight",
                    codes.len(),
                    n * k / 2,
                )?;
                sized(
                    SOURCE.name,
                    "block scales of the weight",
                    scales.len(),
                    blocks,
                )?;
                aligned(gpu, SOURCE.name, ("the weight", codes), 16)?;
            }
        }
        if let Some(scale) = self.scale {
            sized(SOURCE.name, "scales of the weight", scale.len(), 1)?;
        }
        if let Some(bias) = self.bias {
            sized(SOURCE.name, "numbers of the bias", bias.len(), n)?;
        }
        Ok((m, n))
    }
}

/// A pointer to nothing.
const NULL: u64 = 0;
