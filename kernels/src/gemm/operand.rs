//! What a product is made of, and what becomes of it.

use cudarc::driver::{CudaView, CudaViewMut};
use half::bf16;

use super::scales::Order;

/// Format of both operands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// E4M3 codes, one F32 scale.
    Fp8,
    /// Two E2M1 codes a byte (the even column in the high nibble), E4M3 scales per 16 columns, one F32 scale.
    Nvfp4,
}

impl Format {
    /// Columns in 64 bytes, the depth of a tile.
    pub fn tile_k(self) -> usize {
        match self {
            Self::Fp8 => 64,
            Self::Nvfp4 => 128,
        }
    }

    /// What K must be a multiple of: rows begin at multiples of 16 bytes, and NVFP4's instruction takes 64 columns.
    pub fn k_multiple(self) -> usize {
        match self {
            Self::Fp8 => 16,
            Self::Nvfp4 => 64,
        }
    }

    /// The name of its kernels' source.
    pub fn kernel(self) -> &'static str {
        match self {
            Self::Fp8 => "fp8_gemm",
            Self::Nvfp4 => "nvfp4_gemm",
        }
    }
}

/// Sizes of a product: A `[m, k]`, B `[n, k]`, D `[m, n]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// Rows of A: tokens.
    pub m: usize,
    /// Rows of B: output features. A multiple of 8.
    pub n: usize,
    /// Columns of both: input features.
    pub k: usize,
}

/// NVFP4's block scales on the card, in [lane order](super::scales).
#[derive(Clone, Copy)]
pub struct BlockScales<'a> {
    /// [`lane_order_len`](crate::layout::lane_order_len) bytes, zero behind the last column.
    pub bytes: &'a CudaView<'a, u8>,
    /// Whose rows they are.
    pub order: Order,
}

/// One of the two matrices.
#[derive(Clone, Copy)]
pub struct Operand<'a> {
    /// `[rows, k]` codes, packed: `k` bytes a row in FP8, `k / 2` in NVFP4.
    pub codes: &'a CudaView<'a, u8>,
    /// NVFP4's block scales; absent in FP8.
    pub block_scales: Option<BlockScales<'a>>,
    /// The scale of the whole matrix, one number; absent where it is 1.
    pub scale: Option<&'a CudaView<'a, f32>>,
}

impl<'a> Operand<'a> {
    /// E4M3 codes under one scale.
    pub fn fp8(codes: &'a CudaView<'a, u8>, scale: Option<&'a CudaView<'a, f32>>) -> Self {
        Self {
            codes,
            block_scales: None,
            scale,
        }
    }

    /// Activations in NVFP4, their block scales in lane order.
    pub fn nvfp4(
        codes: &'a CudaView<'a, u8>,
        block_scales: &'a CudaView<'a, u8>,
        scale: Option<&'a CudaView<'a, f32>>,
    ) -> Self {
        let block_scales = Some(BlockScales {
            bytes: block_scales,
            order: Order::Activation,
        });
        Self {
            codes,
            block_scales,
            scale,
        }
    }

    /// A weight in NVFP4, its block scales in the order of [`Order::Weight`].
    pub fn nvfp4_weight(
        codes: &'a CudaView<'a, u8>,
        block_scales: &'a CudaView<'a, u8>,
        scale: Option<&'a CudaView<'a, f32>>,
    ) -> Self {
        let block_scales = Some(BlockScales {
            bytes: block_scales,
            order: Order::Weight,
        });
        Self {
            codes,
            block_scales,
            scale,
        }
    }

    /// The format its parts say.
    pub fn format(&self) -> Format {
        match self.block_scales {
            Some(_) => Format::Nvfp4,
            None => Format::Fp8,
        }
    }
}

/// `alpha A B^T + bias`, alpha being the product of the operands' scales.
#[derive(Clone, Copy)]
pub struct Product<'a> {
    /// Activations `[m, k]`.
    pub a: Operand<'a>,
    /// The weight `[n, k]`.
    pub b: Operand<'a>,
    /// `[n]`.
    pub bias: Option<&'a CudaView<'a, f32>>,
    /// The sizes.
    pub shape: Shape,
}

/// What becomes of the F32 numbers of a product.
pub enum Epilogue<'a, 'b> {
    /// They are rounded to bf16.
    Bf16 {
        /// `[m, n]`.
        out: &'a mut CudaViewMut<'b, bf16>,
    },
    /// `residual + gate * number`, rounded to bf16 once.
    Gated {
        /// `[m, n]`.
        out: &'a mut CudaViewMut<'b, bf16>,
        /// `[m, n]`; absent where it is what `out` holds before.
        residual: Option<&'a CudaView<'a, bf16>>,
        /// `[n]`.
        gate: &'a CudaView<'a, bf16>,
    },
    /// GELU (tanh form), then E4M3 codes of `number * (1 / scale)`, from F32. `n` is a multiple of 16.
    GeluE4m3 {
        /// `[m, n]`.
        out: &'a mut CudaViewMut<'b, u8>,
        /// The consumer's `input_scale`, one number above 0.
        scale: &'a CudaView<'a, f32>,
        /// One word, set to 1 where a number is not finite.
        non_finite: Option<&'a mut CudaViewMut<'b, u32>>,
    },
    /// GELU (tanh form), then NVFP4, from F32. `n` is a multiple of 64.
    GeluNvfp4 {
        /// `[m, n / 2]`.
        out: &'a mut CudaViewMut<'b, u8>,
        /// Block scales of `[m, n]` in lane order: those of the `m` rows, and zeros behind their last column. The rows of
        /// the padding stay as they are; no product stores what comes of them.
        block_scales: &'a mut CudaViewMut<'b, u8>,
        /// The consumer's `input_scale`, one number between 2^-60 and 2^60.
        scale: &'a CudaView<'a, f32>,
        /// One word, set to 1 where a number is not finite.
        non_finite: Option<&'a mut CudaViewMut<'b, u32>>,
    },
}

impl Epilogue<'_, '_> {
    /// The end of its kernels' names.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Bf16 { .. } => "bf16",
            Self::Gated { .. } => "gate_bf16",
            Self::GeluE4m3 { .. } => "gelu_e4m3",
            Self::GeluNvfp4 { .. } => "gelu_nvfp4",
        }
    }

    /// What `n` must be a multiple of.
    pub fn n_multiple(&self) -> usize {
        match self {
            Self::Bf16 { .. } | Self::Gated { .. } => 8,
            Self::GeluE4m3 { .. } => 16,
            Self::GeluNvfp4 { .. } => 64,
        }
    }
}
