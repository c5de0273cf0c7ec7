//! Files and names.

use super::*;

const DIT: &str = "model.diffusion_model.";

/// The tiny model's bytes, changed.
fn bytes(change: impl FnOnce(&mut Vec<u8>)) -> Report {
    let mut bytes = std::fs::read(tiny_path()).unwrap();
    change(&mut bytes);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("changed.safetensors");
    std::fs::write(&path, &bytes).unwrap();
    inspect(&path).unwrap()
}

#[test]
fn truncated_files_are_looked_at_as_far_as_they_go() {
    let report = bytes(|bytes| {
        bytes.pop();
    });
    assert_eq!(kinds(&report), [("", FaultKind::Truncated)]);
    assert!(
        report.faults[0].message.contains("1 tensors are cut"),
        "{}",
        report.faults[0].message
    );
    assert_eq!(report.components.len(), 3);
}

#[test]
fn bytes_after_the_last_tensor_are_no_truncation() {
    let end = std::fs::metadata(tiny_path()).unwrap().len();
    let report = bytes(|bytes| bytes.extend([0; 17]));
    assert_eq!(kinds(&report), [("", FaultKind::TrailingBytes)]);
    let message = &report.faults[0].message;
    assert!(message.contains("17 bytes follow"), "{message}");
    assert!(message.contains(&format!("truncate -s {end}")), "{message}");
}

/// What is wrong besides the trailing bytes is told, unlike what a cut file lacks.
#[test]
fn a_file_with_trailing_bytes_is_checked_on() {
    let mut tiny = Tiny::new();
    tiny.remove(&format!("{LAYER}.bias"));
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("long.safetensors");
    tiny.write(&path);
    let mut bytes = std::fs::read(&path).unwrap();
    bytes.push(0);
    std::fs::write(&path, &bytes).unwrap();
    let missing = ("transformer_blocks.1.attn.to_q.bias", FaultKind::Missing);
    let report = inspect(&path).unwrap();
    assert_eq!(kinds(&report), [("", FaultKind::TrailingBytes), missing]);
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

#[test]
fn missing_misshapen_and_unknown_tensors() {
    let mut tiny = Tiny::new();
    tiny.remove(&format!("{LAYER}.bias"));
    let norm = "model.diffusion_model.transformer_blocks.2.attn.norm_k.weight";
    tiny.put(norm, Dtype::F8_E4M3, &[8], &[0x38; 8]);
    tiny.put("vae.decoder.extra.weight", Dtype::F32, &[1], &[0; 4]);
    tiny.put("first_stage_model.x", Dtype::F32, &[1], &[0; 4]);
    assert_eq!(
        kinds(&tiny.report()),
        [
            ("first_stage_model.x", FaultKind::Unknown),
            ("transformer_blocks.1.attn.to_q.bias", FaultKind::Missing),
            (norm, FaultKind::WrongShape),
            ("vae.decoder.extra.weight", FaultKind::Unknown),
        ]
    );
}

#[test]
fn sizes_that_cannot_be_told() {
    let mut tiny = Tiny::new();
    let img_in = format!("{DIT}img_in.weight");
    tiny.remove(&img_in);
    only(&tiny, "", FaultKind::Config, "img_in.weight");
}

#[test]
fn one_tensor_under_two_names() {
    let mut tiny = Tiny::new();
    let (dtype, shape, bytes) = tiny.tensors[&format!("{LAYER}.weight")].clone();
    let twin = LAYER.strip_prefix(DIT).unwrap();
    tiny.put(format!("{twin}.weight"), dtype, &shape, &bytes);
    only(
        &tiny,
        &format!("{twin}.weight"),
        FaultKind::DuplicateTensor,
        &format!("the same tensor as `{LAYER}.weight`"),
    );
}

/// The layout of the original pipeline: ComfyUI's checkpoint loader then finds no CLIP and no VAE.
#[test]
fn a_transformer_that_lost_its_prefix() {
    let mut tiny = Tiny::new();
    tiny.rename(DIT, "");
    only(
        &tiny,
        "img_in.bias",
        FaultKind::StrippedPrefix,
        "finds no model config and loads no CLIP and no VAE",
    );
}

#[test]
fn a_text_encoder_and_a_vae_that_lost_their_prefixes() {
    let mut tiny = Tiny::new();
    tiny.rename("text_encoders.qwen25_7b.transformer.", "");
    tiny.rename("text_encoders.qwen25_7b.", "");
    tiny.rename("vae.", "");
    let report = tiny.report();
    assert_eq!(
        kinds(&report),
        [
            ("logit_scale", FaultKind::StrippedPrefix),
            ("decoder.conv1.bias", FaultKind::StrippedPrefix),
        ]
    );
    assert!(report.faults[0].message.contains("loads no CLIP;"));
}

#[test]
fn nothing_has_a_prefix() {
    let mut tiny = Tiny::new();
    tiny.rename(DIT, "");
    tiny.rename("text_encoders.qwen25_7b.transformer.", "");
    tiny.rename("text_encoders.qwen25_7b.", "");
    tiny.rename("vae.", "");
    assert_eq!(kinds(&tiny.report()), []);
}

#[test]
fn tensors_of_other_quantizations() {
    for name in [
        "weight_scale_inv",
        "weight_packed",
        "weight_global_scale",
        "weight.absmax",
        "qweight",
        "wscales",
    ] {
        let mut tiny = Tiny::new();
        let name = format!("{LAYER}.{name}");
        tiny.put(&name, Dtype::F32, &[1, 1], &[0; 4]);
        only(
            &tiny,
            &name,
            FaultKind::ForeignQuantization,
            "convert the original",
        );
    }
    let mut tiny = Tiny::new();
    tiny.put("blocks.0.qkv.qweight", Dtype::F32, &[1, 1], &[0; 4]);
    let kind = FaultKind::ForeignQuantization;
    assert_eq!(kinds(&tiny.report()), [("blocks.0.qkv.qweight", kind)]);
}
