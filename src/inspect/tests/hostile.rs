//! Records, metadata, shapes and scales by chance: nothing may panic, and no size may be taken at its word.

use proptest::prelude::*;

use super::*;
use crate::context::Cancel;

const DTYPES: [Dtype; 8] = [
    Dtype::U8,
    Dtype::F8_E4M3,
    Dtype::F8_E5M2,
    Dtype::BF16,
    Dtype::F16,
    Dtype::F32,
    Dtype::I64,
    Dtype::F4,
];

const LAYERS: [&str; 6] = [
    "model.diffusion_model.transformer_blocks.0.attn.to_q",
    "transformer_blocks.0.attn.to_q",
    "img_in",
    "text_encoders.qwen25_7b.transformer.visual.blocks.0.mlp.down_proj",
    "model.layers.0.mlp.up_proj",
    "",
];

const PARTS: [&str; 9] = [
    "weight",
    "comfy_quant",
    "weight_scale",
    "weight_scale_2",
    "scale_weight",
    "input_scale",
    "scale_input",
    "scaled_fp8",
    "bias",
];

/// A side: small, around a block or a tile, or larger than any memory.
fn side() -> impl Strategy<Value = usize> {
    prop_oneof![
        4 => 0usize..3,
        4 => prop::sample::select(vec![8usize, 15, 16, 17, 64, 127, 128, 129]),
        1 => prop::sample::select(vec![usize::MAX, usize::MAX - 15, usize::MAX / 2, 1 << 40]),
    ]
}

/// A record: sound, nearly so, or any bytes.
fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => prop::sample::select(vec![
            r#"{"format": "nvfp4"}"#,
            r#"{"format": "float8_e4m3fn"}"#,
            r#"{"format": "float8_e5m2", "full_precision_matrix_mult": 3}"#,
            r#"{"format": {"format": "nvfp4"}}"#,
            r#"{"layers": {"img_in": {"format": "nvfp4"}, "": {"format": ""}, "img_in.weight": "x"}}"#,
            r#"{"layers": {"model.diffusion_model.transformer_blocks.0.attn.to_q": {"format": "nvfp4"}}}"#,
            r#"{"layers": {"transformer.transformer_blocks.0.attn.to_q": {"format": "float8_e4m3fn"}}}"#,
            r#"{"layers": []}"#,
        ]).prop_map(str::to_owned),
        1 => "[\\{\\}\\[\\]\":,a-z0-9 é\0]{0,40}",
        1 => (1usize..3000).prop_map(|n| "[".repeat(n)),
        1 => (1usize..3000).prop_map(|n| "{\"layers\":".repeat(n)),
    ]
}

/// A tensor of a layer.
#[derive(Clone, Debug)]
struct Part {
    name: String,
    dtype: Dtype,
    shape: Vec<usize>,
    fill: Vec<u8>,
}

fn part() -> impl Strategy<Value = Part> {
    let name = (0..LAYERS.len(), 0..PARTS.len())
        .prop_map(|(layer, part)| format!("{}.{}", LAYERS[layer], PARTS[part]));
    let shape = prop::collection::vec(side(), 0..4);
    let fill = prop_oneof![
        text().prop_map(String::into_bytes),
        prop::collection::vec(any::<u8>(), 1..9),
    ];
    (name, 0..DTYPES.len(), shape, fill).prop_map(|(name, dtype, shape, fill)| Part {
        name,
        dtype: DTYPES[dtype],
        shape,
        fill,
    })
}

