//! The scales of layers that carry a marker.

use safetensors::Dtype;

use super::Layer;
use super::fault::{FaultKind, Findings};
use super::values::Codes;
use crate::checkpoint::TensorView;
use crate::checkpoint::markers::{Carrier, INPUT_SCALE, Record, WEIGHT_SCALE, WEIGHT_SCALE_2};
use crate::numerics::e4m3::{E4M3_TO_F32, MAX};
use crate::numerics::nvfp4::BLOCK;
use crate::numerics::swizzle;

/// No weight of a model that runs in 16 bits is larger.
const LARGEST: f32 = 65_504.0;

/// What to do where a scale cannot be right.
const AGAIN: &str = "convert the file again from its source";

/// Checks the scales of an FP8 layer.
pub(super) fn fp8(layer: &Layer, record: &Record, found: &mut Findings) {
    match spelled(layer, WEIGHT_SCALE, record, found) {
        None => found.fault(
            &layer.tensor(WEIGHT_SCALE[0]),
            FaultKind::MissingWeightScale,
            "the layer's marker needs it, ComfyUI fails without; convert the file again (where the numbers are the weights themselves it is 1.0: --assume-unscaled)",
        ),
        Some(view) => {
            if let Some(scale) = number(view, found)
                && layer.weight.dtype() == Dtype::F8_E4M3
                && scale * MAX > LARGEST
            {
                inverted(view, scale * MAX, found);
            }
        }
    }
    input(layer, record, found);
}

/// Checks the scales of an NVFP4 layer.
pub(super) fn nvfp4(layer: &Layer, record: &Record, found: &mut Findings) {
    let tensor_scale = match layer.find(WEIGHT_SCALE_2) {
        Some(view) => number(view, found).map(|scale| (view, scale)),
        None => {
            found.fault(
                &layer.tensor(WEIGHT_SCALE_2),
                FaultKind::MissingWeightScale2,
                format!("an NVFP4 layer needs it, ComfyUI says `Missing NVFP4 scales`; {AGAIN}"),
            );
            None
        }
    };
    let (rows, packed) = (layer.weight.shape()[0], layer.weight.shape()[1]);
    let columns = packed / (BLOCK / 2);
    if !rows.is_multiple_of(BLOCK) || !packed.is_multiple_of(BLOCK / 2) {
        found.fault(
            layer.weight.name(),
            FaultKind::UnalignedNvfp4,
            format!(
                "its sides are no multiples of {BLOCK} ({rows} rows of {packed} bytes), so it has no whole blocks; convert again with a float8_e4m3fn or keep rule for it"
            ),
        );
    } else if let Some(view) = layer.find(WEIGHT_SCALE[0]) {
        block_scales(layer, view, [rows, columns], tensor_scale, found);
    } else {
        found.fault(
            &layer.tensor(WEIGHT_SCALE[0]),
            FaultKind::MissingBlockScales,
            format!("an NVFP4 layer needs its block scales; {AGAIN}"),
        );
    }
    input(layer, record, found);
}

fn input(layer: &Layer, record: &Record, found: &mut Findings) {
    if let Some(view) = spelled(layer, INPUT_SCALE, record, found) {
        number(view, found);
    }
}

/// A scale under its name or its older one.
fn spelled<'a>(
    layer: &Layer<'a>,
    [name, older]: [&str; 2],
    record: &Record,
    found: &mut Findings,
) -> Option<&'a TensorView> {
    match (layer.find(name), layer.find(older)) {
        (Some(view), Some(other)) => {
            found.fault(
                other.name(),
                FaultKind::TwoSpellings,
                format!(
                    "`{}` is there too, and programs differ in which of the two they read; {AGAIN}",
                    view.name()
                ),
            );
            Some(view)
        }
        (None, Some(view)) => {
            // ComfyUI renames it only where the older marker tells it to.
            if record.carrier != Carrier::Legacy {
                found.fault(
                    view.name(),
                    FaultKind::OldSpelling,
                    format!("beside a record ComfyUI reads `{name}` only; rename it, or convert the file again"),
                );
            }
            Some(view)
        }
        (found, None) => found,
    }
}

