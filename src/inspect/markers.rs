//! Quantization markers (`comfy_quant` records, `_quantization_metadata`, the older `scaled_fp8`) held against
//! the weights and scales that they speak of.

use std::collections::BTreeMap;

use safetensors::Dtype;
use serde_json::Value;

use super::{Fault, FaultKind, Quantized};
use crate::checkpoint::TensorView;
use crate::checkpoint::gather::Opened;
use crate::numerics::widen::E4M3_TO_F32;

/// What may stand beside a quantized weight, after the layer's name.
const COMPANIONS: [&str; 6] = [
    ".comfy_quant",
    ".weight_scale",
    ".weight_scale_2",
    ".scale_weight",
    ".input_scale",
    ".scale_input",
];

/// The layer whose companion `name` is, if it is one.
pub(super) fn layer_of(name: &str) -> Option<&str> {
    COMPANIONS
        .iter()
        .find_map(|suffix| name.strip_suffix(suffix))
}

/// Format by stored layer name.
pub(super) struct Markers(BTreeMap<String, String>);

/// All tensors by stored name.
type Stored<'a> = BTreeMap<&'a str, &'a TensorView>;

impl Markers {
    /// Reads every marker and checks the layers that carry one, and those that ought to.
    pub fn read(opened: &Opened, faults: &mut Vec<Fault>) -> Self {
        let stored: Stored = opened
            .tensors
            .values()
            .flat_map(|tensors| tensors.values())
            .map(|view| (view.name(), view))
            .collect();
        let mut formats = metadata(opened, &stored, faults);
        for (name, view) in &stored {
            let Some(layer) = name.strip_suffix(".comfy_quant") else {
                continue;
            };
            match record(view) {
                Ok(format) => {
                    if let Some(other) = formats.insert(layer.to_owned(), format.clone())
                        && other != format
                    {
                        faults.push(fault(
                            name,
                            FaultKind::WrongFormat,
                            format!("the record says `{format}`, the metadata says `{other}`"),
                        ));
                    }
                }
                Err(why) => faults.push(fault(name, FaultKind::UnknownMarker, why)),
            }
        }
        let legacy = stored
            .keys()
            .any(|name| *name == "scaled_fp8" || name.ends_with(".scaled_fp8"));
        if legacy {
            for layer in stored
                .keys()
                .filter_map(|name| name.strip_suffix(".scale_weight"))
            {
                formats
                    .entry(layer.to_owned())
                    .or_insert_with(|| "float8_e4m3fn".to_owned());
            }
        }
        for (layer, format) in &formats {
            check_layer(layer, format, &stored, faults);
        }
        for (name, view) in &stored {
            if let Some(layer) = name.strip_suffix(".weight")
                && !formats.contains_key(layer)
            {
                check_unmarked(layer, view, &stored, faults);
            }
        }
        Self(formats)
    }

    /// Marked layers by format.
    pub fn count(&self) -> Quantized {
        let of = |format: &str| self.0.values().filter(|f| *f == format).count();
        Quantized {
            nvfp4: of("nvfp4"),
            float8_e4m3fn: of("float8_e4m3fn"),
        }
    }

    /// The shape in which a tensor of the logical `shape` must be stored: NVFP4 packs two numbers of a row
    /// into a byte, after padding both sides to multiples of 16.
    pub fn stored_shape(&self, view: &TensorView, shape: &[usize]) -> Vec<usize> {
        let layer = view.name().strip_suffix(".weight");
        let packed = layer
            .and_then(|l| self.0.get(l))
            .is_some_and(|format| format == "nvfp4");
        match shape {
            [n, k] if packed => vec![n.next_multiple_of(16), k.next_multiple_of(16) / 2],
            _ => shape.to_vec(),
        }
    }
}

fn fault(tensor: &str, kind: FaultKind, message: impl Into<String>) -> Fault {
    Fault {
        tensor: tensor.to_owned(),
        kind,
        message: message.into(),
    }
}

