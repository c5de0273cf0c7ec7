#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;
use std::path::Path;

use safetensors::tensor::{Dtype, TensorView};

use crate::numerics::swizzle::offset as swizzled;
use super::*;

/// The tiny model, as a map that a test may spoil.
struct Tiny {
    metadata: std::collections::HashMap<String, String>,
    tensors: BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)>,
}

impl Tiny {
    fn new() -> Self {
        let path =
            Path::new(env!("CARGO_MANIFEST_DIR")).join("models/tiny/qwen-tiny-aio-fp8.safetensors");
        let bytes = std::fs::read(path).unwrap();
        let (_, header) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
        let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        Self {
            metadata: header.metadata().clone().unwrap(),
            tensors: file
                .iter()
                .map(|(name, t)| {
                    (
                        name.to_owned(),
                        (t.dtype(), t.shape().to_vec(), t.data().to_vec()),
                    )
                })
                .collect(),
        }
    }

    fn put(&mut self, name: &str, dtype: Dtype, shape: &[usize], bytes: &[u8]) {
        self.tensors
            .insert(name.to_owned(), (dtype, shape.to_vec(), bytes.to_vec()));
    }

    fn record(&mut self, layer: &str, json: &str) {
        self.put(
            &format!("{layer}.comfy_quant"),
            Dtype::U8,
            &[json.len()],
            json.as_bytes(),
        );
    }

    fn scale(&mut self, name: &str, value: f32) {
        self.put(name, Dtype::F32, &[], &value.to_le_bytes());
    }

    fn report(&self) -> Report {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("spoiled.safetensors");
        let views = self.tensors.iter().map(|(name, (dtype, shape, bytes))| {
            (name, TensorView::new(*dtype, shape.clone(), bytes).unwrap())
        });
        safetensors::serialize_to_file(views, Some(self.metadata.clone()), &path).unwrap();
        inspect(&path).unwrap()
    }
}

const LAYER: &str = "model.diffusion_model.transformer_blocks.1.attn.to_q";

/// The faults of a report, without their sentences.
fn kinds(report: &Report) -> Vec<(&str, FaultKind)> {
    report
        .faults
        .iter()
        .map(|f| (f.tensor.as_str(), f.kind))
        .collect()
}

#[test]
fn the_tiny_model_has_no_faults() {
    let report = Tiny::new().report();
    assert_eq!(kinds(&report), []);
    assert_eq!(report.quantized, Quantized::default());
    assert_eq!(
        report.components.keys().copied().collect::<Vec<_>>(),
        ["text_encoder", "transformer", "vae"]
    );
    assert!(
        report
            .components
            .values()
            .all(|part| part.key_style == "comfyui-aio")
    );
    assert_eq!(
        report.components["transformer"]
            .dtypes
            .keys()
            .collect::<Vec<_>>(),
        ["F8_E4M3"]
    );
    assert!(
        render_text(&report).contains("no faults"),
        "{}",
        render_text(&report)
    );
}

