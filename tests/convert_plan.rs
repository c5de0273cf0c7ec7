//! Plans: what each policy does to the full-size all-in-one, by its header alone, and what is refused.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::collections::BTreeMap;
use std::path::Path;

use common::full_size::{golden, sparse};
use qwen_nvfp4::quantize::plan::{Keys, Marker, Options, Step};
use qwen_nvfp4::quantize::{Calibration, Plan, Policy, Source};
use safetensors::Dtype;
use safetensors::tensor::TensorView;

fn built_in(name: &str) -> Policy {
    Policy::built_in(name).unwrap().unwrap()
}

fn unscaled() -> Options {
    Options {
        assume_unscaled: true,
        ..Options::default()
    }
}

/// The published counts of the five policies (nvfp4, float8_e4m3fn), 359 of the latter two-dimensional weights of the
/// text encoder; 240 linears of the blocks and six at the top are in neither.
#[test]
fn the_policies_count_what_was_published() {
    let file = sparse(&golden());
    let source = Source::open(file.path()).unwrap();
    for (name, nvfp4, fp8, recorded) in [
        ("v1", 360, 599, 246),
        ("v2", 360, 599, 246),
        ("v3", 360, 599, 246),
        ("v4", 240, 719, 246),
        ("v5", 180, 779, 246),
        // 14 linears in 56 of 60 blocks; the rest stays FP8.
        ("modelopt", 784, 359, 62),
        ("sglang", 780, 359, 66),
        ("all-nvfp4", 840, 359, 6),
    ] {
        let plan = Plan::new(&source, &built_in(name), None, &unscaled()).unwrap();
        let c = plan.counts;
        assert_eq!(
            (c.nvfp4, c.float8_e4m3fn, c.recorded_only, c.kept),
            (nvfp4, fp8, recorded, 0),
            "{name}"
        );
        assert_eq!(plan.bytes_in, file.as_file().metadata().unwrap().len());
        // Packed halves and block scales in sixteenths: 0.4375 of a byte less per number.
        let packed: u64 = plan
            .layers
            .iter()
            .filter(|l| l.to == "nvfp4")
            .map(|l| l.shape.iter().map(|n| *n as u64).product::<u64>())
            .sum();
        let smaller = plan.bytes_in as f64 - packed as f64 * 0.4375;
        assert!(
            (plan.bytes_out as f64 / smaller - 1.0).abs() < 1e-3,
            "{name}: {} bytes",
            plan.bytes_out
        );
    }
}

