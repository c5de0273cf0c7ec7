//! Scales of marked layers, norms and biases.

use super::*;

fn fp8() -> Tiny {
    let mut tiny = Tiny::new();
    tiny.fp8(LAYER);
    tiny
}

fn nvfp4() -> Tiny {
    let mut tiny = Tiny::new();
    tiny.nvfp4(LAYER);
    tiny
}

fn named(part: &str) -> String {
    format!("{LAYER}.{part}")
}

#[test]
fn numbers_that_are_no_scales() {
    for (value, kind) in [
        (f32::NAN, FaultKind::NanScale),
        (f32::INFINITY, FaultKind::InfiniteScale),
        (f32::NEG_INFINITY, FaultKind::InfiniteScale),
        (-0.5, FaultKind::NegativeScale),
        (0.0, FaultKind::ZeroScale),
        (-0.0, FaultKind::ZeroScale),
    ] {
        for (mut tiny, part) in [
            (fp8(), "weight_scale"),
            (fp8(), "input_scale"),
            (nvfp4(), "weight_scale_2"),
        ] {
            tiny.scale(named(part), value);
            only(&tiny, &named(part), kind, "must be a positive number");
        }
    }
}

/// Rows, blocks, or nothing at all.
#[test]
fn scales_that_are_not_one_number() {
    for (shape, words) in [
        (&[128, 1][..], "scales for rows or blocks"),
        (&[0], "it is empty"),
    ] {
        let mut tiny = fp8();
        let n: usize = shape.iter().product();
        tiny.put(named("weight_scale"), Dtype::F32, shape, &vec![0; 4 * n]);
        let name = named("weight_scale");
        only(&tiny, &name, FaultKind::WrongShape, words);
    }
    let mut tiny = fp8();
    tiny.put(named("weight_scale"), Dtype::I64, &[1], &[1; 8]);
    only(&tiny, &named("weight_scale"), FaultKind::WrongFormat, "I64");
    let mut tiny = fp8();
    tiny.put(named("weight_scale"), Dtype::F32, &[1], &1f32.to_le_bytes());
    assert_eq!(kinds(&tiny.report()), []);
}

#[test]
fn missing_scales() {
    let mut tiny = fp8();
    tiny.remove(&named("weight_scale"));
    let name = named("weight_scale");
    only(
        &tiny,
        &name,
        FaultKind::MissingWeightScale,
        "--assume-unscaled",
    );

    let mut tiny = nvfp4();
    tiny.remove(&named("weight_scale_2"));
    let name = named("weight_scale_2");
    only(&tiny, &name, FaultKind::MissingWeightScale2, "convert");

    let mut tiny = nvfp4();
    tiny.remove(&named("weight_scale"));
    let name = named("weight_scale");
    only(&tiny, &name, FaultKind::MissingBlockScales, "block scales");
}

#[test]
fn two_spellings_of_a_scale() {
    for (older, part) in [
        ("scale_weight", "weight_scale"),
        ("scale_input", "input_scale"),
    ] {
        let mut tiny = fp8();
        tiny.scale(named(older), 1.0);
        only(&tiny, &named(older), FaultKind::TwoSpellings, part);
    }
}

/// ComfyUI renames `scale_weight` only where `scaled_fp8` stands.
#[test]
fn the_older_spelling_beside_a_record() {
    for (older, part) in [
        ("scale_weight", "weight_scale"),
        ("scale_input", "input_scale"),
    ] {
        let mut tiny = fp8();
        tiny.scale(named(older), 1.0);
        tiny.remove(&named(part));
        only(&tiny, &named(older), FaultKind::OldSpelling, part);
    }
}

/// compressed-tensors' scales divide: 2688 / amax instead of amax / 2688.
#[test]
fn reciprocals_of_scales() {
    let mut tiny = fp8();
    tiny.scale(named("weight_scale"), 448.0 / 0.4);
    let name = named("weight_scale");
    only(&tiny, &name, FaultKind::InvertedScale, "reciprocal");
    let mut tiny = nvfp4();
    let scales = tiny.tensors.get_mut(&named("weight_scale")).unwrap();
    scales.2[0] = 0x7e;
    tiny.scale(named("weight_scale_2"), 2688.0 / 0.4);
    let name = named("weight_scale_2");
    only(&tiny, &name, FaultKind::InvertedScale, "reciprocal");
}

#[test]
fn block_scales_of_a_wrong_shape_or_type() {
    let name = named("weight_scale");
    for (dtype, shape, words) in [
        (Dtype::F8_E4M3, [64, 16], "E4M3 [128, 8] was expected"),
        (Dtype::BF16, [128, 8], "BF16"),
        (Dtype::F8_E5M2, [128, 8], "F8_E5M2"),
    ] {
        let mut tiny = nvfp4();
        let bytes = vec![0x38; shape[0] * shape[1] * dtype.bitsize() / 8];
        tiny.put(&name, dtype, &shape, &bytes);
        only(&tiny, &name, FaultKind::BlockScaleLayout, words);
    }
    // Rows as ModelOpt exports them; told from tiles where those are padded.
    let mut tiny = Tiny::new();
    tiny.nvfp4("model.diffusion_model.proj_out");
    let name = "model.diffusion_model.proj_out.weight_scale";
    tiny.put(name, Dtype::F8_E4M3, &[64, 8], &[0x38; 512]);
    only(
        &tiny,
        name,
        FaultKind::BlockScaleLayout,
        "not in cuBLAS' tiles",
    );
    // The same bytes as U8 are read by ComfyUI too.
    let mut tiny = nvfp4();
    tiny.tensors.get_mut(&named("weight_scale")).unwrap().0 = Dtype::U8;
    assert_eq!(kinds(&tiny.report()), []);
}

