#![allow(clippy::unwrap_used)]

use std::collections::HashMap;
use std::path::Path;

use candle_core::Device;
use proptest::prelude::*;
use safetensors::tensor::TensorView as Plain;

use super::*;
use crate::checkpoint::gather::Strictness;
use crate::checkpoint::{Encoding, SafetensorsFile, Weights};

const LAYER: &str = "model.diffusion_model.transformer_blocks.1.attn.to_q";
const FP8: &str = r#"{"format": "float8_e4m3fn"}"#;
const NVFP4: &str = r#"{"format": "nvfp4"}"#;

/// A file that is put together part by part.
#[derive(Clone, Default)]
struct Parts {
    tensors: BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)>,
    metadata: Option<String>,
}

impl Parts {
    /// One FP8 layer.
    fn layer(layer: &str) -> Self {
        Self::default().put(
            &format!("{layer}.weight"),
            Dtype::F8_E4M3,
            &[2, 16],
            &[0x38; 32],
        )
    }

    fn put(mut self, name: &str, dtype: Dtype, shape: &[usize], bytes: &[u8]) -> Self {
        let tensor = (dtype, shape.to_vec(), bytes.to_vec());
        self.tensors.insert(name.to_owned(), tensor);
        self
    }

    fn scale(self, name: &str, value: f32) -> Self {
        self.put(name, Dtype::F32, &[], &value.to_le_bytes())
    }

    fn record(self, layer: &str, json: &[u8]) -> Self {
        self.put(
            &format!("{layer}.comfy_quant"),
            Dtype::U8,
            &[json.len()],
            json,
        )
    }

    fn entries(mut self, layers: &str) -> Self {
        self.metadata = Some(format!(
            r#"{{"format_version": "1.0", "layers": {layers}}}"#
        ));
        self
    }

    fn open(&self) -> Opened {
        let views = self.tensors.iter().map(|(name, (dtype, shape, bytes))| {
            (name, Plain::new(*dtype, shape.clone(), bytes).unwrap())
        });
        let metadata = self
            .metadata
            .clone()
            .map(|m| HashMap::from([(METADATA.to_owned(), m)]));
        let bytes = safetensors::serialize(views, metadata).unwrap().leak();
        let file = SafetensorsFile::from_static("memory", bytes).unwrap();
        Opened::of_files(vec![file], Strictness::Lenient).unwrap()
    }

    fn read(&self) -> Markers {
        Markers::read(&self.open())
    }

    /// The encoding that the engine sees in every layer, or the sentence with which it refuses.
    fn encodings(&self) -> Vec<Result<Encoding, String>> {
        let opened = self.open();
        let markers = Markers::read(&opened);
        let mut all = Vec::new();
        for (component, tensors) in &opened.tensors {
            let path = Path::new("memory");
            let weights = Weights::new(*component, path, &Device::Cpu, tensors.clone())
                .marked(markers.canonical(tensors));
            for name in tensors.keys().filter_map(|n| n.strip_suffix(".weight")) {
                let layer = weights.pp(name);
                let view = layer.get("weight").unwrap();
                all.push(Encoding::of(&layer, &view).map_err(|e| e.to_string()));
            }
        }
        all
    }
}

fn kinds(markers: &Markers) -> Vec<(&str, ProblemKind)> {
    markers
        .problems
        .iter()
        .map(|p| (p.name.as_str(), p.kind))
        .collect()
}

fn carriers(markers: &Markers) -> Vec<(&str, &str, Carrier, bool)> {
    let records = markers.records().iter();
    records
        .map(|(layer, r)| {
            (
                layer.as_str(),
                r.format.as_str(),
                r.carrier,
                r.full_precision_matrix_mult,
            )
        })
        .collect()
}

