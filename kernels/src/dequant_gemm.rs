//! Products for cards without FP8 or NVFP4 tensor cores (`dequant_gemm.cu`): bf16 activations and packed weights, which
//! are widened to bf16 on the card. It runs on every supported family.

use cudarc::driver::{CudaView, DevicePtrMut};
use half::bf16;

use crate::device::{Family, Gpu, Source};
use crate::error::KernelError;
use crate::gemm::launch::{Arguments, Pointers, launch};
use crate::gemm::{Epilogue, Format, Shape, Workspace};
use crate::layout::swizzled_len;

/// The kernels' PTX.
pub const SOURCE: Source = Source {
    name: "dequant_gemm",
    ptx: &[(
        Family::Ampere,
        include_str!("../ptx/dequant_gemm.sm_80.ptx"),
    )],
};

/// Columns of a tile.
const TILE_COLUMNS: usize = 128;
/// K of a tile.
const TILE_K: usize = 64;
/// Parts of K at most: their number times K's tiles, which are fewer than 2^20, has to fit 32 bits.
const LIMIT_SPLITS: u32 = 64;

/// A packed weight `[n, k]` as the checkpoint has it.
#[derive(Clone, Copy)]
pub struct Weight<'a> {
    /// E4M3 codes, or two E2M1 codes a byte with the even column in the high nibble.
    codes: &'a CudaView<'a, u8>,
    block_scales: Option<&'a CudaView<'a, u8>>,
    scale: Option<&'a CudaView<'a, f32>>,
}

impl<'a> Weight<'a> {
    /// E4M3 codes `[n, k]` under one scale (1 if absent).
    pub fn fp8(codes: &'a CudaView<'a, u8>, scale: Option<&'a CudaView<'a, f32>>) -> Self {
        Self {
            codes,
            block_scales: None,
            scale,
        }
    }

    /// E2M1 codes `[n, k / 2]`, block scales in the checkpoint's order ([`crate::layout::swizzled_offset`]), one scale
    /// for all.
    pub fn nvfp4(
        codes: &'a CudaView<'a, u8>,
        block_scales: &'a CudaView<'a, u8>,
        scale: Option<&'a CudaView<'a, f32>>,
    ) -> Self {
        Self {
            codes,
            block_scales: Some(block_scales),
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

/// `alpha A B^T + bias`, alpha being the weight's scale.
#[derive(Clone, Copy)]
pub struct DequantProduct<'a> {
    /// Activations `[m, k]`.
    pub a: &'a CudaView<'a, bf16>,
    /// The weight `[n, k]`. K is a multiple of 16 in FP8 and of 32 in NVFP4: rows begin at multiples of 16 bytes.
    pub weight: Weight<'a>,
    /// `[n]`.
    pub bias: Option<&'a CudaView<'a, f32>>,
    /// The sizes. Any N; multiples of 8 are stored faster.
    pub shape: Shape,
}

/// Which tile serves a product, and into how many parts K is split.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DequantPlan {
    /// 128 x 128, for many rows.
    Large,
    /// 32 x 128 with partial sums in the workspace, for few rows: the weight is what takes time.
    Small {
        /// Parts of K.
        splits: u32,
    },
}

impl DequantPlan {
    /// K of a part is at least this long.
    const PART_K: usize = 512;

    /// The plan for a card of so many multiprocessors: large tiles if they keep it busy, else K split until they do.
    pub fn of(shape: Shape, multiprocessors: u32) -> Self {
        let cards = multiprocessors.max(1) as usize;
        if shape.m > 32 && Self::Large.tiles(shape) >= cards {
            return Self::Large;
        }
        // Two blocks of either tile share a multiprocessor.
        let slots = 2 * cards;
        let small = Self::Small { splits: 1 };
        let most = (shape.k / Self::PART_K).clamp(1, 16);
        let splits = (slots / small.tiles(shape).max(1)).clamp(1, most) as u32;
        Self::Small { splits }
    }

    /// Rows of a tile.
    pub fn rows(self) -> usize {
        match self {
            Self::Large => 128,
            Self::Small { .. } => 32,
        }
    }

    /// Threads of a block.
    pub fn threads(self) -> u32 {
        match self {
            Self::Large => 128,
            Self::Small { .. } => 64,
        }
    }

