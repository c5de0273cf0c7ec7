//! Records, metadata, the older marker, and layers without any.

use super::*;

const FP8: &str = r#"{"format": "float8_e4m3fn"}"#;

#[test]
fn records_that_cannot_be_read() {
    // All zeros is what some quantizers put beside layers that they left alone.
    for (record, words) in [
        ("\0\0\0\0", "is empty"),
        ("nvfp4", "is not valid JSON"),
        (r#"{"weight_scale": 1}"#, "names no format"),
        (r#"{"format": 4}"#, "names no format"),
        ("\"nvfp4\"", "names no format"),
    ] {
        let mut tiny = Tiny::new();
        tiny.fp8(LAYER);
        tiny.record(LAYER, record);
        let name = format!("{LAYER}.comfy_quant");
        only(&tiny, &name, FaultKind::UnreadableRecord, words);
    }
    let mut tiny = Tiny::new();
    tiny.fp8(LAYER);
    let name = format!("{LAYER}.comfy_quant");
    tiny.put(&name, Dtype::F32, &[1], &[0; 4]);
    only(&tiny, &name, FaultKind::UnreadableRecord, "not U8 JSON");
}

#[test]
fn metadata_that_cannot_be_read() {
    for (text, words) in [
        ("{", "not JSON"),
        ("[]", "no `layers`"),
        (r#"{"format_version": "1.0"}"#, "no `layers`"),
    ] {
        let mut tiny = Tiny::new();
        let key = "_quantization_metadata";
        tiny.metadata.insert(key.to_owned(), text.to_owned());
        only(&tiny, key, FaultKind::UnreadableMetadata, words);
    }
}

/// Old documents show plain strings; ComfyUI wants objects.
#[test]
fn metadata_entries_that_are_strings() {
    let mut tiny = Tiny::new();
    tiny.scale(format!("{LAYER}.weight_scale"), 1.0);
    tiny.layers(json!({LAYER: "float8_e4m3fn"}));
    only(
        &tiny,
        LAYER,
        FaultKind::MetadataEntry,
        "an object with a `format` was expected",
    );
}

/// Both ways: prefixed names for a stripped file, stripped names for a prefixed one. What is meant is honoured.
#[test]
fn metadata_under_another_prefix() {
    let stripped = LAYER.strip_prefix("model.diffusion_model.").unwrap();
    for (in_file, in_metadata) in [(LAYER, stripped), (stripped, LAYER)] {
        let mut tiny = Tiny::new();
        tiny.tensors.retain(|name, _| name.starts_with("model."));
        tiny.scale(format!("{LAYER}.weight_scale"), 1.0);
        if in_file == stripped {
            tiny.rename("model.diffusion_model.", "");
        }
        tiny.layers(json!({in_metadata: {"format": "float8_e4m3fn"}}));
        only(&tiny, in_metadata, FaultKind::WrongPrefix, in_file);
        assert_eq!(tiny.report().quantized.float8_e4m3fn, 1);
    }
}

#[test]
fn metadata_of_another_file() {
    let mut tiny = Tiny::new();
    let layer = "model.diffusion_model.transformer_blocks.99.attn.to_q";
    tiny.layers(json!({layer: {"format": "nvfp4"}}));
    only(&tiny, layer, FaultKind::AbsentLayer, "convert again");
}

#[test]
fn record_and_metadata_disagree() {
    let mut tiny = Tiny::new();
    tiny.fp8(LAYER);
    tiny.layers(json!({LAYER: {"format": "nvfp4"}}));
    only(
        &tiny,
        &format!("{LAYER}.comfy_quant"),
        FaultKind::Disagreement,
        "the record says `float8_e4m3fn`, the metadata says `nvfp4`",
    );
}

/// The tiny model with the older marker and one scaled layer.
fn legacy(prefix: &str) -> Tiny {
    let mut tiny = Tiny::new();
    tiny.put(format!("{prefix}scaled_fp8"), Dtype::F8_E4M3, &[2], &[0; 2]);
    tiny.scale(format!("{LAYER}.scale_weight"), 1.0);
    tiny.scale(format!("{LAYER}.scale_input"), 1.0);
    tiny.bf16(format!("{LAYER}.bias"), &[128]);
    tiny
}

#[test]
fn the_older_marker_alone_is_sound() {
    let report = legacy("model.diffusion_model.").report();
    assert_eq!(kinds(&report), []);
    assert_eq!(report.quantized.float8_e4m3fn, 1);
}

#[test]
fn the_older_marker_beside_records() {
    let mut tiny = legacy("model.diffusion_model.");
    tiny.fp8(OTHER);
    tiny.scale(format!("{OTHER}.scale_weight"), 1.0);
    tiny.remove(&format!("{OTHER}.weight_scale"));
    let report = tiny.report();
    assert_eq!(
        kinds(&report),
        [
            ("model.diffusion_model.scaled_fp8", FaultKind::MixedMarkers),
            (
                format!("{OTHER}.scale_weight").as_str(),
                FaultKind::OldSpelling
            ),
        ]
    );
}

/// With metadata in the file ComfyUI does not look for the older marker at all.
#[test]
fn the_older_marker_beside_metadata() {
    let mut tiny = legacy("model.diffusion_model.");
    tiny.fp8(OTHER);
    tiny.layers(json!({OTHER: {"format": "float8_e4m3fn"}}));
    only(
        &tiny,
        LAYER,
        FaultKind::MixedMarkers,
        "does not read in a file with `_quantization_metadata`",
    );
}

#[test]
fn formats_that_are_not_known() {
    for (format, words) in [
        ("int3", "neither ComfyUI nor this program reads"),
        ("mxfp8", "only newer ComfyUI reads"),
    ] {
        let mut tiny = Tiny::new();
        tiny.record(LAYER, &format!(r#"{{"format": "{format}"}}"#));
        only(&tiny, LAYER, FaultKind::UnknownMarker, words);
    }
}

#[test]
fn a_record_without_its_weight() {
    let mut tiny = Tiny::new();
    let layer = "model.diffusion_model.transformer_blocks.1.attn.to_x";
    tiny.record(layer, r#"{"format": "nvfp4"}"#);
    only(&tiny, layer, FaultKind::RecordWithoutWeight, "no `");
}

#[test]
fn scales_without_their_weight() {
    for part in ["weight_scale", "weight_scale_2", "scale_input"] {
        let mut tiny = Tiny::new();
        let name = format!("model.diffusion_model.transformer_blocks.1.attn.to_x.{part}");
        tiny.scale(&name, 1.0);
        only(&tiny, &name, FaultKind::StrayCompanion, "there is no `");
    }
}

#[test]
fn weights_that_are_not_what_their_record_says() {
    let weight = format!("{LAYER}.weight");
    let mut fp8_as_nvfp4 = Tiny::new();
    fp8_as_nvfp4.record(LAYER, r#"{"format": "nvfp4"}"#);
    let mut nvfp4_as_fp8 = Tiny::new();
    nvfp4_as_fp8.nvfp4(LAYER);
    nvfp4_as_fp8.record(LAYER, FP8);
    let mut bf16_as_fp8 = Tiny::new();
    bf16_as_fp8.fp8(LAYER);
    bf16_as_fp8.bf16(&weight, &[128, 128]);
    for tiny in [fp8_as_nvfp4, nvfp4_as_fp8, bf16_as_fp8] {
        only(&tiny, &weight, FaultKind::WrongFormat, "its marker says");
    }
    // A norm is no matrix.
    let mut tiny = Tiny::new();
    let norm = "model.diffusion_model.transformer_blocks.1.attn.norm_q";
    tiny.record(norm, FP8);
    let weight = format!("{norm}.weight");
    only(&tiny, &weight, FaultKind::WrongFormat, "F8_E4M3 [64]");
}

/// ComfyUI ignores the scale of a layer that nothing marks.
#[test]
fn scales_without_a_record() {
    let weight = format!("{LAYER}.weight");
    for part in ["weight_scale", "scale_weight"] {
        let mut tiny = Tiny::new();
        tiny.scale(format!("{LAYER}.{part}"), 0.5);
        only(&tiny, &weight, FaultKind::MissingMarker, part);
    }
}

/// The form of LTX-2.5's NVFP4 file: every scale, no marker.
#[test]
fn packed_weights_without_a_record() {
    let mut tiny = Tiny::new();
    tiny.nvfp4(LAYER);
    tiny.remove(&format!("{LAYER}.comfy_quant"));
    let weight = format!("{LAYER}.weight");
    let kind = FaultKind::PackedWithoutRecord;
    only(&tiny, &weight, kind, "a plain matrix of half the width");
}

/// The width that the config tells is that of the numbers, not of the bytes.
#[test]
fn img_in_and_txt_in_as_nvfp4() {
    let mut tiny = Tiny::new();
    tiny.nvfp4("model.diffusion_model.txt_in");
    assert_eq!(kinds(&tiny.report()), []);
    tiny.nvfp4("model.diffusion_model.img_in");
    let img_in = "model.diffusion_model.img_in.weight";
    only(&tiny, img_in, FaultKind::ImgInNvfp4, "keep rule");
}

/// What some quantizers leave beside the layers that they keep (ComfyUI issues 15400 and 16472).
#[test]
fn empty_records() {
    let name = format!("{LAYER}.comfy_quant");
    for bytes in [&[][..], &[0; 29]] {
        let mut tiny = Tiny::new();
        tiny.put(name.clone(), Dtype::U8, &[bytes.len()], bytes);
        only(&tiny, &name, FaultKind::UnreadableRecord, "is empty");
    }
}

#[test]
fn the_older_marker_without_layers() {
    let name = "model.diffusion_model.scaled_fp8";
    let mut tiny = Tiny::new();
    tiny.put(name.to_owned(), Dtype::F8_E4M3, &[0], &[]);
    only(&tiny, name, FaultKind::IdleMarker, "renamed or lost");
}

/// ComfyUI's separate files have no prefix before the marker, as the published scaled text encoder has none.
#[test]
fn the_older_marker_of_a_separate_file() {
    let mut tiny = legacy("");
    tiny.tensors
        .retain(|name, _| name.starts_with("model.diffusion_model.") || name == "scaled_fp8");
    tiny.rename("model.diffusion_model.", "");
    let report = tiny.report();
    assert_eq!(kinds(&report), []);
    assert_eq!(report.quantized.float8_e4m3fn, 1);
}