/// The format that a `comfy_quant` record names.
fn record(view: &TensorView) -> Result<String, String> {
    if view.dtype() != Dtype::U8 {
        return Err(format!("the record is {:?}, not U8 JSON", view.dtype()));
    }
    let json: Value = serde_json::from_slice(view.bytes())
        .map_err(|e| format!("the record is not JSON ({e})"))?;
    match json.get("format").and_then(Value::as_str) {
        Some(format) => Ok(format.to_owned()),
        None => Err("the record names no format".to_owned()),
    }
}

/// The layers of `__metadata__["_quantization_metadata"]`, which must be in the file under exactly these names.
fn metadata(opened: &Opened, stored: &Stored, faults: &mut Vec<Fault>) -> BTreeMap<String, String> {
    const KEY: &str = "_quantization_metadata";
    let mut formats = BTreeMap::new();
    for text in opened
        .files
        .iter()
        .filter_map(|file| file.metadata().get(KEY))
    {
        let json: Value = serde_json::from_str(text).unwrap_or_default();
        let Some(layers) = json.get("layers").and_then(Value::as_object) else {
            faults.push(fault(
                KEY,
                FaultKind::UnknownMarker,
                "the metadata has no readable `layers`",
            ));
            continue;
        };
        for (layer, entry) in layers {
            let Some(format) = entry.get("format").and_then(Value::as_str) else {
                faults.push(fault(
                    layer,
                    FaultKind::UnknownMarker,
                    format!(
                        "the metadata's entry is {entry}, an object with a `format` was expected"
                    ),
                ));
                continue;
            };
            if stored.contains_key(format!("{layer}.weight").as_str()) {
                formats.insert(layer.clone(), format.to_owned());
            } else {
                faults.push(fault(
                    layer,
                    FaultKind::AbsentLayer,
                    "the metadata names this layer, which is not in the file under this name",
                ));
            }
        }
    }
    formats
}

/// Checks a layer that carries a marker.
fn check_layer(layer: &str, format: &str, stored: &Stored, faults: &mut Vec<Fault>) {
    let name = format!("{layer}.weight");
    let Some(weight) = stored.get(name.as_str()) else {
        faults.push(fault(
            layer,
            FaultKind::RecordWithoutWeight,
            format!("it has a record (`{format}`) but no `{name}`"),
        ));
        return;
    };
    let dtype = match format {
        "nvfp4" => Dtype::U8,
        "float8_e4m3fn" => Dtype::F8_E4M3,
        "float8_e5m2" => Dtype::F8_E5M2,
        other => {
            faults.push(fault(
                layer,
                FaultKind::UnknownMarker,
                format!("the format `{other}` is not known"),
            ));
            return;
        }
    };
    if weight.dtype() != dtype || weight.shape().len() != 2 {
        faults.push(fault(
            &name,
            FaultKind::WrongFormat,
            format!(
                "its marker says `{format}`, it is stored as {:?} {:?}",
                weight.dtype(),
                weight.shape()
            ),
        ));
        return;
    }
    if format == "nvfp4" {
        if layer.ends_with("img_in") {
            faults.push(fault(&name, FaultKind::WrongFormat,
                "`img_in` must not be NVFP4: ComfyUI reads the number of channels from its stored shape",
            ));
        }
        check_number(layer, &["weight_scale_2"], true, stored, faults);
        check_block_scales(layer, weight, stored, faults);
    } else {
        check_number(
            layer,
            &["weight_scale", "scale_weight"],
            true,
            stored,
            faults,
        );
    }
    check_number(
        layer,
        &["input_scale", "scale_input"],
        false,
        stored,
        faults,
    );
}

/// A layer without a marker must not look like one that had one.
fn check_unmarked(layer: &str, weight: &TensorView, stored: &Stored, faults: &mut Vec<Fault>) {
    let scale = ["weight_scale", "scale_weight"]
        .iter()
        .find(|name| stored.contains_key(format!("{layer}.{name}").as_str()));
    match (weight.dtype(), scale) {
        (Dtype::U8, _) => faults.push(fault(weight.name(), FaultKind::MissingMarker,
            "it is packed (U8) but no marker says in which format",
        )),
        (dtype, Some(scale)) => faults.push(fault(weight.name(), FaultKind::MissingMarker, format!(
            "it is {dtype:?} with a `{scale}` but without a marker, so ComfyUI would ignore the scale"
        ))),
        _ => {}
    }
}

