//! Files that a model cannot be made of: each is refused, and the message names the file, the tensor where
//! there is one, and what to do.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use candle_core::Device;
use qwen_nvfp4::checkpoint::{Checkpoint, ModelSource};
use qwen_nvfp4::model::config::TransformerConfig;
use qwen_nvfp4::model::transformer::QwenImageTransformer;
use safetensors::tensor::{Dtype, TensorView};
use serde_json::{Value, json};
use tempfile::TempDir;

fn tiny() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("models/tiny/qwen-tiny-aio-fp8.safetensors")
}

fn open(path: &Path) -> Result<Checkpoint, String> {
    let source = ModelSource::Files {
        model: path.to_owned(),
        text_encoder: None,
        vae: None,
    };
    Checkpoint::open(&source, &Device::Cpu).map_err(|e| e.to_string())
}

/// Opening `path` must fail with a message that holds all of `parts` and the file's name.
fn refused(path: &Path, parts: &[&str]) {
    let Err(message) = open(path) else {
        panic!("{} was opened", path.display());
    };
    let name = path.file_name().unwrap().to_str().unwrap();
    for part in parts.iter().chain([&name]) {
        assert!(message.contains(part), "`{part}` is not in: {message}");
    }
}

/// A file `name` with these bytes.
fn file(dir: &TempDir, name: &str, bytes: &[u8]) -> PathBuf {
    let path = dir.path().join(name);
    fs::write(&path, bytes).unwrap();
    path
}

/// A safetensors file with this header and `data` bytes of zeros.
fn with_header(dir: &TempDir, header: &str, data: usize) -> PathBuf {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.resize(bytes.len() + data, 0);
    file(dir, "made.safetensors", &bytes)
}

/// Part of the tiny model: the tensors that `keep` renames to something.
fn part(dir: &TempDir, name: &str, keep: impl Fn(&str) -> Option<String>) -> PathBuf {
    let bytes = fs::read(tiny()).unwrap();
    let (_, header) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
    let whole = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let views: Vec<(String, TensorView)> = whole
        .iter()
        .filter_map(|(name, view)| Some((keep(name)?, view)))
        .collect();
    let path = dir.path().join(name);
    safetensors::serialize_to_file(views, header.metadata().clone(), &path).unwrap();
    path
}

