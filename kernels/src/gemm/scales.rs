//! The two orders of NVFP4's block scales.
//!
//! Both are *lane order* ([`crate::layout`]): tiles of 64 rows by 128 columns, 512 bytes, 16 bytes a lane. They differ in
//! which row is whose. Activations are plain: lane `4g + t`, word `2s + h` is row `32h + 8t + g`. A weight's row there
//! is row `16 (g / 2) + 8h + 2t + g % 2` of the 64, because the kernels interleave the weight's rows over their
//! 8-column products, so that a lane gets 16 neighbouring output columns (`include/gemm_operands.cuh`). The weight's codes
//! stay as the checkpoint has them.

use cudarc::driver::{CudaView, CudaViewMut, PushKernelArg};

use crate::device::{Family, Gpu, Source};
use crate::error::{Doing, KernelError};
use crate::layout::{
    BLOCK, GROUP_ROWS, lane_order_from_rows, lane_order_len, lane_order_offset,
    rows_from_lane_order, swizzled_len, swizzled_offset,
};
use crate::operand::{aligned, grid, sized};

/// The PTX that brings a weight's block scales into their order on the card.
pub const SOURCE: Source = Source {
    name: "weight_order",
    ptx: &[(
        Family::Blackwell,
        include_str!("../../ptx/weight_order.sm_120f.ptx"),
    )],
};

/// Whose block scales are in lane order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// Activations, or any left operand: rows as they come.
    Activation,
    /// A weight, or any right operand: rows interleaved within each 64.
    Weight,
}

/// The place in plain lane order of row `row` of a weight.
fn interleaved(row: usize) -> usize {
    let within = row % GROUP_ROWS;
    let g = within / 16 * 2 + within % 2;
    let (h, t) = (within / 8 % 2, within / 2 % 4);
    row - within + 32 * h + 8 * t + g
}

/// Where the scale of block `block` (columns `16 block ..+16`) of row `row` of a weight lies, for rows of `k` columns.
pub fn weight_offset(row: usize, block: usize, k: usize) -> usize {
    lane_order_offset(interleaved(row), block, k)
}

/// A weight's block scales from the checkpoint's 128x4 tiles.
///
/// # Errors
/// As [`crate::layout::lane_order_from_swizzled`].
pub fn weight_from_swizzled(scales: &[u8], n: usize, k: usize) -> Result<Vec<u8>, KernelError> {
    if !k.is_multiple_of(BLOCK) || swizzled_len(n, k) != Some(scales.len()) {
        return Err(KernelError::shape(
            "weight_from_swizzled",
            format!("{} block scales for a weight of {n} x {k}", scales.len()),
        ));
    }
    let rows: Vec<u8> = (0..n)
        .flat_map(|row| (0..k / BLOCK).map(move |block| scales[swizzled_offset(row, block, k)]))
        .collect();
    weight_from_rows(&rows, n, k)
}

/// A weight's block scales from rows `[n, k / 16]`.
///
/// # Errors
/// As [`lane_order_from_rows`].
pub fn weight_from_rows(scales: &[u8], n: usize, k: usize) -> Result<Vec<u8>, KernelError> {
    let plain = lane_order_from_rows(scales, n, k)?;
    let mut out = vec![0; plain.len()];
    for row in 0..n {
        for block in 0..k / BLOCK {
            out[weight_offset(row, block, k)] = plain[lane_order_offset(row, block, k)];
        }
    }
    Ok(out)
}