/// Checks a scale of one number under any of its spellings.
fn check_number(
    layer: &str,
    spellings: &[&str],
    needed: bool,
    stored: &Stored,
    faults: &mut Vec<Fault>,
) {
    let found = spellings
        .iter()
        .find_map(|name| stored.get(format!("{layer}.{name}").as_str()));
    let Some(view) = found else {
        if needed {
            let name = format!("{layer}.{}", spellings[0]);
            faults.push(fault(
                &name,
                FaultKind::Missing,
                "the layer's marker needs this scale",
            ));
        }
        return;
    };
    if view.elements() != 1 {
        faults.push(fault(
            view.name(),
            FaultKind::WrongShape,
            format!("it has shape {:?}, one number was expected", view.shape()),
        ));
        return;
    }
    match view.to_f32().as_deref() {
        Ok([value]) if !value.is_finite() => {
            faults.push(fault(
                view.name(),
                FaultKind::NanScale,
                format!("the scale is {value}"),
            ));
        }
        Ok([value]) if *value <= 0.0 => {
            faults.push(fault(
                view.name(),
                FaultKind::ZeroScale,
                format!("the scale is {value}"),
            ));
        }
        Ok(_) => {}
        Err(error) => faults.push(fault(
            view.name(),
            FaultKind::WrongFormat,
            error.to_string(),
        )),
    }
}

/// Checks NVFP4 block scales: E4M3 bytes in tiles of 128 rows by 4 columns ([`swizzled`]), zero where padded.
fn check_block_scales(layer: &str, weight: &TensorView, stored: &Stored, faults: &mut Vec<Fault>) {
    let name = format!("{layer}.weight_scale");
    let Some(view) = stored.get(name.as_str()) else {
        faults.push(fault(
            &name,
            FaultKind::Missing,
            "an NVFP4 layer needs its block scales",
        ));
        return;
    };
    let (rows, columns) = (weight.shape()[0], weight.shape()[1] / 8);
    let padded = [rows.next_multiple_of(128), columns.next_multiple_of(4)];
    if view.shape() != padded || !matches!(view.dtype(), Dtype::F8_E4M3 | Dtype::U8) {
        faults.push(fault(
            &name,
            FaultKind::WrongShape,
            format!(
                "block scales are {:?} {:?}, E4M3 {padded:?} was expected",
                view.dtype(),
                view.shape()
            ),
        ));
        return;
    }
    let bytes = view.bytes();
    let scale = |code: u8| E4M3_TO_F32[usize::from(code)];
    if let Some(at) = bytes.iter().position(|code| scale(*code).is_nan()) {
        faults.push(fault(
            &name,
            FaultKind::NanScale,
            format!("block scale {at} is NaN"),
        ));
    }
    // A scale of 0 is right for a block of zeros; below 0 is never right.
    if let Some(at) = bytes.iter().position(|code| scale(*code) < 0.0) {
        faults.push(fault(
            &name,
            FaultKind::ZeroScale,
            format!("block scale {at} is negative"),
        ));
    }
    let is_padding = |row: usize, column: usize| row >= rows || column >= columns;
    if padded != [rows, columns] {
        let dirty = (0..padded[0])
            .flat_map(|row| (0..padded[1]).map(move |column| (row, column)))
            .find(|(row, column)| {
                is_padding(*row, *column) && bytes[swizzled(*row, *column, padded[1])] != 0
            });
        if let Some((row, column)) = dirty {
            faults.push(fault(
                &name,
                FaultKind::SwizzlePadding,
                format!("the padding at row {row}, column {column} is not zero"),
            ));
        }
    }
}

/// Where the scale of (`row`, `column`) lies in the 128 x 4 tile layout of cuBLAS (`VEC16_UE4M3`).
pub(super) fn swizzled(row: usize, column: usize, columns: usize) -> usize {
    let tile = (row / 128) * (columns / 4) + column / 4;
    tile * 512 + (row % 32) * 16 + (row % 128) / 32 * 4 + column % 4
}
