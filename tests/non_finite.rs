//! A weight that is no number never becomes a black picture: the layer, the moment and the file are named.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::fs;
use std::path::Path;

use common::cli::{PROMPT, files, run, stderr, tiny, v3};
use safetensors::{Dtype, SafeTensors};
use tempfile::TempDir;

const DIT: &str = "model.diffusion_model";
const ENCODER: &str = "text_encoders.qwen25_7b.transformer.model";

/// `file` as `damaged.safetensors`, the bytes of `tensor` changed.
fn change(dir: &TempDir, file: &Path, tensor: &str, change: impl Fn(Dtype, &mut [u8])) {
    let mut bytes = fs::read(file).unwrap();
    let (header, metadata) = SafeTensors::read_metadata(&bytes).unwrap();
    let info = metadata.info(tensor).expect(tensor);
    let (begin, end) = info.data_offsets;
    change(info.dtype, &mut bytes[8 + header..][begin..end]);
    fs::write(dir.path().join("damaged.safetensors"), bytes).unwrap();
}

/// The same with NaN in every number.
fn damage(dir: &TempDir, file: &Path, tensor: &str) {
    change(dir, file, tensor, |dtype, data| match dtype {
        Dtype::F8_E4M3 => data.fill(0x7f),
        Dtype::BF16 | Dtype::F16 | Dtype::F32 => data.fill(0xff),
        other => panic!("{other:?}"),
    });
}

/// The same with +Inf in the second of its BF16 numbers.
fn make_infinite(dir: &TempDir, file: &Path, tensor: &str) {
    change(dir, file, tensor, |dtype, data| {
        assert_eq!(dtype, Dtype::BF16);
        data[2..4].copy_from_slice(&0x7f80u16.to_le_bytes());
    });
}

/// `damaged.safetensors` does not draw, says all of `parts`, and leaves nothing behind.
fn refuses(dir: &TempDir, tensor: &str, parts: &[&str]) {
    let before = files(dir.path());
    let line = ["generate", PROMPT, "--model", "damaged.safetensors"];
    let output = run(dir, &line);
    assert_eq!(output.status.code(), Some(1), "{tensor}");
    let message = stderr(&output);
    for part in parts {
        assert!(message.contains(part), "{tensor}: {message}");
    }
    assert_eq!(files(dir.path()), before, "{tensor}");
}

#[test]
fn the_layer_that_gave_it_is_named() {
    let dir = TempDir::new().unwrap();
    for (tensor, during, layer) in [
        (
            format!("{DIT}.transformer_blocks.5.img_mlp.net.0.proj.weight"),
            "step 1",
            "the output of `transformer_blocks.5.img_mlp.net.0.proj`",
        ),
        (
            format!("{DIT}.proj_out.bias"),
            "step 1",
            "the output of `proj_out`",
        ),
        // A norm is between layers: what comes out of it comes in to the next.
        (
            format!("{DIT}.transformer_blocks.2.attn.norm_added_k.weight"),
            "step 1",
            "what comes in to `transformer_blocks.2.attn.to_out.0`",
        ),
        (
            format!("{ENCODER}.layers.1.mlp.up_proj.weight"),
            "encoding the prompt",
            "the output of `model.layers.1.mlp.up_proj`",
        ),
        (
            format!("{ENCODER}.embed_tokens.weight"),
            "encoding the prompt",
            "the output of `model.embed_tokens`",
        ),
        (
            format!("{ENCODER}.norm.weight"),
            "encoding the prompt",
            "the output of `model.norm`",
        ),
        (
            "vae.decoder.middle.0.residual.6.weight".to_owned(),
            "decoding",
            "the output of `decoder.mid_block.resnets.0.conv2`",
        ),
        (
            "vae.decoder.head.2.bias".to_owned(),
            "decoding",
            "the output of `decoder.conv_out`",
        ),
        (
            "vae.conv2.weight".to_owned(),
            "decoding",
            "the output of `post_quant_conv`",
        ),
    ] {
        damage(&dir, &tiny(), &tensor);
        let place = format!("damaged.safetensors: {during}: {layer} is the first");
        let next = "inspect --deep damaged.safetensors";
        refuses(&dir, &tensor, &[&place, next]);
        assert_eq!(files(dir.path()), ["damaged.safetensors"], "{tensor}");

        // The next step leads to the tensor.
        let output = run(&dir, &["inspect", "--deep", "damaged.safetensors"]);
        assert_eq!(output.status.code(), Some(3), "{tensor}");
        let report = String::from_utf8(output.stdout).unwrap();
        assert!(report.contains(&tensor), "{tensor}: {report}");
    }
}