/// [`weight_from_swizzled`] on the card, for a weight `[n, k]`; both views begin at multiples of 4 bytes.
///
/// # Errors
/// A `k` that is not a multiple of 16, buffers that do not fit, a card without NVFP4, the driver's refusal.
pub fn weight_from_swizzled_on(
    gpu: &Gpu,
    [n, k]: [usize; 2],
    swizzled: &CudaView<'_, u8>,
    out: &mut CudaViewMut<'_, u8>,
) -> Result<(), KernelError> {
    let from = swizzled_len(n, k).filter(|_| k.is_multiple_of(BLOCK) && n.max(k) < 1 << 31);
    let from = from.ok_or_else(|| {
        KernelError::shape(
            SOURCE.name,
            format!("no block scales of a weight of {n} x {k}"),
        )
    })?;
    let to = len(n, k)?;
    sized(SOURCE.name, "swizzled scales", swizzled.len(), from)?;
    sized(SOURCE.name, "scales of a weight", out.len(), to)?;
    aligned(gpu, SOURCE.name, ("the swizzled scales", swizzled), 4)?;
    aligned(gpu, SOURCE.name, ("the weight's scales", out), 4)?;
    if to == 0 {
        return Ok(());
    }
    let function = gpu.function(&SOURCE, "weight_order_from_swizzled")?;
    let config = grid(SOURCE.name, to / 4)?;
    let shape = [n as u32, k as u32];
    let mut launch = gpu.stream().launch_builder(&function);
    launch.arg(out).arg(swizzled).arg(&shape[0]).arg(&shape[1]);
    // SAFETY: the arguments are those of the kernel's signature, and lengths and addresses were checked above.
    unsafe { launch.launch(config) }.doing("launching weight_order_from_swizzled")?;
    Ok(())
}

/// The reverse of [`weight_from_rows`].
///
/// # Errors
/// As [`rows_from_lane_order`].
pub fn rows_from_weight(scales: &[u8], n: usize, k: usize) -> Result<Vec<u8>, KernelError> {
    // Says what is wrong with the sizes.
    let mut rows = rows_from_lane_order(scales, n, k)?;
    for row in 0..n {
        for block in 0..k / BLOCK {
            rows[row * (k / BLOCK) + block] = scales[weight_offset(row, block, k)];
        }
    }
    Ok(rows)
}

/// Bytes of the block scales of a `[rows, k]` matrix in either order.
///
/// # Errors
/// Where no memory holds them.
pub fn len(rows: usize, k: usize) -> Result<usize, KernelError> {
    lane_order_len(rows, k)
        .ok_or_else(|| KernelError::shape("block scales", format!("{rows} x {k} fits no memory")))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// By hand from the head of this file.
    #[test]
    fn landmarks_of_a_weight() {
        for (row, offset) in [
            (0, 0),
            (1, 64),        // g = 1
            (2, 16),        // t = 1
            (7, 64 + 48),   // g = 1, t = 3
            (8, 4),         // h = 1
            (16, 128),      // g = 2
            (63, 511 - 11), // the last lane, word 1, byte 0
            (64, 24 * 512),
        ] {
            assert_eq!(weight_offset(row, 0, 3072), offset, "row {row}");
        }
        assert_eq!(weight_offset(0, 5, 3072), 9);
    }

    #[test]
    fn both_sources_agree_and_come_back() {
        let (n, k) = (152, 192);
        let rows: Vec<u8> = (0..n * k / 16).map(|i| (i * 7 % 127) as u8).collect();
        let weight = weight_from_rows(&rows, n, k).unwrap();
        assert_eq!(weight.len(), len(n, k).unwrap());
        assert_eq!(rows_from_weight(&weight, n, k).unwrap(), rows);
        let plain = lane_order_from_rows(&rows, n, k).unwrap();
        assert_ne!(weight, plain);
        let swizzled = crate::layout::swizzled_from_lane_order(&plain, n, k).unwrap();
        assert_eq!(weight_from_swizzled(&swizzled, n, k).unwrap(), weight);
        // What was not written pads, and is zero.
        let sum = |bytes: &[u8]| bytes.iter().map(|b| u64::from(*b)).sum::<u64>();
        assert_eq!(sum(&weight), sum(&rows));
    }

    #[test]
    fn wrong_sizes_are_told() {
        assert!(weight_from_rows(&[0; 3], 1, 64).is_err());
        assert!(weight_from_swizzled(&[0; 3], 1, 64).is_err());
        assert!(weight_from_swizzled(&[0; 512], 1, 65).is_err());
        assert!(rows_from_weight(&[0; 3], 1, 64).is_err());
        assert!(len(usize::MAX, 1 << 20).is_err());
    }
}
