//! Runs a case on a card.

use cudarc::driver::{CudaSlice, CudaView};
use half::bf16;
use qwen_nvfp4_kernels::gemm::{
    Epilogue, Format, Operand, Plan, Product, Tile, Workspace, gemm_planned, scales,
};
use qwen_nvfp4_kernels::layout::{lane_order_from_rows, rows_from_lane_order};
use qwen_nvfp4_kernels::{Gpu, KernelError};

use crate::case::{Case, Matrix};
use crate::common::emulator;

/// A tile and the parts of K.
pub type How = (Tile, u32);

/// What a GELU epilogue writes.
#[derive(Debug, PartialEq, Eq)]
pub struct Encoded {
    pub codes: Vec<u8>,
    /// `[m, n / 16]`; empty in E4M3.
    pub scales: Vec<u8>,
    pub non_finite: bool,
}

struct OnCard {
    codes: CudaSlice<u8>,
    scales: Option<CudaSlice<u8>>,
    scale: CudaSlice<f32>,
}

impl OnCard {
    fn new(gpu: &Gpu, matrix: &Matrix, is_weight: bool) -> Self {
        let Matrix { rows, k, .. } = *matrix;
        let scales = (matrix.format == Format::Nvfp4).then(|| {
            let order = match is_weight {
                true => scales::weight_from_rows,
                false => lane_order_from_rows,
            };
            gpu.stream()
                .clone_htod(&order(&matrix.scales, rows, k).unwrap())
                .unwrap()
        });
        Self {
            codes: gpu.stream().clone_htod(&matrix.codes).unwrap(),
            scales,
            scale: gpu.stream().clone_htod(&[matrix.scale]).unwrap(),
        }
    }
}

