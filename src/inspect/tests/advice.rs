//! What is no fault.

use super::*;

#[test]
fn fp8_linears_without_a_record_beside_others() {
    let mut tiny = Tiny::new();
    tiny.nvfp4(LAYER);
    let report = tiny.report();
    assert_eq!(kinds(&report), []);
    let first = "model.diffusion_model.img_in.weight";
    assert_eq!(advice(&report), [(first, FaultKind::UnrecordedFp8)]);
    let text = render_text(&report);
    let [none, heading] = ["  no faults", "  advice:"].map(|part| text.find(part).unwrap());
    assert!(none < heading, "{text}");
}

#[test]
fn fp8_without_input_scale_and_with_fp8_bias() {
    let mut tiny = Tiny::new();
    let bias = tiny.tensors[&format!("{LAYER}.bias")].clone();
    tiny.fp8(LAYER);
    tiny.remove(&format!("{LAYER}.input_scale"));
    tiny.put(format!("{LAYER}.bias"), bias.0, &bias.1, &bias.2);
    let report = tiny.report();
    assert_eq!(kinds(&report), []);
    let [weight, bias] = ["weight", "bias"].map(|part| format!("{LAYER}.{part}"));
    assert_eq!(
        advice(&report)[1..],
        [
            (bias.as_str(), FaultKind::Fp8Bias),
            (weight.as_str(), FaultKind::NoInputScale)
        ]
    );
    // Without quantized products nothing is cut off.
    let record = r#"{"format": "float8_e4m3fn", "full_precision_matrix_mult": true}"#;
    tiny.record(LAYER, record);
    let report = tiny.report();
    assert!(!advice(&report).contains(&(&weight, FaultKind::NoInputScale)));
}

/// A text encoder always multiplies in full precision.
#[test]
fn text_encoders_need_no_input_scale() {
    let layer = "text_encoders.qwen25_7b.transformer.model.layers.0.mlp.up_proj";
    let mut tiny = Tiny::new();
    tiny.fp8(layer);
    tiny.remove(&format!("{layer}.input_scale"));
    let report = tiny.report();
    assert_eq!(advice(&report).len(), 1);
    assert_eq!(report.advice[0].kind, FaultKind::UnrecordedFp8);
    assert!(!report.advice[0].tensor.contains("embed_tokens"));
}

#[test]
fn e5m2_weights() {
    let mut tiny = Tiny::new();
    let weight = format!("{LAYER}.weight");
    tiny.tensors.get_mut(&weight).unwrap().0 = Dtype::F8_E5M2;
    let report = tiny.report();
    assert_eq!(kinds(&report), []);
    assert_eq!(advice(&report), [(weight.as_str(), FaultKind::E5m2)]);
    tiny.record(LAYER, r#"{"format": "float8_e5m2"}"#);
    tiny.scale(format!("{LAYER}.weight_scale"), 1.0);
    assert_eq!(kinds(&tiny.report()), []);
}

#[test]
fn scales_of_16_bits() {
    let mut tiny = Tiny::new();
    tiny.fp8(LAYER);
    let name = format!("{LAYER}.weight_scale");
    tiny.put(&name, Dtype::BF16, &[], &[0x80, 0x3f]);
    let report = tiny.report();
    assert_eq!(kinds(&report), []);
    assert!(advice(&report).contains(&(&name, FaultKind::ScalePrecision)));
}

#[test]
fn all_in_ones_that_are_not() {
    for (gone, words) in [
        (&["vae."][..], "it has no VAE:"),
        (&["text_encoders."], "it has no text encoder:"),
        (&["vae.", "text_encoders."], "no text encoder and no VAE:"),
    ] {
        let mut tiny = Tiny::new();
        tiny.tensors
            .retain(|name, _| !gone.iter().any(|prefix| name.starts_with(prefix)));
        let report = tiny.report();
        assert_eq!(kinds(&report), []);
        assert_eq!(advice(&report), [("", FaultKind::IncompleteAllInOne)]);
        let message = &report.advice[0].message;
        assert!(message.contains(words), "{message}");
    }
    // ComfyUI's separate files.
    let mut tiny = Tiny::new();
    tiny.tensors.retain(|name, _| name.starts_with("model."));
    tiny.rename("model.diffusion_model.", "");
    assert_eq!(advice(&tiny.report()), []);
}

/// Load Diffusion Model of older ComfyUI (0.8, 0.10) strips the prefix before it reads the metadata.
#[test]
fn metadata_alone_in_a_prefixed_transformer() {
    let mut tiny = Tiny::new();
    tiny.nvfp4(LAYER);
    tiny.remove(&format!("{LAYER}.comfy_quant"));
    tiny.layers(json!({LAYER: {"format": "nvfp4"}}));
    assert_eq!(tiny.report().advice.len(), 1);
    tiny.tensors.retain(|name, _| name.starts_with("model."));
    let report = tiny.report();
    assert_eq!(kinds(&report), []);
    let weight = format!("{LAYER}.weight");
    assert!(advice(&report).contains(&(&weight, FaultKind::MetadataOnly)));
    tiny.record(LAYER, r#"{"format": "nvfp4"}"#);
    let report = tiny.report();
    assert!(!advice(&report).contains(&(&weight, FaultKind::MetadataOnly)));
}
