//! Every quantization marker of a set of files: in which format a layer says that it is stored.
//!
//! Three carriers are in use: a `comfy_quant` tensor beside the weight (U8 JSON), `_quantization_metadata` in the
//! header, and the older `scaled_fp8` tensor, which speaks for every layer of its component that has a `scale_weight`
//! (ComfyUI, `convert_old_quants`). What is wrong with them is a value too: the engine refuses, `inspect` reports.

use std::collections::{BTreeMap, BTreeSet};

use safetensors::Dtype;
use serde_json::Value;

use super::TensorView;
use super::gather::Opened;

/// Metadata key of the layer formats.
pub(crate) const METADATA: &str = "_quantization_metadata";
/// The record beside a weight.
pub(crate) const RECORD: &str = "comfy_quant";
/// The scale of a weight (of NVFP4: of its blocks, newest spelling only), newest spelling first.
pub(crate) const WEIGHT_SCALE: [&str; 2] = ["weight_scale", "scale_weight"];
/// The scale of an activation, newest spelling first.
pub(crate) const INPUT_SCALE: [&str; 2] = ["input_scale", "scale_input"];
/// The scale of a whole NVFP4 weight, above those of its blocks.
pub(crate) const WEIGHT_SCALE_2: &str = "weight_scale_2";
/// The older marker of a component.
pub(crate) const LEGACY: &str = "scaled_fp8";
/// What may stand beside a quantized weight, after the layer's name.
const COMPANIONS: [&str; 6] = [
    RECORD,
    WEIGHT_SCALE[0],
    WEIGHT_SCALE[1],
    WEIGHT_SCALE_2,
    INPUT_SCALE[0],
    INPUT_SCALE[1],
];
/// Longest record that is read. The longest that is known has about 150 bytes.
const MAX_RECORD: usize = 1 << 16;
/// Characters of a faulty entry that a message quotes.
const QUOTED: usize = 60;

/// Where a record was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Carrier {
    /// A `comfy_quant` tensor.
    Tensor,
    /// `_quantization_metadata`.
    Metadata,
    /// `scaled_fp8`.
    Legacy,
}

/// What a marker says of a layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// `nvfp4`, `float8_e4m3fn`, or any other word.
    pub format: String,
    /// Whether the layer's products must not be quantized.
    pub full_precision_matrix_mult: bool,
    /// Where it was found.
    pub carrier: Carrier,
}

impl Record {
    /// Whether it lets the layer's activations be quantized.
    pub fn quantizes_input(&self) -> bool {
        !self.full_precision_matrix_mult
    }
}

/// What can be wrong with markers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProblemKind {
    /// A record without content, or of zeros only.
    EmptyRecord,
    /// A record that is no JSON object with a `format`.
    UnreadableRecord,
    /// Metadata that cannot be read as a whole.
    UnreadableMetadata,
    /// An entry of the metadata that is no object with a `format`.
    EntryWithoutFormat,
    /// The metadata names a layer that the file has under another prefix.
    WrongPrefix,
    /// The metadata names a layer that the file does not have.
    AbsentLayer,
    /// Record and metadata name different formats.
    Disagreement,
    /// The older marker stands beside records of the same layers.
    MixedMarkers,
    /// The older marker has no layer to speak for.
    IdleMarker,
}

/// Something wrong with a marker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The tensor, layer or metadata key.
    pub name: String,
    /// What it is.
    pub kind: ProblemKind,
    /// A sentence that says what to do.
    pub message: String,
}

/// All markers, by the layer's stored name.
#[derive(Clone, Debug, Default)]
pub struct Markers {
    records: BTreeMap<String, Record>,
    /// What is wrong with them.
    pub problems: Vec<Problem>,
}

/// All tensors by stored name.
type Stored<'a> = BTreeMap<&'a str, &'a TensorView>;

impl Markers {
    /// Reads every marker.
    pub(crate) fn read(opened: &Opened) -> Self {
        let stored: Stored = opened
            .tensors
            .values()
            .flat_map(BTreeMap::values)
            .map(|view| (view.name(), view))
            .collect();
        let mut markers = Self::default();
        let texts = opened
            .files
            .iter()
            .filter_map(|file| file.metadata().get(METADATA));
        for text in texts {
            markers.metadata(text, &stored);
        }
        for (name, view) in &stored {
            if let Some((layer, RECORD)) = companion(name) {
                markers.tensor(layer, view);
            }
        }
        markers.legacy(&stored);
        markers
    }

    /// What is said of the layer with this stored name.
    pub fn record(&self, layer: &str) -> Option<&Record> {
        self.records.get(layer)
    }