/// A scale of one number, checked.
fn number(view: &TensorView, found: &mut Findings) -> Option<f32> {
    if view.elements() != 1 {
        let why = match view.elements() {
            0 => "it is empty",
            _ => "scales for rows or blocks belong to another format",
        };
        let message = format!(
            "it has shape {:?}, one number was expected ({why}); {AGAIN}",
            view.shape()
        );
        found.fault(view.name(), FaultKind::WrongShape, message);
        return None;
    }
    let value = match view.to_f32() {
        Ok(values) => *values.first()?,
        Err(error) => {
            let message = format!("{error}; {AGAIN}");
            found.fault(view.name(), FaultKind::WrongFormat, message);
            return None;
        }
    };
    let kind = match value {
        v if v.is_nan() => FaultKind::NanScale,
        v if v.is_infinite() => FaultKind::InfiniteScale,
        v if v < 0.0 => FaultKind::NegativeScale,
        0.0 => FaultKind::ZeroScale,
        _ => {
            precision(view, found);
            return Some(value);
        }
    };
    let message = format!("the scale is {value}, it must be a positive number; {AGAIN}");
    found.fault(view.name(), kind, message);
    None
}

fn precision(view: &TensorView, found: &mut Findings) {
    if matches!(view.dtype(), Dtype::BF16 | Dtype::F16) {
        found.advise(
            view.name(),
            FaultKind::ScalePrecision,
            format!(
                "it is {:?}, it ought to be F32: older ComfyUI fails in `scaled_mm`, and the rounded scale shifts every weight of the layer; convert the file again",
                view.dtype()
            ),
        );
    }
}

fn inverted(view: &TensorView, largest: f32, found: &mut Findings) {
    found.fault(
        view.name(),
        FaultKind::InvertedScale,
        format!(
            "the layer's largest weight would be {largest:e}; its reciprocal was stored (compressed-tensors' scales divide, ComfyUI's multiply): {AGAIN}"
        ),
    );
}

/// Checks NVFP4 block scales: E4M3 bytes in tiles of 128 rows by 4 columns, zero where padded.
fn block_scales(
    layer: &Layer,
    view: &TensorView,
    [rows, columns]: [usize; 2],
    tensor_scale: Option<(&TensorView, f32)>,
    found: &mut Findings,
) {
    let expected = swizzle::padded(rows, columns);
    if view.shape() != expected || !matches!(view.dtype(), Dtype::F8_E4M3 | Dtype::U8) {
        let hint = match view.shape() == [rows, columns] {
            true => "they are not in cuBLAS' tiles, as ModelOpt exports them: swizzle them, or ",
            false => "",
        };
        let message = format!(
            "block scales are {:?} {:?}, E4M3 {expected:?} was expected; {hint}{AGAIN}",
            view.dtype(),
            view.shape()
        );
        return found.fault(view.name(), FaultKind::BlockScaleLayout, message);
    }
    let bytes = view.bytes();
    let codes = Codes::of(bytes);
    if codes.has_nan() {
        let at = bytes.iter().position(|code| code & 0x7f == 0x7f);
        let message = format!("block scale {} is NaN; {AGAIN}", at.unwrap_or_default());
        found.fault(view.name(), FaultKind::NanScale, message);
    } else if codes.largest == 0 {
        // A scale of 0 is right for a block of zeros. Both signs of zero are a zero.
        if layer.weight.bytes().iter().any(|pair| pair & 0x77 != 0) {
            let message = format!(
                "all block scales are zero, the codes are not: the layer does nothing; {AGAIN}"
            );
            found.fault(view.name(), FaultKind::ZeroBlockScales, message);
        }
    } else if let Some((scale_view, scale)) = tensor_scale {
        let largest = scale * 6.0 * E4M3_TO_F32[usize::from(codes.largest)];
        if largest > LARGEST {
            inverted(scale_view, largest, found);
        }
    }
    if codes.has_negative {
        let at = bytes.iter().position(|code| (0x81..0xff).contains(code));
        let message = format!(
            "block scale {} is negative; {AGAIN}",
            at.unwrap_or_default()
        );
        found.fault(view.name(), FaultKind::NegativeScale, message);
    }
    padding(view, [rows, columns], found);
}

/// The first number of the padding that is not zero.
fn padding(view: &TensorView, [rows, columns]: [usize; 2], found: &mut Findings) {
    let bytes = view.bytes();
    let [all_rows, all_columns] = swizzle::padded(rows, columns);
    if [all_rows, all_columns] == [rows, columns] || bytes.is_empty() {
        return;
    }
    let dirty = (0..all_rows)
        .flat_map(|row| (0..all_columns).map(move |column| (row, column)))
        .filter(|(row, column)| *row >= rows || *column >= columns)
        .find(|(row, column)| bytes[swizzle::offset(*row, *column, columns)] != 0);
    if let Some((row, column)) = dirty {
        found.fault(
            view.name(),
            FaultKind::SwizzlePadding,
            format!(
                "the padding at row {row}, column {column} is not zero: the scales are not in cuBLAS' tiles, or were cut from others; {AGAIN}"
            ),
        );
    }
}