    /// Bytes of dynamic shared memory: the ring, and a K tile of the weight in bf16.
    pub fn shared_bytes(self, format: Format) -> usize {
        let stages = match (self, format) {
            (Self::Large, Format::Fp8) => 2,
            (Self::Large, Format::Nvfp4) => 3,
            (Self::Small { .. }, _) => 4,
        };
        let weight_row = match format {
            Format::Fp8 => TILE_K,
            // 4 scales.
            Format::Nvfp4 => TILE_K / 2 + 4,
        };
        let stage = self.rows() * TILE_K * 2 + TILE_COLUMNS * weight_row;
        stages * stage + TILE_COLUMNS * TILE_K * 2
    }

    fn tiles(self, shape: Shape) -> usize {
        shape.m.div_ceil(self.rows()) * shape.n.div_ceil(TILE_COLUMNS)
    }
}

/// Computes `product` and its `epilogue` (bf16 or gated) as [`DequantPlan::of`] says; returns the plan.
///
/// # Errors
/// Sizes that do not fit each other, an epilogue that is not built, the driver's refusal.
pub fn dequant_gemm(
    gpu: &Gpu,
    product: &DequantProduct<'_>,
    epilogue: Epilogue<'_, '_>,
    workspace: &mut Workspace,
) -> Result<DequantPlan, KernelError> {
    let plan = DequantPlan::of(product.shape, gpu.multiprocessors());
    dequant_gemm_planned(gpu, product, epilogue, (plan, workspace))?;
    Ok(plan)
}

/// [`dequant_gemm`] with a plan of one's own. More parts than K has tiles, or than 64, are cut to as many.
///
/// # Errors
/// As [`dequant_gemm`].
pub fn dequant_gemm_planned(
    gpu: &Gpu,
    product: &DequantProduct<'_>,
    epilogue: Epilogue<'_, '_>,
    how: (DequantPlan, &mut Workspace),
) -> Result<(), KernelError> {
    let (plan, workspace) = how;
    check(product, &epilogue)?;
    let (shape, format) = (product.shape, product.weight.format());
    if shape.m == 0 || shape.n == 0 {
        return Ok(());
    }
    let splits = match plan {
        DequantPlan::Large => 1,
        DequantPlan::Small { splits } => splits
            .min(LIMIT_SPLITS)
            .clamp(1, shape.k.div_ceil(TILE_K) as u32),
    };
    let mut arguments = Arguments {
        m: shape.m as u32,
        n: shape.n as u32,
        k_bytes: (shape.k * 2) as u32,
        splits,
        ..Arguments::default()
    };
    let word = epilogue.word();
    let mut pointers = Pointers {
        stream: gpu.stream(),
        kernel: SOURCE.name,
        held: Vec::new(),
    };
    arguments.a = pointers.read(product.a)?;
    arguments.b = pointers.read(product.weight.codes)?;
    if let Some(scales) = product.weight.block_scales {
        arguments.b_scales = pointers.read(scales)?;
    }
    arguments.b_scale = pointers.number(product.weight.scale);
    arguments.bias = match product.bias {
        Some(bias) => pointers.read(bias)?,
        None => 0,
    };
    pointers.epilogue(epilogue, &mut arguments)?;

    let weight = match format {
        Format::Fp8 => "e4m3",
        Format::Nvfp4 => "nvfp4",
    };
    let blocks = plan.tiles(shape) * splits as usize;
    if blocks >= 1 << 31 {
        let message = format!("{splits} parts of K of {shape:?} are too many");
        return Err(KernelError::shape(SOURCE.name, message));
    }
    let blocks = blocks as u32;
    let with = [blocks, plan.threads(), plan.shared_bytes(format) as u32];
    if plan == DequantPlan::Large {
        let name = format!("dequant_{weight}_128x128_{word}");
        return launch(gpu, &SOURCE, &name, (&arguments, with));
    }
    let len = plan.tiles(shape) * splits as usize * plan.rows() * TILE_COLUMNS;
    let partial = workspace.reserve(gpu, len)?;
    let (address, _partial) = partial.device_ptr_mut(gpu.stream());
    arguments.partial = address;
    let name = format!("dequant_{weight}_32x128_splitk");
    launch(gpu, &SOURCE, &name, (&arguments, with))?;
    let name = format!("dequant_reduce_32x128_{word}");
    let with = [plan.tiles(shape) as u32, plan.threads(), 0];
    launch(gpu, &SOURCE, &name, (&arguments, with))
}

/// Whether everything has the size that the shape says.
fn check(product: &DequantProduct<'_>, epilogue: &Epilogue<'_, '_>) -> Result<(), KernelError> {
    let Shape { m, n, k } = product.shape;
    let fail = |message: String| Err(KernelError::shape(SOURCE.name, message));
    let (weight, multiple, codes) = match product.weight.format() {
        Format::Fp8 => ("FP8", 16, n.checked_mul(k)),
        Format::Nvfp4 => ("NVFP4", 32, n.checked_mul(k / 2)),
    };
    if k == 0 || !k.is_multiple_of(multiple) {
        return fail(format!("K = {k} is no multiple of {multiple} ({weight})"));
    }
    // The kernels count rows, tiles and 64 times K in 32 bits.
    if m.max(n) >= 1 << 30 || k >= 1 << 26 || m.div_ceil(32) * n.div_ceil(128) >= 1 << 27 {
        return fail(format!("{m} x {n} x {k} is too large"));
    }
    let size = |what: &str, has: usize, wants: Option<usize>| match Some(has) == wants {
        true => Ok(()),
        false => fail(format!(
            "{what} has {has} elements, which does not fit {m} x {n} x {k}"
        )),
    };
    size("A", product.a.len(), m.checked_mul(k))?;
    size("the weight", product.weight.codes.len(), codes)?;
    if let Some(scales) = product.weight.block_scales {
        size("the weight's scales", scales.len(), swizzled_len(n, k))?;
    }
    let scale = product.weight.scale.map_or(1, CudaView::len);
    size("the weight's scale", scale, Some(1))?;
    let bias = product.bias.map_or(n, CudaView::len);
    size("the bias", bias, Some(n))?;
    match epilogue {
        Epilogue::Bf16 { out } => size("the output", out.len(), m.checked_mul(n)),
        Epilogue::Gated {
            out,
            residual,
            gate,
        } => {
            size("the output", out.len(), m.checked_mul(n))?;
            let residual = residual.map_or(out.len(), CudaView::len);
            size("the residual", residual, m.checked_mul(n))?;
            size("the gate", gate.len(), Some(n))
        }
        Epilogue::GeluE4m3 { .. } | Epilogue::GeluNvfp4 { .. } => fail(format!(
            "{} is not built: the next product takes bf16",
            epilogue.word()
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A100: u32 = 108;

    fn plan(m: usize, n: usize, k: usize) -> DequantPlan {
        DequantPlan::of(Shape { m, n, k }, A100)
    }

    /// Shapes of Qwen-Image: 4096 image tokens, 20 to 200 of text.
    #[test]
    fn many_rows_take_large_tiles_and_few_split_k() {
        assert_eq!(plan(4096, 3072, 3072), DequantPlan::Large);
        // 2 x 96 tiles of 128 rows.
        assert_eq!(plan(200, 12288, 3072), DequantPlan::Large);
        // 24 tiles for 216 places.
        assert_eq!(plan(20, 3072, 12288), DequantPlan::Small { splits: 9 });
        assert_eq!(plan(20, 3072, 3072), DequantPlan::Small { splits: 6 });
        assert_eq!(plan(200, 3072, 3072), DequantPlan::Small { splits: 1 });
        assert_eq!(plan(0, 8, 64), DequantPlan::Small { splits: 1 });
    }

    /// sm_80 has 164 KB of shared memory for all blocks of a multiprocessor, of which each costs 1 KB more; sm_86 gives
    /// one block 99 KB.
    #[test]
    fn two_blocks_fit_the_oldest_card_and_one_the_smallest() {
        for plan in [DequantPlan::Large, DequantPlan::Small { splits: 1 }] {
            for format in [Format::Fp8, Format::Nvfp4] {
                let bytes = plan.shared_bytes(format);
                assert!(2 * (bytes + 1024) <= 164 * 1024, "{plan:?} {format:?}");
                assert!(bytes <= 99 * 1024, "{plan:?} {format:?}");
            }
        }
    }
}