/// Where activations are quantized as well: codes have no infinities and E2M1 no NaN, so that one must be seen before.
#[test]
fn quantized_activations_hide_none() {
    let dir = TempDir::new().unwrap();
    let v3 = v3(&dir);
    let blocks = format!("{DIT}.transformer_blocks");
    for (tensor, is_nan, layer) in [
        // FP8 by FP8.
        (
            format!("{blocks}.5.txt_mlp.net.0.proj.weight"),
            true,
            "the output of `transformer_blocks.5.txt_mlp.net.0.proj`",
        ),
        (
            format!("{blocks}.5.img_mod.1.weight"),
            true,
            "the output of `transformer_blocks.5.img_mod.1`",
        ),
        // What an NVFP4 layer gives is refused by the next that quantizes it; the first is named.
        (
            format!("{blocks}.3.attn.to_out.0.bias"),
            true,
            "the output of `transformer_blocks.3.attn.to_out.0`",
        ),
        (
            format!("{blocks}.3.img_mlp.net.0.proj.bias"),
            false,
            "the output of `transformer_blocks.3.img_mlp.net.0.proj`",
        ),
        // A norm is between layers: it is NVFP4's quantizer that meets its numbers,
        (
            format!("{blocks}.2.attn.norm_added_k.weight"),
            true,
            "what comes in to `transformer_blocks.2.attn.to_out.0`",
        ),
        // and that of FP8, which clamps at 448 what is finite.
        (
            format!("{DIT}.txt_norm.weight"),
            false,
            "what comes in to `txt_in`",
        ),
    ] {
        match is_nan {
            true => damage(&dir, &v3, &tensor),
            false => make_infinite(&dir, &v3, &tensor),
        }
        let place = format!("damaged.safetensors: step 1: {layer} is the first");
        let next = "inspect --deep damaged.safetensors";
        refuses(&dir, &tensor, &[&place, next]);
        let output = run(&dir, &["inspect", "--deep", "damaged.safetensors"]);
        assert_eq!(output.status.code(), Some(3), "{tensor}");
        let report = String::from_utf8(output.stdout).unwrap();
        assert!(report.contains(&tensor), "{tensor}: {report}");
    }
    // Scales are looked at before anything runs.
    let layer = "transformer_blocks.5.attn.to_q";
    for part in ["weight_scale", "weight_scale_2"] {
        let tensor = format!("{DIT}.{layer}.{part}");
        damage(&dir, &v3, &tensor);
        refuses(&dir, &tensor, &["damaged.safetensors", layer, "NaN"]);
    }
}

/// Numbers that are finite and too large: no weight is to blame.
#[test]
fn latents_that_are_too_large_are_named() {
    let dir = TempDir::new().unwrap();
    let bytes = 1e38f32.to_le_bytes().repeat(16 * 8 * 8);
    let view = safetensors::tensor::TensorView::new(Dtype::F32, vec![1, 16, 8, 8], &bytes);
    let path = dir.path().join("large.safetensors");
    safetensors::serialize_to_file([("latents", view.unwrap())], None, &path).unwrap();
    let line = ["generate", PROMPT, "--latents", "large.safetensors"];
    let output = run(&dir, &line);
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    for part in ["step 1", "inspect --deep tiny", "--latents"] {
        assert!(stderr(&output).contains(part), "{}", stderr(&output));
    }
}

/// The model's file is not to blame.
#[test]
fn an_adapter_that_is_damaged_is_named() {
    let dir = TempDir::new().unwrap();
    let lora = tiny().with_file_name("qwen-tiny-palette-lora.safetensors");
    let tensor = "transformer_blocks.0.attn.add_k_proj.lora_A.weight";
    damage(&dir, &lora, tensor);
    let output = run(&dir, &["generate", PROMPT, "--lora", "damaged.safetensors"]);
    assert_eq!(output.status.code(), Some(1));
    for part in ["--lora: damaged.safetensors", tensor, "get the LoRA again"] {
        assert!(stderr(&output).contains(part), "{}", stderr(&output));
    }
}