/// Two layers of the calibration that comfy-dit-quantizer ships for this model, and what its `add_input_scale.py`
/// makes of 284.
#[test]
fn calibrations_become_input_scales() {
    let file = sparse(&golden());
    let source = Source::open(file.path()).unwrap();
    let flat =
        r#"{"transformer_blocks.0.attn.to_k": 284.0, "transformer_blocks.0.img_mod.1": 284.0}"#;
    let calibration = Calibration::parse("flat.json", flat, "max").unwrap();
    let plan = Plan::new(&source, &built_in("v3"), Some(&calibration), &unscaled()).unwrap();
    let scales: BTreeMap<&str, u32> = plan
        .steps
        .iter()
        .filter_map(|step| match step {
            Step::Bytes { bytes, to } if plan.outputs[*to].name.ends_with(".input_scale") => {
                let bits = u32::from_le_bytes(bytes.as_slice().try_into().unwrap());
                Some((plan.outputs[*to].name.as_str(), bits))
            }
            _ => None,
        })
        .collect();
    let prefix = "model.diffusion_model.transformer_blocks.0";
    assert_eq!(
        scales,
        BTreeMap::from([
            (&*format!("{prefix}.attn.to_k.input_scale"), 0x3dd8_6186),
            (&*format!("{prefix}.img_mod.1.input_scale"), 0x3f22_4925),
        ])
    );
    let foreign = Calibration::parse("other.json", r#"{"blocks.0.mlp": 1.0}"#, "max").unwrap();
    let error = refused(&source, "v3", Some(&foreign), &unscaled());
    assert!(
        error.contains("blocks.0.mlp") && error.contains("another model"),
        "{error}"
    );
}

fn refused(
    source: &Source,
    policy: &str,
    calibration: Option<&Calibration>,
    options: &Options,
) -> String {
    Plan::new(source, &built_in(policy), calibration, options)
        .err()
        .expect("a refusal")
        .to_string()
}

/// A transformer of two layers.
fn small(dir: &Path, extra: &[(&str, Dtype, &[usize], &[u8])]) -> Source {
    let (codes, bias) = (vec![0x38u8; 32 * 32], vec![0x30u8; 32]);
    let mut tensors: Vec<(&str, Dtype, &[usize], &[u8])> = vec![
        (
            "transformer_blocks.0.attn.to_q.weight",
            Dtype::F8_E4M3,
            &[32, 32],
            &codes,
        ),
        (
            "transformer_blocks.0.attn.to_q.bias",
            Dtype::F8_E4M3,
            &[32],
            &bias,
        ),
        (
            "transformer_blocks.0.img_mod.1.weight",
            Dtype::F8_E4M3,
            &[32, 32],
            &codes,
        ),
    ];
    for new in extra {
        tensors.retain(|t| t.0 != new.0);
        tensors.push(*new);
    }
    let views = tensors.iter().map(|(name, dtype, shape, bytes)| {
        (
            *name,
            TensorView::new(*dtype, shape.to_vec(), bytes).unwrap(),
        )
    });
    let path = dir.join("small.safetensors");
    safetensors::serialize_to_file(views, None, &path).unwrap();
    Source::open(&path).unwrap()
}

#[test]
fn scales_are_never_guessed() {
    let dir = tempfile::tempdir().unwrap();
    let source = small(dir.path(), &[]);
    let error = refused(&source, "v3", None, &Options::default());
    assert!(
        error.contains("2 of 2")
            && error.contains("whole file is unscaled")
            && error.contains("--assume-unscaled"),
        "{error}"
    );
    let half = 0.5f32.to_le_bytes();
    for spelling in ["weight_scale", "scale_weight"] {
        let name = format!("transformer_blocks.0.attn.to_q.{spelling}");
        let source = small(dir.path(), &[(&name, Dtype::F32, &[], &half)]);
        let error = refused(&source, "v3", None, &Options::default());
        assert!(
            error.contains("1 of 2") && error.contains("img_mod.1"),
            "{error}"
        );
        let plan = Plan::new(&source, &built_in("v3"), None, &unscaled()).unwrap();
        let scale = plan.steps.iter().find_map(|step| match step {
            Step::Nvfp4 { weight_scale, .. } => Some(*weight_scale),
            _ => None,
        });
        assert_eq!(scale, Some(0.5));
        // The source's scale does not outlive its codes under its old name.
        assert!(
            plan.outputs
                .iter()
                .all(|o| !o.name.ends_with("scale_weight"))
        );
    }
}

#[test]
fn what_cannot_be_done_names_the_layer() {
    let dir = tempfile::tempdir().unwrap();
    let (odd, zero) = (vec![0x38u8; 32 * 24], 0f32.to_le_bytes());
    let layer = "transformer_blocks.0.attn.to_q";
    let weight = format!("{layer}.weight");
    let source = small(dir.path(), &[(&weight, Dtype::F8_E4M3, &[32, 24], &odd)]);
    let error = refused(&source, "v3", None, &unscaled());
    assert!(
        error.contains(layer) && error.contains("32 x 24") && error.contains("keep"),
        "{error}"
    );

    for (part, dtype, shape, bytes, words) in [
        ("weight_scale", Dtype::F32, &[], &zero, "is 0"),
        (
            "weight_scale",
            Dtype::F32,
            &[1],
            &[0, 0, 0xc0, 0x7f],
            "is NaN",
        ),
        ("input_scale", Dtype::F32, &[2], &[0; 8], "one number"),
        (
            "comfy_quant",
            Dtype::U8,
            &[19],
            br#"{"format": "nvfp4"}"#,
            "says `nvfp4`",
        ),
    ] as [(&str, Dtype, &[usize], &[u8], &str); 4]
    {
        let name = format!("{layer}.{part}");
        let path = dir.path().join("bad.safetensors");
        let codes = vec![0x38u8; 32 * 32];
        let views = [
            (
                weight.as_str(),
                TensorView::new(Dtype::F8_E4M3, vec![32, 32], &codes).unwrap(),
            ),
            (
                name.as_str(),
                TensorView::new(dtype, shape.to_vec(), bytes).unwrap(),
            ),
        ];
        safetensors::serialize_to_file(views, None, &path).unwrap();
        let error = Source::open(&path).err().expect("a refusal").to_string();
        assert!(
            error.contains(words) && error.contains(layer) && error.contains("bad.safetensors"),
            "{error}"
        );
    }

    let img_in = vec![0x38u8; 32 * 64];
    let source = small(
        dir.path(),
        &[("img_in.weight", Dtype::F8_E4M3, &[32, 64], &img_in)],
    );
    let all = Policy::parse(
        "all.json",
        r#"{"block_names": [""], "rules": [{"policy": "nvfp4", "match": [""]}]}"#,
    );
    let error = Plan::new(&source, &all.unwrap(), None, &unscaled())
        .err()
        .unwrap()
        .to_string();
    assert!(
        error.contains("img_in") && error.contains("channels"),
        "{error}"
    );
    let foreign = Policy::parse(
        "m.json",
        r#"{"rules": [{"policy": "mxfp8", "match": ["to_q"]}]}"#,
    );
    let error = Plan::new(&source, &foreign.unwrap(), None, &unscaled())
        .err()
        .unwrap()
        .to_string();
    assert!(error.contains("mxfp8") && error.contains("to_q"), "{error}");
}

#[test]
fn markers_and_names_follow_the_options() {
    let dir = tempfile::tempdir().unwrap();
    let source = small(dir.path(), &[]);
    let plan = |marker, keys| {
        let options = Options {
            marker,
            keys,
            ..unscaled()
        };
        Plan::new(&source, &built_in("v3"), None, &options).unwrap()
    };
    let records = |plan: &Plan| {
        plan.outputs
            .iter()
            .filter(|o| o.name.ends_with(".comfy_quant"))
            .count()
    };
    let tensors = plan(Marker::ComfyQuant, Keys::Keep);
    assert_eq!(records(&tensors), 2);
    assert!(!tensors.metadata.contains_key("_quantization_metadata"));
    let header = plan(Marker::Metadata, Keys::Comfy);
    assert_eq!(records(&header), 0);
    let json: serde_json::Value =
        serde_json::from_str(&header.metadata["_quantization_metadata"]).unwrap();
    let prefix = "model.diffusion_model.transformer_blocks.0";
    assert_eq!(
        json["layers"][format!("{prefix}.attn.to_q")]["format"],
        "nvfp4"
    );
    assert_eq!(
        json["layers"][format!("{prefix}.img_mod.1")]["format"],
        "float8_e4m3fn"
    );
    assert!(
        header
            .outputs
            .iter()
            .all(|o| o.name.starts_with("model.diffusion_model."))
    );
    let both = plan(Marker::Both, Keys::Diffusers);
    assert_eq!((records(&both), both.metadata.len()), (2, 2));
    // The bias holds FP8 numbers, which ComfyUI would widen anyway.
    let bias = both
        .outputs
        .iter()
        .find(|o| o.name.ends_with("to_q.bias"))
        .unwrap();
    assert_eq!(bias.dtype, Dtype::BF16);
}

/// Every policy file is one that this program reads, and the variants name only such files.
#[test]
fn the_configs_are_readable() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("configs");
    let text = std::fs::read_to_string(folder.join("variants.json")).unwrap();
    let variants: serde_json::Value = serde_json::from_str(&text).unwrap();
    let variants = variants["variants"].as_object().unwrap();
    assert_eq!(variants.len(), 10);
    for variant in variants.values() {
        let policy = variant["policy"].as_str().unwrap();
        let name = policy.strip_suffix(".json").unwrap();
        let json = std::fs::read_to_string(folder.join(policy)).unwrap();
        if let Some(calibration) = variant.get("calib") {
            assert!(folder.join(calibration.as_str().unwrap()).is_file());
        }
        let read = Policy::parse(name, &json).unwrap();
        assert_eq!(read, built_in(name), "{name}");
        assert!(read.unknown_keys.is_empty());
    }
}
