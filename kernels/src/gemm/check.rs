//! Whether the parts of a product fit each other and the kernels.

use cudarc::driver::CudaView;

use super::operand::{Epilogue, Format, Operand, Product, Shape};
use super::scales::{self, Order};
use crate::error::KernelError;

/// Bytes of a row of codes.
pub(super) fn k_bytes(format: Format, k: usize) -> usize {
    match format {
        Format::Fp8 => k,
        Format::Nvfp4 => k / 2,
    }
}

/// Whether everything has the size that the shape says.
pub(super) fn check(product: &Product<'_>, epilogue: &Epilogue<'_, '_>) -> Result<(), KernelError> {
    let (format, shape) = (product.a.format(), product.shape);
    let fail = |message: String| Err(KernelError::shape(format.kernel(), message));
    let Shape { m, n, k } = shape;
    if product.b.format() != format {
        return fail(format!("the weight is in {:?}", product.b.format()));
    }
    if k == 0 || !k.is_multiple_of(format.k_multiple()) {
        return fail(format!("K = {k} is no multiple of {}", format.k_multiple()));
    }
    if !n.is_multiple_of(epilogue.n_multiple()) {
        let multiple = epilogue.n_multiple();
        return fail(format!(
            "N = {n} is no multiple of {multiple} ({})",
            epilogue.word()
        ));
    }
    // The kernels count rows, bytes of a row and tiles in 31 bits.
    if [m, n, k].iter().any(|size| *size >= 1 << 31) || m.div_ceil(32) * n.div_ceil(128) >= 1 << 27
    {
        return fail(format!("{m} x {n} x {k} is too large"));
    }
    let size = |what: &str, has: usize, wants: usize| match has == wants {
        true => Ok(()),
        false => Err(KernelError::shape(
            format.kernel(),
            format!("{what} has {has} elements, {m} x {n} x {k} wants {wants}"),
        )),
    };
    check_operand(&product.a, (m, k, Order::Activation), &size)?;
    check_operand(&product.b, (n, k, Order::Weight), &size)?;
    if let Some(bias) = product.bias {
        size("the bias", bias.len(), n)?;
    }
    match epilogue {
        Epilogue::Bf16 { out } => size("the output", out.len(), m * n),
        Epilogue::Gated {
            out,
            residual,
            gate,
        } => {
            size("the output", out.len(), m * n)?;
            size("the residual", residual.map_or(m * n, CudaView::len), m * n)?;
            size("the gate", gate.len(), n)
        }
        Epilogue::GeluE4m3 {
            out,
            scale,
            non_finite,
        } => {
            size("the output", out.len(), m * n)?;
            size(
                "the flag",
                non_finite.as_ref().map_or(1, |flag| flag.len()),
                1,
            )?;
            size("the output's scale", scale.len(), 1)
        }
        Epilogue::GeluNvfp4 {
            out,
            block_scales,
            scale,
            non_finite,
        } => {
            size("the output", out.len(), m * n / 2)?;
            size(
                "the output's block scales",
                block_scales.len(),
                scales::len(m, n)?,
            )?;
            size(
                "the flag",
                non_finite.as_ref().map_or(1, |flag| flag.len()),
                1,
            )?;
            size("the output's scale", scale.len(), 1)
        }
    }
}

fn check_operand(
    operand: &Operand<'_>,
    wants: (usize, usize, Order),
    size: &impl Fn(&str, usize, usize) -> Result<(), KernelError>,
) -> Result<(), KernelError> {
    let (rows, k, order) = wants;
    let name = match order {
        Order::Activation => "A",
        Order::Weight => "B",
    };
    let format = operand.format();
    size(name, operand.codes.len(), rows * k_bytes(format, k))?;
    if let Some(given) = operand.block_scales {
        if given.order != order {
            let message = format!(
                "the block scales of {name} are in the order of {:?}",
                given.order
            );
            return Err(KernelError::shape(format.kernel(), message));
        }
        size(name, given.bytes.len(), scales::len(rows, k)?)?;
    }
    size(name, operand.scale.map_or(1, CudaView::len), 1)
}