#[test]
fn files_of_other_kinds() {
    let dir = TempDir::new().unwrap();
    refused(
        &dir.path().join("nowhere.safetensors"),
        &["cannot read", "No such file"],
    );
    refused(
        &file(&dir, "empty.safetensors", b""),
        &["it is empty", "download or copy it again"],
    );
    refused(
        &file(&dir, "short.safetensors", b"abc"),
        &["3 bytes", "again"],
    );
    refused(
        &file(&dir, "a.png", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"),
        &["is a PNG picture", "`.safetensors`"],
    );
    refused(
        &file(&dir, "a.ckpt", b"PK\x03\x04archive/data.pkl"),
        &["zip archive", "convert"],
    );
    refused(
        &file(&dir, "a.pt", b"\x80\x02}q\x00X\x05\x00\x00\x00"),
        &["Python pickle", "convert"],
    );
    refused(
        &file(&dir, "a.gguf", b"GGUF\x03\0\0\0\0\0\0\0"),
        &["GGUF", "safetensors"],
    );
    refused(
        &file(&dir, "a.txt", b"a red star\n"),
        &["is text", "`.safetensors`"],
    );
    refused(
        &file(&dir, "a.html", b"<!DOCTYPE html><html>"),
        &["web page", "download it again"],
    );
    refused(
        &file(
            &dir,
            "lfs.safetensors",
            b"version https://git-lfs.github.com/spec/v1\n",
        ),
        &["git lfs pull"],
    );
    refused(
        &file(&dir, "noext", b"{\"prompt\": {}}"),
        &["is a JSON file", "folder"],
    );
    refused(
        &file(&dir, "a.json", b"{\"prompt\": {}}"),
        &["weight_map", "index"],
    );
    refused(
        &file(&dir, "b.json", b"[1, 2"),
        &["not valid JSON", "again"],
    );
    fs::create_dir(dir.path().join("folder")).unwrap();
    refused(
        &dir.path().join("folder"),
        &["model_index.json", "diffusers folder"],
    );
}

#[test]
fn damaged_headers() {
    let dir = TempDir::new().unwrap();
    let whole = fs::read(tiny()).unwrap();
    let cut = file(&dir, "cut.safetensors", &whole[..whole.len() / 2]);
    refused(&cut, &["tensors are cut, the first is `", "again"]);
    let long = file(&dir, "long.safetensors", &[&whole[..], &[0]].concat());
    refused(&long, &["header describes", "again"]);
    refused(
        &file(&dir, "header.safetensors", &whole[..100]),
        &["header is", "92 follow"],
    );
    refused(
        &file(&dir, "huge.safetensors", &[0xff; 64]),
        &["18446744073709551615 bytes", "again"],
    );
    for (header, parts) in [
        ("{\"img_in.weight\":{}}", ["img_in.weight", "dtype"]),
        (
            "{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,4]}}",
            ["`a`", "0..4"],
        ),
        (
            "{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[4,8]}}",
            ["`a`", "4..8"],
        ),
        (
            "{\"a\":{\"dtype\":\"Q9\",\"shape\":[1],\"data_offsets\":[0,4]}}",
            ["`a`", "Q9"],
        ),
        (
            "{\"a\":{\"dtype\":\"F32\",\"shape\":[-1],\"data_offsets\":[0,4]}}",
            ["`a`", "-1"],
        ),
        (
            "{\"a\":{\"dtype\":\"F32\",\"shape\":[4294967296,4294967296],\"data_offsets\":[0,4]}}",
            ["`a`", "no size"],
        ),
        (
            "{\"a\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]},\"a\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]}}",
            ["`a`", "twice"],
        ),
    ] {
        refused(&with_header(&dir, header, 4), &parts);
    }
}

#[test]
fn other_models_and_adapters() {
    let dir = TempDir::new().unwrap();
    let one = |name: &str| {
        format!("{{\"{name}\":{{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}}}")
    };
    for name in [
        "transformer_blocks.0.attn.to_q.lora_A.weight",
        "diffusion_model.transformer_blocks.0.attn.to_q.lora_down.weight",
        "lora_unet_transformer_blocks_0_attn_to_q.lora_up.weight",
    ] {
        refused(
            &with_header(&dir, &one(name), 4),
            &["is a LoRA", name, "--lora"],
        );
    }
    let flux = "double_blocks.0.img_attn.qkv.weight";
    refused(
        &with_header(&dir, &one(flux), 4),
        &["no transformer", flux, "--model"],
    );
    let sd = "model.diffusion_model.input_blocks.0.0.weight";
    refused(
        &with_header(&dir, &one(sd), 4),
        &["not Qwen-Image's", sd, "txt_norm.weight"],
    );
    let folder = dir.path().join("flux");
    fs::create_dir(&folder).unwrap();
    fs::write(
        folder.join("model_index.json"),
        "{\"_class_name\": \"FluxPipeline\"}",
    )
    .unwrap();
    refused(&folder, &["FluxPipeline", "QwenImagePipeline"]);
}

#[test]
fn parts_of_a_model() {
    let dir = TempDir::new().unwrap();
    let strip =
        |prefix: &'static str| move |name: &str| name.strip_prefix(prefix).map(str::to_owned);
    let transformer = part(&dir, "dit.safetensors", strip("model.diffusion_model."));
    let encoder = part(
        &dir,
        "te.safetensors",
        strip("text_encoders.qwen25_7b.transformer."),
    );
    let vae = part(&dir, "vae.safetensors", strip("vae."));
    refused(
        &transformer,
        &["no text encoder", "--text-encoder FILE", "--vae FILE"],
    );
    refused(
        &encoder,
        &["no transformer", "holds only a text encoder", "--model"],
    );
    refused(&vae, &["no transformer", "holds only a VAE", "--model"]);

    // The three separate files are the all-in-one.
    let source = ModelSource::Files {
        model: transformer.clone(),
        text_encoder: Some(encoder.clone()),
        vae: Some(vae.clone()),
    };
    let parts = Checkpoint::open(&source, &Device::Cpu).unwrap();
    let whole = open(&tiny()).unwrap();
    for (a, b) in [
        (&parts.transformer, &whole.transformer),
        (&parts.text_encoder, &whole.text_encoder),
        (&parts.vae, &whole.vae),
    ] {
        let names = |w: &qwen_nvfp4::checkpoint::Weights| -> Vec<String> {
            w.names()
                .filter(|n| *n != "logit_scale")
                .map(str::to_owned)
                .collect()
        };
        assert_eq!(names(a), names(b));
        for name in names(a) {
            assert_eq!(
                a.get(&name).unwrap().bytes(),
                b.get(&name).unwrap().bytes(),
                "{name}"
            );
        }
    }
    // Swapped flags.
    let source = ModelSource::Files {
        model: transformer,
        text_encoder: Some(vae),
        vae: Some(encoder),
    };
    let message = Checkpoint::open(&source, &Device::Cpu)
        .err()
        .unwrap()
        .to_string();
    assert!(
        message.contains("vae.safetensors holds no text encoder"),
        "{message}"
    );
}

#[test]
fn a_tensor_of_another_shape_or_gone() {
    let dir = TempDir::new().unwrap();
    let layer = "model.diffusion_model.transformer_blocks.3.attn.to_k.bias";
    let gone = part(&dir, "gone.safetensors", |name| {
        (name != layer).then(|| name.to_owned())
    });
    let swapped = part(&dir, "swapped.safetensors", |name| {
        Some(match name {
            _ if name == layer => {
                "model.diffusion_model.transformer_blocks.3.attn.norm_q.weight".to_owned()
            }
            "model.diffusion_model.transformer_blocks.3.attn.norm_q.weight" => layer.to_owned(),
            _ => name.to_owned(),
        })
    });
    for (path, parts) in [
        (
            gone,
            [
                "gone.safetensors",
                "`transformer_blocks.3.attn.to_k.bias`",
                "inspect",
            ],
        ),
        (
            swapped,
            ["swapped.safetensors", "to_k.bias", "the model needs [128]"],
        ),
    ] {
        let checkpoint = open(&path).unwrap();
        let config = TransformerConfig::detect(
            &checkpoint.transformer,
            checkpoint.configs.transformer.as_ref(),
        )
        .unwrap();
        let Err(error) = QwenImageTransformer::load(&checkpoint.transformer, &config) else {
            panic!("{} was loaded", path.display());
        };
        for part in parts {
            assert!(
                error.to_string().contains(part),
                "`{part}` is not in: {error}"
            );
        }
    }
}

#[test]
fn two_checkpoints_in_one() {
    let dir = TempDir::new().unwrap();
    let tensor = |bytes| TensorView::new(Dtype::F32, vec![1], bytes).unwrap();
    let views = [
        ("img_in.bias", tensor(&[0; 4])),
        ("model.diffusion_model.img_in.bias", tensor(&[0; 4])),
    ];
    let path = dir.path().join("both.safetensors");
    safetensors::serialize_to_file(views, None::<HashMap<String, String>>, &path).unwrap();
    refused(
        &path,
        &[
            "`img_in.bias`",
            "`model.diffusion_model.img_in.bias`",
            "mixed up",
        ],
    );
}

#[test]
fn shard_indices() {
    let dir = TempDir::new().unwrap();
    let index = |map: Value| {
        let json = json!({"metadata": {}, "weight_map": map}).to_string();
        file(&dir, "x.safetensors.index.json", json.as_bytes())
    };
    let whole = dir.path().join("one.safetensors");
    fs::copy(tiny(), &whole).unwrap();
    assert!(open(&index(json!({"vae.conv1.bias": "one.safetensors"}))).is_ok());
    refused(
        &index(json!({"vae.conv9.bias": "one.safetensors"})),
        &["`vae.conv9.bias`", "one.safetensors"],
    );
    refused(
        &index(json!({"vae.conv1.bias": "../one.safetensors"})),
        &["outside of its folder"],
    );
    refused(&index(json!({"vae.conv1.bias": 7})), &["`vae.conv1.bias`"]);
    let message = open(&index(json!({"vae.conv1.bias": "two.safetensors"})))
        .err()
        .unwrap();
    assert!(
        message.contains("two.safetensors") && message.contains("cannot read"),
        "{message}"
    );
}
