//! Every quantization marker of a set of files: in which format a layer says that it is stored.
//!
//! Three carriers are in use: a `comfy_quant` tensor beside the weight (U8 JSON), `_quantization_metadata` in the
//! header, and the older `scaled_fp8` tensor, which speaks for every layer of its component that has a `scale_weight`
//! (ComfyUI, `convert_old_quants`). What is wrong with them is a value too: the engine refuses, `inspect` reports.

use std::collections::BTreeMap;

use safetensors::Dtype;
use serde_json::Value;

use super::TensorView;
use super::gather::Opened;

/// Metadata key of the layer formats.
pub(crate) const METADATA: &str = "_quantization_metadata";
/// Longest record that is read: a weight under a record's name must not be parsed.
const MAX_RECORD: usize = 1 << 16;

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

/// What can be wrong with markers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProblemKind {
    /// A record that is no JSON object with a format.
    UnreadableRecord,
    /// Metadata that cannot be read as a whole.
    UnreadableMetadata,
    /// An entry of the metadata that is no object with a format.
    EntryWithoutFormat,
    /// The metadata names a layer that the file has under another prefix.
    WrongPrefix,
    /// The metadata names a layer that the file does not have.
    AbsentLayer,
    /// Record and metadata name different formats.
    Disagreement,
    /// The older marker stands beside records.
    MixedMarkers,
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

/// Stored layer names by what is left of them without prefix.
type Layers<'a> = BTreeMap<&'a str, &'a str>;

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
        let layers: Layers = stored
            .keys()
            .filter_map(|name| name.strip_suffix(".weight"))
            .map(|layer| (suffix(layer), layer))
            .collect();
        let texts = opened
            .files
            .iter()
            .filter_map(|file| file.metadata().get(METADATA));
        for text in texts {
            markers.metadata(text, &stored, &layers);
        }
        for (name, view) in &stored {
            if let Some(layer) = name.strip_suffix(".comfy_quant") {
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

    fn problem(&mut self, name: &str, kind: ProblemKind, message: String) {
        self.problems.push(Problem {
            name: name.to_owned(),
            kind,
            message,
        });
    }

    fn metadata(&mut self, text: &str, stored: &Stored, all: &Layers) {
        let json: Value = match serde_json::from_str(text) {
            Ok(json) => json,
            Err(e) => {
                let message = format!("the metadata is not JSON ({e}); convert the file again");
                return self.problem(METADATA, ProblemKind::UnreadableMetadata, message);
            }
        };
        let Some(layers) = json.get("layers").and_then(Value::as_object) else {
            let message =
                "the metadata has no `layers`, ComfyUI cannot load it; convert the file again"
                    .to_owned();
            return self.problem(METADATA, ProblemKind::UnreadableMetadata, message);
        };
        for (layer, entry) in layers {
            let Some(record) = record(entry, Carrier::Metadata) else {
                let message = format!(
                    "the metadata's entry is {entry}, an object with a `format` was expected; convert the file again"
                );
                self.problem(layer, ProblemKind::EntryWithoutFormat, message);
                continue;
            };
            if stored.contains_key(format!("{layer}.weight").as_str()) {
                self.records.insert(layer.clone(), record);
                continue;
            }
            match all.get(suffix(layer)) {
                Some(there) => {
                    // What is meant is clear, so it is honoured here.
                    self.records.insert((*there).to_owned(), record);
                    let message = format!(
                        "the metadata names this layer, the file has it as `{there}`: not every ComfyUI finds it; convert again with --marker comfy_quant"
                    );
                    self.problem(layer, ProblemKind::WrongPrefix, message);
                }
                None => {
                    let message = "the metadata names this layer, which is not in the file; the metadata was copied from another file: convert again".to_owned();
                    self.problem(layer, ProblemKind::AbsentLayer, message);
                }
            }
        }
    }

    fn tensor(&mut self, layer: &str, view: &TensorView) {
        match record_of(view) {
            Ok(new) => {
                if let Some(old) = self.records.insert(layer.to_owned(), new.clone())
                    && old.format != new.format
                {
                    let message = format!(
                        "the record says `{}`, the metadata says `{}`; convert the file again from its source",
                        new.format, old.format
                    );
                    self.problem(view.name(), ProblemKind::Disagreement, message);
                }
            }
            Err(why) => {
                let message = format!("{why}; convert the file again from its source");
                self.problem(view.name(), ProblemKind::UnreadableRecord, message);
            }
        }
    }

    /// The older marker, which ComfyUI reads only in a file without metadata.
    fn legacy(&mut self, stored: &Stored) {
        let marks: Vec<(&str, bool)> = stored
            .iter()
            .filter_map(|(name, view)| {
                let prefix = name.strip_suffix("scaled_fp8")?;
                (prefix.is_empty() || prefix.ends_with('.'))
                    .then_some((prefix, view.elements() == 2))
            })
            .collect();
        for (prefix, full_precision_matrix_mult) in marks {
            let layers = stored
                .range(prefix..)
                .take_while(|(name, _)| name.starts_with(prefix))
                .filter_map(|(name, _)| name.strip_suffix(".scale_weight"));
            let mut mixed = None;
            for layer in layers {
                match self.records.get(layer) {
                    Some(record) if record.carrier != Carrier::Legacy => {
                        mixed = Some(layer.to_owned());
                    }
                    _ => {
                        let record = Record {
                            format: "float8_e4m3fn".to_owned(),
                            full_precision_matrix_mult,
                            carrier: Carrier::Legacy,
                        };
                        self.records.insert(layer.to_owned(), record);
                    }
                }
            }
            if let Some(layer) = mixed {
                let message = format!(
                    "it marks `{layer}`, which has a record of its own: ComfyUI would read one of the two; convert the file again"
                );
                self.problem(
                    &format!("{prefix}scaled_fp8"),
                    ProblemKind::MixedMarkers,
                    message,
                );
            }
        }
    }
}

/// The record in a `comfy_quant` tensor.
pub(crate) fn record_of(view: &TensorView) -> Result<Record, String> {
    let bad = |why: String| format!("its record `{}` {why}", view.name());
    if view.dtype() != Dtype::U8 {
        return Err(bad(format!("is {:?}, not U8 JSON", view.dtype())));
    }
    if view.byte_len() > MAX_RECORD {
        return Err(bad(format!(
            "has {} bytes, a record has about a hundred",
            view.byte_len()
        )));
    }
    let json: Value = serde_json::from_slice(view.bytes())
        .map_err(|e| bad(format!("is not valid JSON ({e})")))?;
    record(&json, Carrier::Tensor).ok_or_else(|| bad("names no format".to_owned()))
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
fn suffix(layer: &str) -> &str {
    const PREFIXES: [&str; 4] = [
        "model.diffusion_model.",
        "diffusion_model.",
        "text_encoders.qwen25_7b.transformer.",
        "transformer.",
    ];
    PREFIXES
        .iter()
        .find_map(|prefix| layer.strip_prefix(prefix))
        .unwrap_or(layer)
}