#[test]
fn block_scales_that_are_no_scales() {
    for (code, kind, words) in [
        (0x7f, FaultKind::NanScale, "block scale 7 is NaN"),
        (0xff, FaultKind::NanScale, "block scale 7 is NaN"),
        (0xb8, FaultKind::NegativeScale, "block scale 7 is negative"),
    ] {
        let mut tiny = nvfp4();
        tiny.tensors.get_mut(&named("weight_scale")).unwrap().2[7] = code;
        only(&tiny, &named("weight_scale"), kind, words);
    }
    // A block of zeros.
    for zero in [0, 0x80] {
        let mut tiny = nvfp4();
        tiny.tensors.get_mut(&named("weight_scale")).unwrap().2[7] = zero;
        assert_eq!(kinds(&tiny.report()), []);
    }
}

#[test]
fn block_scales_that_are_all_zero() {
    let mut tiny = nvfp4();
    let scales = tiny.tensors.get_mut(&named("weight_scale")).unwrap();
    scales.2.fill(0);
    let name = named("weight_scale");
    only(&tiny, &name, FaultKind::ZeroBlockScales, "does nothing");
    // A weight of zeros, of both signs.
    let weight = tiny.tensors.get_mut(&named("weight")).unwrap();
    weight.2.fill(0x80);
    assert_eq!(kinds(&tiny.report()), []);
}

/// `proj_out` of the tiny model has 64 rows: half of a tile is padding.
#[test]
fn swizzle_padding_must_be_zero() {
    let layer = "model.diffusion_model.proj_out";
    let mut tiny = Tiny::new();
    tiny.nvfp4(layer);
    assert_eq!(kinds(&tiny.report()), []);
    let name = format!("{layer}.weight_scale");
    let scales = tiny.tensors.get_mut(&name).unwrap();
    scales.2[swizzle::offset(127, 0, 8)] = 1;
    only(&tiny, &name, FaultKind::SwizzlePadding, "row 127, column 0");
}

/// The tiny model with vision MLPs of 60 instead of 128, as the full-size ones of 3420 are no multiples of 16.
fn odd_vision() -> Tiny {
    let mut tiny = Tiny::new();
    for block in 0..2 {
        let mlp = format!("text_encoders.qwen25_7b.transformer.visual.blocks.{block}.mlp");
        for part in ["gate_proj", "up_proj"] {
            tiny.bf16(format!("{mlp}.{part}.weight"), &[60, 64]);
            tiny.bf16(format!("{mlp}.{part}.bias"), &[60]);
        }
        tiny.bf16(format!("{mlp}.down_proj.weight"), &[64, 60]);
    }
    assert_eq!(kinds(&tiny.report()), []);
    tiny
}

const VISION: &str = "text_encoders.qwen25_7b.transformer.visual.blocks.1.mlp";

#[test]
fn nvfp4_needs_whole_blocks() {
    let weight = format!("{VISION}.down_proj.weight");
    let mut tiny = odd_vision();
    tiny.nvfp4_of(&format!("{VISION}.down_proj"), 64, 60);
    only(&tiny, &weight, FaultKind::UnalignedNvfp4, "keep rule");
    let mut tiny = odd_vision();
    tiny.nvfp4_of(&format!("{VISION}.up_proj"), 60, 64);
    let weight = format!("{VISION}.up_proj.weight");
    only(&tiny, &weight, FaultKind::UnalignedNvfp4, "60 rows");
}

#[test]
fn padded_nvfp4_works_but_is_no_gain() {
    let mut tiny = odd_vision();
    tiny.nvfp4_of(&format!("{VISION}.down_proj"), 64, 64);
    let report = tiny.report();
    assert_eq!(kinds(&report), []);
    let weight = format!("{VISION}.down_proj.weight");
    assert!(
        advice(&report).contains(&(&weight, FaultKind::PaddedNvfp4)),
        "{report:?}"
    );
}

#[test]
fn norms_and_biases_must_be_finite() {
    let norm = "model.diffusion_model.transformer_blocks.1.attn.norm_q.weight";
    for (dtype, bytes) in [
        (Dtype::F8_E4M3, &[0x7f][..]),
        (Dtype::F8_E4M3, &[0xff]),
        (Dtype::BF16, &[0x80, 0x7f]),
        (Dtype::BF16, &[0xc0, 0xff]),
        (Dtype::F16, &[0, 0x7c]),
        (Dtype::F32, &[0, 0, 0x80, 0xff]),
    ] {
        let mut tiny = Tiny::new();
        let mut all = vec![0; 64 * bytes.len()];
        all[9 * bytes.len()..10 * bytes.len()].copy_from_slice(bytes);
        tiny.put(norm, dtype, &[64], &all);
        only(&tiny, norm, FaultKind::NotFinite, "number 9 is NaN");
    }
    let gamma = "vae.decoder.middle.0.residual.0.gamma";
    let mut tiny = Tiny::new();
    let tensor = tiny.tensors.get_mut(gamma).unwrap();
    tensor.2[..2].copy_from_slice(&[0xc0, 0x7f]);
    only(&tiny, gamma, FaultKind::NotFinite, "number 0 is NaN");
}