    /// Every record by stored layer name.
    pub fn records(&self) -> &BTreeMap<String, Record> {
        &self.records
    }

    /// The records of one component's `tensors`, by canonical layer name.
    pub(crate) fn canonical(
        &self,
        tensors: &BTreeMap<String, TensorView>,
    ) -> BTreeMap<String, Record> {
        let record = |(canonical, view): (&String, &TensorView)| {
            let record = self.record(view.name().strip_suffix(".weight")?)?;
            Some((
                canonical.strip_suffix(".weight")?.to_owned(),
                record.clone(),
            ))
        };
        tensors.iter().filter_map(record).collect()
    }

    fn problem(&mut self, name: &str, kind: ProblemKind, message: impl Into<String>) {
        self.problems.push(Problem {
            name: name.to_owned(),
            kind,
            message: message.into(),
        });
    }

    fn metadata(&mut self, text: &str, stored: &Stored) {
        let json: Value = match serde_json::from_str(text) {
            Ok(json) => json,
            Err(e) => {
                let message = format!("the metadata is not JSON ({e}); convert the file again");
                return self.problem(METADATA, ProblemKind::UnreadableMetadata, message);
            }
        };
        let Some(layers) = json.get("layers").and_then(Value::as_object) else {
            let message =
                "the metadata has no `layers`, ComfyUI cannot load it; convert the file again";
            return self.problem(METADATA, ProblemKind::UnreadableMetadata, message);
        };
        // Every layer of the file by its name without a component's prefix.
        let mut bare = BTreeMap::<&str, Vec<&str>>::new();
        for layer in stored.keys().filter_map(|n| n.strip_suffix(".weight")) {
            bare.entry(without_prefix(layer)).or_default().push(layer);
        }
        for (layer, entry) in layers {
            let Some(record) = record(entry, Carrier::Metadata) else {
                let message = format!(
                    "the metadata's entry is {}, an object with a `format` was expected; convert the file again",
                    quoted(&entry.to_string())
                );
                self.problem(layer, ProblemKind::EntryWithoutFormat, message);
                continue;
            };
            if stored.contains_key(format!("{layer}.weight").as_str()) {
                self.records.insert(layer.clone(), record);
                continue;
            }
            match bare.get(without_prefix(layer)).map(Vec::as_slice) {
                // What is meant is clear, so it is honoured here.
                Some([there]) => {
                    self.records.insert((*there).to_owned(), record);
                    let message = format!(
                        "the metadata names this layer, the file calls it `{there}`: some of ComfyUI's loaders look for exactly this name and load the layer as if it had no record; convert the file again with --marker comfy_quant"
                    );
                    self.problem(layer, ProblemKind::WrongPrefix, message);
                }
                _ => self.problem(
                    layer,
                    ProblemKind::AbsentLayer,
                    "the metadata names this layer, which is not in the file; the metadata was copied from another file: convert again",
                ),
            }
        }
    }

    fn tensor(&mut self, layer: &str, view: &TensorView) {
        match parse(view) {
            Ok(new) => {
                if let Some(old) = self.records.insert(layer.to_owned(), new.clone())
                    && old.format != new.format
                {
                    let message = format!(
                        "the record says `{}`, the metadata says `{}`, and ComfyUI believes the metadata; convert the file again from its source",
                        quoted(&new.format),
                        quoted(&old.format)
                    );
                    self.problem(view.name(), ProblemKind::Disagreement, message);
                }
            }
            Err((kind, why)) => {
                let message = format!("the record {why}; convert the file again from its source");
                self.problem(view.name(), kind, message);
            }
        }
    }

    /// The older marker, which ComfyUI reads only in a file without metadata.
    fn legacy(&mut self, stored: &Stored) {
        for (name, view) in stored {
            let Some(prefix) = name.strip_suffix(LEGACY).filter(|_| is_legacy(name)) else {
                continue;
            };
            let layers: BTreeSet<&str> = stored
                .range(prefix..)
                .take_while(|(name, _)| name.starts_with(prefix))
                .filter_map(|(name, _)| name.rsplit_once('.'))
                .filter_map(|(layer, part)| (part == WEIGHT_SCALE[1]).then_some(layer))
                .collect();
            let recorded = layers.iter().find(|l| self.records.contains_key(**l));
            match (layers.first(), recorded.copied()) {
                (None, _) => self.problem(name, ProblemKind::IdleMarker,
                    "it says that there are layers with a `scale_weight`, and there are none: the scales were renamed or lost; convert the file again from its source",
                ),
                (_, Some(layer)) if self.records[layer].carrier != Carrier::Legacy => {
                    let message = format!(
                        "it speaks for `{layer}`, which has a record of its own as well; convert the file again, so that one marker is left"
                    );
                    self.problem(name, ProblemKind::MixedMarkers, message);
                }
                _ => {}
            }
            for layer in layers {
                self.records.entry(layer.to_owned()).or_insert(Record {
                    format: "float8_e4m3fn".to_owned(),
                    full_precision_matrix_mult: view.elements() == 2,
                    carrier: Carrier::Legacy,
                });
            }
        }
    }
}