/// Calls `with` with the product on the card and its plan.
fn with_product<T>(
    gpu: &Gpu,
    case: &Case,
    how: How,
    with: impl FnOnce(&Product<'_>, Plan) -> T,
) -> T {
    let (a, b) = (
        OnCard::new(gpu, &case.a, false),
        OnCard::new(gpu, &case.b, true),
    );
    let bias = case
        .bias
        .as_ref()
        .map(|bias| gpu.stream().clone_htod(bias).unwrap());
    let bias: Option<CudaView<'_, f32>> = bias.as_ref().map(|bias| bias.as_view());
    let (a_codes, b_codes) = (a.codes.as_view(), b.codes.as_view());
    let (a_scale, b_scale) = (a.scale.as_view(), b.scale.as_view());
    let a_scales = a.scales.as_ref().map(|scales| scales.as_view());
    let b_scales = b.scales.as_ref().map(|scales| scales.as_view());
    let plan = Plan::with(
        how.0,
        how.1,
        (case.a.format, case.shape(), gpu.multiprocessors()),
    );
    let product = Product {
        a: match &a_scales {
            Some(scales) => Operand::nvfp4(&a_codes, scales, Some(&a_scale)),
            None => Operand::fp8(&a_codes, Some(&a_scale)),
        },
        b: match &b_scales {
            Some(scales) => Operand::nvfp4_weight(&b_codes, scales, Some(&b_scale)),
            None => Operand::fp8(&b_codes, Some(&b_scale)),
        },
        bias: bias.as_ref(),
        shape: case.shape(),
    };
    with(&product, plan)
}

/// The bf16 result.
pub fn bf16_of(gpu: &Gpu, case: &Case, how: How) -> Result<Vec<bf16>, KernelError> {
    bf16_in_blocks(gpu, case, how, u32::MAX)
}

/// [`bf16_of`] with at most so many blocks.
pub fn bf16_in_blocks(
    gpu: &Gpu,
    case: &Case,
    how: How,
    blocks: u32,
) -> Result<Vec<bf16>, KernelError> {
    with_product(gpu, case, how, |product, mut plan| {
        plan.blocks = plan.blocks.min(blocks);
        let shape = product.shape;
        // Allocated, not written: what no kernel writes is found when it is read back.
        let mut out = unsafe { gpu.stream().alloc::<bf16>(shape.m * shape.n) }.unwrap();
        let epilogue = Epilogue::Bf16 {
            out: &mut out.as_view_mut(),
        };
        gemm_planned(gpu, product, epilogue, (plan, &mut Workspace::default()))?;
        Ok(gpu.stream().clone_dtoh(&out).unwrap())
    })
}

/// The output of which only one block of the grid wrote its part; the rest is 0.
pub fn bf16_of_block(
    gpu: &Gpu,
    case: &Case,
    how: How,
    block: usize,
) -> Result<Vec<bf16>, KernelError> {
    with_product(gpu, case, how, |product, plan| {
        let shape = product.shape;
        let mut out = gpu.stream().alloc_zeros::<bf16>(shape.m * shape.n).unwrap();
        let epilogue = Epilogue::Bf16 {
            out: &mut out.as_view_mut(),
        };
        let _only = emulator::settings(&[("block", &block.to_string())]);
        gemm_planned(gpu, product, epilogue, (plan, &mut Workspace::default()))?;
        Ok(gpu.stream().clone_dtoh(&out).unwrap())
    })
}

/// `residual + gate * product`, the residual in the output or apart.
pub fn gated_of(
    gpu: &Gpu,
    case: &Case,
    how: How,
    residual_gate: (&[bf16], &[bf16], bool),
) -> Result<Vec<bf16>, KernelError> {
    let (residual, gate, in_place) = residual_gate;
    with_product(gpu, case, how, |product, plan| {
        let gate = gpu.stream().clone_htod(gate).unwrap();
        let residual = gpu.stream().clone_htod(residual).unwrap();
        let mut out = match in_place {
            true => residual.clone(),
            false => unsafe { gpu.stream().alloc::<bf16>(residual.len()) }.unwrap(),
        };
        let apart = (!in_place).then(|| residual.as_view());
        let epilogue = Epilogue::Gated {
            out: &mut out.as_view_mut(),
            residual: apart.as_ref(),
            gate: &gate.as_view(),
        };
        gemm_planned(gpu, product, epilogue, (plan, &mut Workspace::default()))?;
        Ok(gpu.stream().clone_dtoh(&out).unwrap())
    })
}

/// GELU, then E4M3 or NVFP4 under `scale`.
pub fn gelu_of(
    gpu: &Gpu,
    case: &Case,
    how: How,
    to: (Format, f32),
) -> Result<Encoded, KernelError> {
    let (format, scale) = to;
    with_product(gpu, case, how, |product, plan| {
        let stream = gpu.stream();
        let (m, n) = (product.shape.m, product.shape.n);
        let scale = stream.clone_htod(&[scale]).unwrap();
        let mut flag = stream.alloc_zeros::<u32>(1).unwrap();
        let mut workspace = Workspace::default();
        let (codes, scales) = match format {
            Format::Fp8 => {
                let mut out = unsafe { stream.alloc::<u8>(m * n) }.unwrap();
                let epilogue = Epilogue::GeluE4m3 {
                    out: &mut out.as_view_mut(),
                    scale: &scale.as_view(),
                    non_finite: Some(&mut flag.as_view_mut()),
                };
                gemm_planned(gpu, product, epilogue, (plan, &mut workspace))?;
                (stream.clone_dtoh(&out).unwrap(), Vec::new())
            }
            Format::Nvfp4 => {
                let mut out = unsafe { stream.alloc::<u8>(m * n / 2) }.unwrap();
                // What was there before is NaN.
                let mut scales = stream
                    .clone_htod(&vec![0x7f_u8; scales::len(m, n)?])
                    .unwrap();
                let epilogue = Epilogue::GeluNvfp4 {
                    out: &mut out.as_view_mut(),
                    block_scales: &mut scales.as_view_mut(),
                    scale: &scale.as_view(),
                    non_finite: Some(&mut flag.as_view_mut()),
                };
                gemm_planned(gpu, product, epilogue, (plan, &mut workspace))?;
                let scales = stream.clone_dtoh(&scales).unwrap();
                let rows = rows_from_lane_order(&scales, m, n)?;
                // Behind the last column they are zero, and rows that are none keep what they had.
                let sum = |bytes: &[u8]| bytes.iter().map(|byte| u64::from(*byte)).sum::<u64>();
                let others = m.next_multiple_of(64) - m;
                let kept = (others * n.next_multiple_of(128) / 16 * 0x7f) as u64;
                assert_eq!(sum(&rows) + kept, sum(&scales), "scales of padding");
                (stream.clone_dtoh(&out).unwrap(), rows)
            }
        };
        let non_finite = stream.clone_dtoh(&flag).unwrap()[0] != 0;
        Ok(Encoded {
            codes,
            scales,
            non_finite,
        })
    })
}
