//! What quantization markers say, held against the weights and scales that they speak of.

use std::collections::BTreeSet;

use safetensors::Dtype;

use super::fault::{FaultKind, Findings};
use super::{Layer, Stored, scales};
use crate::checkpoint::gather::Opened;
use crate::checkpoint::markers::{
    Carrier, METADATA, Markers, ProblemKind, RECORD, Record, WEIGHT_SCALE, companion,
};

/// Endings of other schemes, none of which ComfyUI's loader or this program reads: blocks of 128 x 128, compressed-tensors
/// (whose global scales divide), bitsandbytes, nunchaku, GPTQ and AWQ.
const FOREIGN: [&str; 18] = [
    ".weight_scale_inv",
    ".weight_packed",
    ".weight_global_scale",
    ".input_global_scale",
    ".weight_zero_point",
    ".weight.absmax",
    ".weight.quant_map",
    ".weight.nested_absmax",
    ".weight.nested_quant_map",
    ".weight.quant_state.bitsandbytes__nf4",
    ".weight.quant_state.bitsandbytes__fp4",
    ".qweight",
    ".qzeros",
    ".wscales",
    ".wtscale",
    ".wcscales",
    ".smooth_factor",
    ".pre_quant_scale",
];

/// Formats that newer ComfyUI reads besides those that this program knows.
const COMFY_ONLY: [&str; 4] = ["mxfp8", "int8_tensorwise", "convrot_w4a4", "asym_w4a8_int8"];

/// Whether a tensor of this name belongs to another quantization scheme.
pub(super) fn is_foreign(name: &str) -> bool {
    FOREIGN.iter().any(|suffix| name.ends_with(suffix))
}

/// The fault of such a tensor.
pub(super) fn foreign(name: &str, found: &mut Findings) {
    found.fault(
        name,
        FaultKind::ForeignQuantization,
        "it belongs to a quantization that neither ComfyUI's own loader nor this program reads, so its layer is wrong; convert the original BF16 or FP8 file instead",
    );
}

/// Checks every marker, the layers that carry one, those that ought to, and companions whose weight is gone.
pub(super) fn check(opened: &Opened, markers: &Markers, stored: &Stored, found: &mut Findings) {
    for problem in &markers.problems {
        found.fault(&problem.name, kind(problem.kind), problem.message.clone());
    }
    legacy_beside_metadata(opened, markers, found);
    for (name, record) in markers.records() {
        match stored.get(format!("{name}.weight").as_str()) {
            Some(weight) => {
                let layer = Layer {
                    name,
                    weight,
                    stored,
                };
                marked(&layer, record, found);
            }
            None => found.fault(
                name,
                FaultKind::RecordWithoutWeight,
                format!(
                    "it has a record (`{}`) but no `{name}.weight`: older ComfyUI refuses to load it; remove the record or get the file again",
                    record.format
                ),
            ),
        }
    }
    let told: BTreeSet<&str> = markers.problems.iter().map(|p| p.name.as_str()).collect();
    for (name, weight) in stored {
        let Some(layer) = name.strip_suffix(".weight") else {
            stray(name, stored, found);
            continue;
        };
        let layer = Layer {
            name: layer,
            weight,
            stored,
        };
        let has_told = told.contains(layer.name) || layer.find(RECORD).is_some();
        if markers.record(layer.name).is_none() && !has_told {
            unmarked(&layer, found);
        }
    }
}

/// Every problem with a marker as such has a fault of its own.
fn kind(problem: ProblemKind) -> FaultKind {
    match problem {
        ProblemKind::EmptyRecord | ProblemKind::UnreadableRecord => FaultKind::UnreadableRecord,
        ProblemKind::UnreadableMetadata => FaultKind::UnreadableMetadata,
        ProblemKind::EntryWithoutFormat => FaultKind::MetadataEntry,
        ProblemKind::WrongPrefix => FaultKind::WrongPrefix,
        ProblemKind::AbsentLayer => FaultKind::AbsentLayer,
        ProblemKind::Disagreement => FaultKind::Disagreement,
        ProblemKind::MixedMarkers => FaultKind::MixedMarkers,
        ProblemKind::IdleMarker => FaultKind::IdleMarker,
    }
}