/// A file of these tensors. Sizes that no file could have are stated all the same where they come out at nothing (a
/// side of 0), and are cut to the record's own length otherwise.
fn file(parts: &[Part], metadata: &str, cut: usize) -> Vec<u8> {
    let mut header = serde_json::Map::new();
    header.insert(
        "__metadata__".to_owned(),
        json!({"_quantization_metadata": metadata}),
    );
    let mut data = Vec::new();
    for part in parts {
        let elements = part.shape.iter().try_fold(1usize, |n, s| n.checked_mul(*s));
        let bits = elements.and_then(|n| n.checked_mul(part.dtype.bitsize()));
        let (shape, size) = match bits {
            Some(bits) if bits % 8 == 0 && bits < 1 << 20 => (part.shape.clone(), bits / 8),
            _ => {
                let size = part.fill.len() * 8;
                (vec![size * 8 / part.dtype.bitsize()], size)
            }
        };
        if header.contains_key(&part.name) {
            continue;
        }
        let start = data.len();
        data.extend(part.fill.iter().cycle().take(size));
        data.resize(start + size, 0);
        header.insert(
            part.name.clone(),
            json!({"dtype": part.dtype.to_string(), "shape": shape, "data_offsets": [start, data.len()]}),
        );
    }
    let header = serde_json::Value::Object(header).to_string();
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.extend(data);
    bytes.truncate(bytes.len().saturating_sub(cut));
    bytes
}

/// Everything that reads markers.
fn read(bytes: &[u8]) -> Option<Report> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("hostile.safetensors");
    std::fs::write(&path, bytes).unwrap();
    let _ = crate::quantize::Source::open(&path);
    if let Ok(opened) = Opened::open(&path, Strictness::Whole) {
        Markers::read(&opened);
    }
    let report = inspect_to(Some(&path), &Depth::Weights(Cancel::default())).ok()?;
    render_text(&report);
    serde_json::to_string(&report).unwrap();
    Some(report)
}

proptest! {
    #[test]
    fn tensors_by_chance(
        parts in prop::collection::vec(part(), 0..12),
        metadata in text(),
        cut in prop_oneof![4 => Just(0usize), 1 => 0usize..300],
    ) {
        read(&file(&parts, &metadata, cut));
    }

    /// A sound layer with one thing changed: the rest of it is still looked at.
    #[test]
    fn one_layer_changed(
        change in part(),
        text in text(),
        metadata in text(),
        packed in any::<bool>(),
    ) {
        let layer = LAYERS[0];
        let new = |name: &str, dtype, shape: &[usize], fill: &[u8]| Part {
            name: format!("{layer}.{name}"),
            dtype,
            shape: shape.to_vec(),
            fill: fill.to_vec(),
        };
        let mut parts = vec![
            new("comfy_quant", Dtype::U8, &[text.len()], text.as_bytes()),
            new("weight", if packed { Dtype::U8 } else { Dtype::F8_E4M3 }, &[128, 64], &[0x21]),
            new("weight_scale", if packed { Dtype::F8_E4M3 } else { Dtype::F32 }, if packed { &[128, 8] } else { &[] }, &[0, 0, 0x80, 0x3f]),
            new("weight_scale_2", Dtype::F32, &[], &[0, 0, 0x80, 0x3f]),
        ];
        parts.insert(0, Part { name: format!("{layer}.{}", change.name.rsplit('.').next().unwrap()), ..change });
        prop_assert!(read(&file(&parts, &metadata, 0)).is_some());
    }
}

/// Sides that overflow when they are rounded up, of tensors without a byte.
#[test]
fn sides_larger_than_memory() {
    for shape in [[usize::MAX, 0], [usize::MAX - 15, 0], [0, usize::MAX]] {
        for part in ["weight", "weight_scale", "bias"] {
            let mut parts = vec![Part {
                name: format!("{}.{part}", LAYERS[0]),
                dtype: Dtype::U8,
                shape: shape.to_vec(),
                fill: vec![0],
            }];
            let record = br#"{"format": "nvfp4"}"#;
            parts.push(Part {
                name: format!("{}.comfy_quant", LAYERS[0]),
                dtype: Dtype::U8,
                shape: vec![record.len()],
                fill: record.to_vec(),
            });
            if part != "weight" {
                parts.push(Part {
                    name: format!("{}.weight", LAYERS[0]),
                    ..parts[0].clone()
                });
            }
            assert!(read(&file(&parts, "{}", 0)).is_some(), "{shape:?} {part}");
        }
    }
}