#[test]
fn every_carrier() {
    let record = br#"{"format": "float8_e4m3fn", "full_precision_matrix_mult": true}"#;
    let tensor = Parts::layer(LAYER).record(LAYER, record).read();
    assert_eq!(
        carriers(&tensor),
        [(LAYER, "float8_e4m3fn", Carrier::Tensor, true)]
    );
    let metadata = Parts::layer(LAYER)
        .entries(&format!(r#"{{"{LAYER}": {FP8}}}"#))
        .read();
    assert_eq!(
        carriers(&metadata),
        [(LAYER, "float8_e4m3fn", Carrier::Metadata, false)]
    );
    for markers in [tensor, metadata] {
        assert_eq!(kinds(&markers), []);
    }
}

/// The older marker speaks for what has a `scale_weight` under its prefix; two elements ask for full precision; a
/// `scale_input` of 1 means none (ComfyUI, `convert_old_quants`).
#[test]
fn the_older_marker() {
    let other = "text_encoders.qwen25_7b.transformer.model.layers.0.mlp.up_proj";
    let parts = Parts::layer(LAYER)
        .scale(&format!("{LAYER}.scale_weight"), 0.5)
        .scale(&format!("{LAYER}.scale_input"), 1.0)
        .put(&format!("{other}.weight"), Dtype::F8_E4M3, &[1, 1], &[0x38])
        .scale(&format!("{other}.scale_weight"), 0.5)
        .put(
            "model.diffusion_model.scaled_fp8",
            Dtype::F8_E4M3,
            &[2],
            &[0; 2],
        );
    let markers = parts.read();
    assert_eq!(
        carriers(&markers),
        [(LAYER, "float8_e4m3fn", Carrier::Legacy, true)]
    );
    assert_eq!(kinds(&markers), []);
    let encodings = parts.encodings();
    assert!(matches!(
        encodings[0],
        Ok(Encoding::Fp8 {
            weight_scale: 0.5,
            input_scale: None,
            quantizes_input: false,
        })
    ));
    // Without the marker 1 is a number like others.
    let unmarked = Parts::layer(LAYER)
        .scale(&format!("{LAYER}.input_scale"), 1.0)
        .encodings();
    assert!(matches!(
        unmarked[0],
        Ok(Encoding::Fp8 {
            input_scale: Some(1.0),
            ..
        })
    ));
}

/// ComfyUI's separate files have no prefix before the marker either: it belongs to the component of its file.
#[test]
fn the_older_marker_of_a_separate_file() {
    for layer in [
        "model.layers.0.mlp.up_proj",
        "transformer_blocks.0.attn.to_q",
    ] {
        let parts = Parts::layer(layer)
            .scale(&format!("{layer}.scale_weight"), 0.5)
            .put("scaled_fp8", Dtype::F8_E4M3, &[0], &[]);
        assert_eq!(
            carriers(&parts.read()),
            [(layer, "float8_e4m3fn", Carrier::Legacy, false)]
        );
        assert!(parts.open().unknown.is_empty());
    }
}

/// Names of the metadata are found under another prefix, in both directions, if that is clear.
#[test]
fn metadata_under_another_prefix() {
    let bare = "transformer_blocks.1.attn.to_q";
    for (there, said) in [(LAYER, bare), (bare, LAYER)] {
        let markers = Parts::layer(there)
            .entries(&format!(r#"{{"{said}": {FP8}}}"#))
            .read();
        assert_eq!(
            carriers(&markers),
            [(there, "float8_e4m3fn", Carrier::Metadata, false)]
        );
        assert_eq!(kinds(&markers), [(said, ProblemKind::WrongPrefix)]);
    }
}

/// A weight is packed if its marker says so and it is stored that way; then its columns count twice.
#[test]
fn packed_weights() {
    let packed = Parts::layer(LAYER).put(&format!("{LAYER}.weight"), Dtype::U8, &[2, 8], &[0; 16]);
    for (parts, expected) in [
        (packed.clone().record(LAYER, NVFP4.as_bytes()), true),
        (packed, false),
        (Parts::layer(LAYER).record(LAYER, NVFP4.as_bytes()), false),
    ] {
        let opened = parts.open();
        let (component, tensors) = opened.tensors.first_key_value().unwrap();
        let records = Markers::read(&opened).canonical(tensors);
        let weights = Weights::new(
            *component,
            Path::new("memory"),
            &Device::Cpu,
            tensors.clone(),
        );
        let name = "transformer_blocks.1.attn.to_q.weight";
        assert_eq!(weights.marked(records).is_packed(name), expected);
    }
}

#[test]
fn problems() {
    let record = format!("{LAYER}.comfy_quant");
    let record = record.as_str();
    let layer = || Parts::layer(LAYER);
    let scale = |p: Parts, part: &str| p.scale(&format!("{LAYER}.{part}"), 1.0);
    let marker = |p: Parts| p.put("scaled_fp8", Dtype::F32, &[1], &[0; 4]);
    let mut not_json = layer();
    not_json.metadata = Some("{".to_owned());
    for (parts, name, kind) in [
        (layer().record(LAYER, b""), record, ProblemKind::EmptyRecord),
        (
            layer().record(LAYER, &[0; 29]),
            record,
            ProblemKind::EmptyRecord,
        ),
        (
            layer().record(LAYER, b"{\"format\""),
            record,
            ProblemKind::UnreadableRecord,
        ),
        (
            layer().record(LAYER, b"{}"),
            record,
            ProblemKind::UnreadableRecord,
        ),
        (
            layer().record(LAYER, &[b' '; MAX_RECORD + 1]),
            record,
            ProblemKind::UnreadableRecord,
        ),
        (
            layer().put(record, Dtype::F32, &[], &[0; 4]),
            record,
            ProblemKind::UnreadableRecord,
        ),
        (not_json, METADATA, ProblemKind::UnreadableMetadata),
        (
            layer().entries("[]"),
            METADATA,
            ProblemKind::UnreadableMetadata,
        ),
        (
            layer().entries(&format!(r#"{{"{LAYER}": "nvfp4"}}"#)),
            LAYER,
            ProblemKind::EntryWithoutFormat,
        ),
        (
            layer().entries(&format!(r#"{{"to_q": {FP8}}}"#)),
            "to_q",
            ProblemKind::AbsentLayer,
        ),
        (
            layer()
                .record(LAYER, FP8.as_bytes())
                .entries(&format!(r#"{{"{LAYER}": {NVFP4}}}"#)),
            record,
            ProblemKind::Disagreement,
        ),
        (
            marker(scale(layer(), "scale_weight").record(LAYER, FP8.as_bytes())),
            "scaled_fp8",
            ProblemKind::MixedMarkers,
        ),
        (marker(layer()), "scaled_fp8", ProblemKind::IdleMarker),
    ] {
        let markers = parts.read();
        assert_eq!(kinds(&markers), [(name, kind)]);
        let message = &markers.problems[0].message;
        assert!(
            message.contains("again") && message.len() < 400,
            "{message}"
        );
    }
}

/// An entry as long as a book is quoted in short.
#[test]
fn long_entries() {
    let entry = format!(r#"{{"{LAYER}": ["{}"]}}"#, "é".repeat(1 << 20));
    let markers = Parts::layer(LAYER).entries(&entry).read();
    assert!(markers.problems[0].message.len() < 400);
}

proptest! {
    /// Whatever bytes stand where markers and scales do: a value or a sentence, never a panic.
    #[test]
    fn anything_beside_a_weight(
        parts in prop::collection::vec(
            (
                prop::sample::select(vec![
                    "weight", "weight_scale", "weight_scale_2", "input_scale", "scale_weight", "scale_input",
                    "comfy_quant", "scaled_fp8",
                ]),
                prop::sample::select(vec![Dtype::U8, Dtype::F8_E4M3, Dtype::BF16, Dtype::F32, Dtype::I64]),
                prop::collection::vec(0usize..20, 0..4),
                any::<[u8; 8]>(),
            ),
            0..5,
        ),
        metadata in prop::option::of(".{0,40}"),
        record in prop::option::of((0usize..20, prop::collection::vec(any::<u8>(), 0..12))),
    ) {
        let mut all = Parts::layer(LAYER);
        for (part, dtype, shape, pattern) in parts {
            let size = shape.iter().product::<usize>() * dtype.bitsize() / 8;
            let bytes: Vec<u8> = pattern.iter().copied().cycle().take(size).collect();
            all = all.put(&format!("{LAYER}.{part}"), dtype, &shape, &bytes);
        }
        if let Some((keep, tail)) = record {
            let mut json = NVFP4.as_bytes()[..keep.min(NVFP4.len())].to_vec();
            json.extend(tail);
            all = all.record(LAYER, &json);
        }
        all.metadata = metadata;
        all.read();
        for encoding in all.encodings() {
            if let Err(message) = encoding {
                prop_assert!(message.contains("memory"), "{message}");
            }
        }
    }
}
