//! Any record and any metadata around a layer that is sound otherwise: read by the engine, the converter and
//! `inspect`. Nothing may panic.
//!
//! The first byte says how the layer is stored, the first line is its record, the rest the metadata.
#![no_main]

use std::io::Write;

use libfuzzer_sys::fuzz_target;
use qwen_nvfp4::context::Cancel;
use qwen_nvfp4::inspect::{Depth, inspect_to, render_text};
use qwen_nvfp4::quantize::Source;
use serde_json::{Map, Value, json};

const LAYERS: [&str; 4] = [
    "model.diffusion_model.transformer_blocks.0.attn.to_q",
    "transformer_blocks.0.attn.to_q",
    "img_in",
    "text_encoders.qwen25_7b.transformer.visual.blocks.0.mlp.up_proj",
];

/// A file with one layer of [128, 128].
fn file(kind: u8, record: &[u8], metadata: &str) -> Vec<u8> {
    let layer = LAYERS[usize::from(kind >> 6)];
    let (has_packed, spelling) = (
        kind & 1 != 0,
        if kind & 2 != 0 {
            "scale_weight"
        } else {
            "weight_scale"
        },
    );
    let one = 1f32.to_le_bytes().to_vec();
    let mut tensors = vec![("comfy_quant", "U8", vec![record.len()], record.to_vec())];
    match has_packed {
        true => tensors.extend([
            ("weight", "U8", vec![128, 64], vec![kind; 8192]),
            ("weight_scale", "F8_E4M3", vec![128, 8], vec![kind; 1024]),
            ("weight_scale_2", "F32", vec![], one.clone()),
        ]),
        false => tensors.extend([
            ("weight", "F8_E4M3", vec![128, 128], vec![kind; 16384]),
            (spelling, "F32", vec![], one.clone()),
        ]),
    }
    if kind & 4 != 0 {
        tensors.push(("input_scale", "F32", vec![], one));
    }
    let mut header = Map::new();
    header.insert(
        "__metadata__".to_owned(),
        json!({"_quantization_metadata": metadata}),
    );
    let mut data = Vec::new();
    for (part, dtype, shape, bytes) in tensors {
        let start = data.len();
        data.extend(bytes);
        let entry = json!({"dtype": dtype, "shape": shape, "data_offsets": [start, data.len()]});
        header.insert(format!("{layer}.{part}"), entry);
    }
    if kind & 8 != 0 {
        let entry = json!({"dtype": "U8", "shape": [0], "data_offsets": [data.len(), data.len()]});
        header.insert("scaled_fp8".to_owned(), entry);
    }
    let header = Value::Object(header).to_string();
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.extend(data);
    bytes
}

fuzz_target!(|bytes: &[u8]| {
    let Some((kind, rest)) = bytes.split_first() else {
        return;
    };
    let end = rest.iter().position(|b| *b == b'\n').unwrap_or(rest.len());
    let (record, metadata) = rest.split_at(end);
    let metadata = String::from_utf8_lossy(metadata);
    let Ok(mut made) = tempfile::Builder::new().suffix(".safetensors").tempfile() else {
        return;
    };
    if made
        .write_all(&file(*kind, record, metadata.trim_start()))
        .is_err()
    {
        return;
    }
    let _ = Source::open(made.path());
    // The file is whole and sound as a container, so that there always is a report.
    match inspect_to(Some(made.path()), &Depth::Weights(Cancel::default())) {
        Ok(report) => drop(render_text(&report)),
        Err(error) => panic!("{error}"),
    }
});