#[test]
fn fp8_markers_and_scales() {
    let scale = format!("{LAYER}.weight_scale");
    for (value, kind) in [
        (Some(0.5), None),
        (Some(f32::NAN), Some(FaultKind::NanScale)),
        (Some(0.0), Some(FaultKind::ZeroScale)),
        (None, Some(FaultKind::Missing)),
    ] {
        let mut tiny = Tiny::new();
        tiny.record(LAYER, r#"{"format": "float8_e4m3fn"}"#);
        if let Some(value) = value {
            tiny.scale(&scale, value);
        }
        let report = tiny.report();
        let expected: Vec<_> = kind
            .map(|kind| (scale.as_str(), kind))
            .into_iter()
            .collect();
        assert_eq!(kinds(&report), expected);
        assert_eq!(
            report.quantized,
            Quantized {
                nvfp4: 0,
                float8_e4m3fn: 1
            }
        );
    }
    let mut unmarked = Tiny::new();
    unmarked.scale(&scale, 0.5);
    assert_eq!(
        kinds(&unmarked.report()),
        [(&*format!("{LAYER}.weight"), FaultKind::MissingMarker)]
    );
}

#[test]
fn nvfp4_layers_are_counted_and_checked() {
    let mut tiny = Tiny::new();
    let weight = format!("{LAYER}.weight");
    let (_, shape, _) = tiny.tensors[&weight].clone();
    let (n, k) = (shape[0], shape[1]);
    let scales = [n.next_multiple_of(128), (k / 16).next_multiple_of(4)];
    tiny.put(&weight, Dtype::U8, &[n, k / 2], &vec![0x21; n * k / 2]);
    tiny.put(
        &format!("{LAYER}.weight_scale"),
        Dtype::F8_E4M3,
        &scales,
        &vec![0x38; scales[0] * scales[1]],
    );
    tiny.scale(&format!("{LAYER}.weight_scale_2"), 0.01);
    tiny.record(LAYER, r#"{"format": "nvfp4"}"#);
    let report = tiny.report();
    assert_eq!(kinds(&report), []);
    assert_eq!(
        report.quantized,
        Quantized {
            nvfp4: 1,
            float8_e4m3fn: 0
        }
    );

    let mut nan = vec![0x38; scales[0] * scales[1]];
    nan[7] = 0x7f;
    tiny.put(
        &format!("{LAYER}.weight_scale"),
        Dtype::F8_E4M3,
        &scales,
        &nan,
    );
    tiny.tensors.remove(&format!("{LAYER}.weight_scale_2"));
    assert_eq!(
        kinds(&tiny.report()),
        [
            (&*format!("{LAYER}.weight_scale_2"), FaultKind::Missing),
            (&*format!("{LAYER}.weight_scale"), FaultKind::NanScale)
        ]
    );
}

/// `proj_out` of the tiny model has 64 rows: half of a tile is padding.
#[test]
fn swizzle_padding_must_be_zero() {
    let layer = "model.diffusion_model.proj_out";
    let mut tiny = Tiny::new();
    let (_, shape, _) = tiny.tensors[&format!("{layer}.weight")].clone();
    let (n, k) = (shape[0], shape[1]);
    assert!(n < 128, "the test needs padding");
    let columns = (k / 16).next_multiple_of(4);
    let mut scales = vec![0u8; 128 * columns];
    for row in 0..n {
        for column in 0..k / 16 {
            scales[swizzled(row, column, columns)] = 0x38;
        }
    }
    let name = format!("{layer}.weight_scale");
    tiny.put(
        &format!("{layer}.weight"),
        Dtype::U8,
        &[n, k / 2],
        &vec![0; n * k / 2],
    );
    tiny.put(&name, Dtype::F8_E4M3, &[128, columns], &scales);
    tiny.scale(&format!("{layer}.weight_scale_2"), 1.0);
    tiny.record(layer, r#"{"format": "nvfp4"}"#);
    assert_eq!(kinds(&tiny.report()), []);
    scales[swizzled(127, 0, columns)] = 1;
    tiny.put(&name, Dtype::F8_E4M3, &[128, columns], &scales);
    assert_eq!(kinds(&tiny.report()), [(&*name, FaultKind::SwizzlePadding)]);
}

/// Offsets of the worked examples of cuBLAS' 128 x 4 layout for 192 columns.
#[test]
fn swizzle_offsets() {
    for (row, column, offset) in [
        (0, 3, 3),
        (0, 4, 512),
        (1, 0, 16),
        (32, 0, 4),
        (31, 3, 499),
        (127, 3, 511),
        (128, 0, 24576),
        (3071, 191, 589_823),
    ] {
        assert_eq!(swizzled(row, column, 192), offset, "({row}, {column})");
    }
}

#[test]
fn markers_that_speak_of_nothing() {
    let mut tiny = Tiny::new();
    tiny.record(
        "model.diffusion_model.transformer_blocks.1.attn.to_x",
        r#"{"format": "nvfp4"}"#,
    );
    tiny.record(LAYER, r#"{"format": "int3"}"#);
    let layers = r#"{"format_version": "1.0", "layers": {"transformer_blocks.0.attn.to_q": {"format": "nvfp4"}}}"#;
    tiny.metadata
        .insert("_quantization_metadata".to_owned(), layers.to_owned());
    assert_eq!(
        kinds(&tiny.report()),
        [
            ("transformer_blocks.0.attn.to_q", FaultKind::AbsentLayer),
            (LAYER, FaultKind::UnknownMarker),
            (
                "model.diffusion_model.transformer_blocks.1.attn.to_x",
                FaultKind::RecordWithoutWeight
            ),
        ]
    );
}

#[test]
fn missing_misshapen_and_unknown_tensors() {
    let mut tiny = Tiny::new();
    let bias = format!("{LAYER}.bias");
    tiny.tensors.remove(&bias);
    let norm = "model.diffusion_model.transformer_blocks.2.attn.norm_k.weight";
    tiny.put(norm, Dtype::F8_E4M3, &[8], &[0x38; 8]);
    tiny.put("vae.decoder.extra.weight", Dtype::F32, &[1], &[0; 4]);
    tiny.put("first_stage_model.x", Dtype::F32, &[1], &[0; 4]);
    let report = tiny.report();
    assert_eq!(
        kinds(&report),
        [
            ("first_stage_model.x", FaultKind::Unknown),
            ("transformer_blocks.1.attn.to_q.bias", FaultKind::Missing),
            (norm, FaultKind::WrongShape),
            ("vae.decoder.extra.weight", FaultKind::Unknown),
        ]
    );
    let json = serde_json::to_value(&report).unwrap();
    assert_eq!(json["faults"][1]["kind"], "missing");
    assert_eq!(json["quantized"]["nvfp4"], 0);
}

#[test]
fn truncated_files_are_looked_at_as_far_as_they_go() {
    let source =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("models/tiny/qwen-tiny-aio-fp8.safetensors");
    let bytes = std::fs::read(source).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("cut.safetensors");
    std::fs::write(&path, &bytes[..bytes.len() - 1]).unwrap();
    let report = inspect(&path).unwrap();
    assert_eq!(kinds(&report), [("", FaultKind::Truncated)]);
    assert!(
        report.faults[0].message.contains("1 tensors are cut"),
        "{}",
        report.faults[0].message
    );
}

#[test]
fn misaligned_tensors_are_found() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("odd.safetensors");
    // A header of odd length puts the F32 tensor at an odd byte.
    let mut header =
        br#"{"img_in.bias":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#.to_vec();
    header.resize(header.len() | 1, b' ');
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header);
    bytes.extend([0; 4]);
    std::fs::write(&path, bytes).unwrap();
    assert_eq!(
        kinds(&inspect(&path).unwrap())[0],
        ("img_in.bias", FaultKind::Misaligned)
    );
}