/// ComfyUI reads the older marker only in a file without metadata.
fn legacy_beside_metadata(opened: &Opened, markers: &Markers, found: &mut Findings) {
    for file in &opened.files {
        let mut legacy = markers
            .records()
            .iter()
            .filter(|(_, record)| record.carrier == Carrier::Legacy)
            .filter(|(layer, _)| file.contains(&format!("{layer}.weight")));
        if file.metadata().contains_key(METADATA)
            && let Some((first, _)) = legacy.next()
        {
            found.fault(
                first,
                FaultKind::MixedMarkers,
                format!(
                    "the older `scaled_fp8` marks it and {} more layers, which ComfyUI does not read in a file with `{METADATA}`: their scales would be ignored; convert the file again",
                    legacy.count()
                ),
            );
        }
    }
}

/// Checks a layer that carries a marker.
fn marked(layer: &Layer, record: &Record, found: &mut Findings) {
    let dtype = match record.format.as_str() {
        "nvfp4" => Dtype::U8,
        "float8_e4m3fn" => Dtype::F8_E4M3,
        "float8_e5m2" => Dtype::F8_E5M2,
        other => {
            let reader = match COMFY_ONLY.contains(&other) {
                true => "only newer ComfyUI reads",
                false => "neither ComfyUI nor this program reads",
            };
            let message = format!(
                "its format is `{other}`, which {reader}; convert the original BF16 or FP8 file"
            );
            return found.fault(layer.name, FaultKind::UnknownMarker, message);
        }
    };
    let weight = layer.weight;
    if weight.dtype() != dtype || weight.shape().len() != 2 {
        let message = format!(
            "its marker says `{}`, it is stored as {:?} {:?}: ComfyUI casts it, which gives noise or fails; convert the file again from its source",
            record.format,
            weight.dtype(),
            weight.shape()
        );
        return found.fault(weight.name(), FaultKind::WrongFormat, message);
    }
    match dtype {
        Dtype::U8 => {
            if layer.name == "img_in" || layer.name.ends_with(".img_in") {
                found.fault(
                    weight.name(),
                    FaultKind::ImgInNvfp4,
                    "`img_in` must not be NVFP4: ComfyUI reads the number of channels from its stored shape; convert again with a keep rule for it",
                );
            }
            scales::nvfp4(layer, record, found);
        }
        _ => scales::fp8(layer, record, found),
    }
}

/// A layer without a marker must not look like one that had one.
fn unmarked(layer: &Layer, found: &mut Findings) {
    let weight = layer.weight;
    let scale = WEIGHT_SCALE.iter().find(|part| layer.find(part).is_some());
    match (weight.dtype(), scale) {
        (Dtype::U8, _) => found.fault(
            weight.name(),
            FaultKind::PackedWithoutRecord,
            "it is packed (U8) but no marker says in which format: ComfyUI takes it for a plain matrix of half the width and fails at the first step; convert the file again with --marker comfy_quant",
        ),
        (dtype, Some(scale)) => found.fault(
            weight.name(),
            FaultKind::MissingMarker,
            format!(
                "it is {dtype:?} with a `{scale}` but without a marker, so ComfyUI ignores the scale and the picture is noise; convert the file again with --marker comfy_quant"
            ),
        ),
        _ => {}
    }
}

/// A scale whose weight is gone. (A record without weight has a fault of its own.)
fn stray(name: &str, stored: &Stored, found: &mut Findings) {
    if let Some((layer, part)) = companion(name)
        && part != RECORD
        && !stored.contains_key(format!("{layer}.weight").as_str())
    {
        found.fault(
            name,
            FaultKind::StrayCompanion,
            format!("there is no `{layer}.weight` that it could scale; get the file again"),
        );
    }
}