/// The layer and the part, where `name` is that of a companion of a weight.
pub(crate) fn companion(name: &str) -> Option<(&str, &str)> {
    name.rsplit_once('.')
        .filter(|(_, part)| COMPANIONS.contains(part))
}

/// Whether `name` is that of the older marker.
pub(crate) fn is_legacy(name: &str) -> bool {
    let prefix = name.strip_suffix(LEGACY);
    prefix.is_some_and(|prefix| prefix.is_empty() || prefix.ends_with('.'))
}

/// The scale of one number that a layer has under one of `spellings`, if it has one; `find` gives its companions.
///
/// # Errors
/// Two spellings at once, another shape, or no positive number: what is wrong and what to do.
pub(crate) fn scale(
    spellings: &[&str],
    find: impl Fn(&str) -> Option<TensorView>,
) -> Result<Option<f32>, String> {
    let mut found = spellings.iter().filter_map(|part| find(part));
    let (first, second) = (found.next(), found.next());
    let view = match (first, second) {
        (None, _) => return Ok(None),
        (Some(view), None) => view,
        (Some(first), Some(second)) => {
            return Err(format!(
                "it has both `{}` and `{}`; the file mixes two checkpoints: get it again from its source",
                first.name(),
                second.name()
            ));
        }
    };
    let name = view.name();
    if view.elements() != 1 {
        return Err(format!(
            "`{name}` has shape {:?}, one number was expected; convert the file again from its source",
            view.shape()
        ));
    }
    match view
        .to_f32()
        .ok()
        .and_then(|values| values.first().copied())
    {
        Some(value) if value.is_finite() && value > 0.0 => Ok(Some(value)),
        Some(value) => Err(format!(
            "`{name}` is {value}; convert the file again from its source"
        )),
        None => Err(format!(
            "`{name}` is stored as {:?}, which is no number; convert the file again from its source",
            view.dtype()
        )),
    }
}

/// The record in a `comfy_quant` tensor.
pub(crate) fn record_of(view: &TensorView) -> Result<Record, String> {
    parse(view).map_err(|(_, why)| format!("its record `{}` {why}", view.name()))
}

fn parse(view: &TensorView) -> Result<Record, (ProblemKind, String)> {
    let unreadable = |why: String| (ProblemKind::UnreadableRecord, why);
    if view.dtype() != Dtype::U8 {
        return Err(unreadable(format!("is {:?}, not U8 JSON", view.dtype())));
    }
    if view.elements() > MAX_RECORD {
        return Err(unreadable(format!("has {} bytes", view.elements())));
    }
    let bytes = view.bytes();
    if bytes.iter().all(|byte| *byte == 0) {
        let why = "is empty, which ComfyUI cannot read".to_owned();
        return Err((ProblemKind::EmptyRecord, why));
    }
    let json: Value = serde_json::from_slice(bytes)
        .map_err(|e| unreadable(format!("is not valid JSON ({e})")))?;
    record(&json, Carrier::Tensor).ok_or_else(|| unreadable("names no format".to_owned()))
}

fn record(json: &Value, carrier: Carrier) -> Option<Record> {
    Some(Record {
        format: json.get("format")?.as_str()?.to_owned(),
        full_precision_matrix_mult: json
            .get("full_precision_matrix_mult")
            .and_then(Value::as_bool)
            .unwrap_or(false),
        carrier,
    })
}

/// What of a layer's name is left without the prefix of a component.
fn without_prefix(layer: &str) -> &str {
    const PREFIXES: [&str; 5] = [
        "model.diffusion_model.",
        "diffusion_model.",
        "text_encoders.qwen25_7b.transformer.",
        "qwen25_7b.transformer.",
        "transformer.",
    ];
    PREFIXES
        .iter()
        .find_map(|prefix| layer.strip_prefix(prefix))
        .unwrap_or(layer)
}

/// Text of a stranger's file, short enough for a message.
fn quoted(text: &str) -> String {
    match text.char_indices().nth(QUOTED) {
        None => text.to_owned(),
        Some((at, _)) => format!("{}...", &text[..at]),
    }
}

#[cfg(test)]
#[path = "markers_scale_tests.rs"]
mod scale_tests;
#[cfg(test)]
#[path = "markers_tests.rs"]
mod tests;
