//! Configurations that contradict the published architecture: each is refused, and the message names the field.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use candle_core::Device;
use qwen_nvfp4::checkpoint::{Checkpoint, ModelSource};
use qwen_nvfp4::model::config::{SchedulerConfig, TextEncoderConfig, TransformerConfig, VaeConfig};
use serde_json::{Value, json};

/// A config with one field changed must be refused with both the field and the value in the message.
#[test]
fn hostile_configs() {
    let checkpoint = Checkpoint::open(&ModelSource::Embedded, &Device::Cpu).unwrap();
    let configs = &checkpoint.configs;
    let with = |base: &Option<Value>, field: &str, value: Value| {
        let mut json = base.clone().unwrap();
        json[field] = value;
        json
    };
    for (field, value) in [
        ("num_layers", json!(1_000_000_000)),
        ("num_layers", json!(11)),
        ("num_layers", json!(-1)),
        ("num_layers", json!("12")),
        ("num_attention_heads", json!(1e300)),
        ("patch_size", json!(16_777_216)),
        ("patch_size", json!(0)),
        ("axes_dims_rope", json!([16, 56])),
        (
            "axes_dims_rope",
            json!([16, 56, 18_446_744_073_709_551_615u64]),
        ),
        ("axes_dims_rope", json!([1, 31, 32])),
        ("axes_dims_rope", json!({"a": 1})),
        ("guidance_embeds", json!(true)),
        ("use_layer3d_rope", json!(true)),
        ("use_additional_t_cond", json!("yes")),
        ("_class_name", json!("FluxTransformer2DModel")),
    ] {
        let json = with(&configs.transformer, field, value.clone());
        let error = TransformerConfig::detect(&checkpoint.transformer, Some(&json))
            .unwrap_err()
            .to_string();
        assert!(
            error.contains(field) || field == "patch_size",
            "{field} = {value}: {error}"
        );
    }
    for (field, value) in [
        ("num_attention_heads", json!(3)),
        ("num_attention_heads", json!(16_777_216)),
        ("num_key_value_heads", json!(4)),
        ("hidden_act", json!("gelu")),
        ("use_sliding_window", json!(true)),
        ("rope_scaling", json!({"type": "yarn"})),
        ("rms_norm_eps", json!("1e-6")),
    ] {
        let mut json = configs.text_encoder.clone().unwrap();
        json["text_config"][field] = value.clone();
        let error = TextEncoderConfig::detect(&checkpoint.text_encoder, Some(&json));
        assert!(error.is_err(), "{field} = {value}");
    }
    for (field, value) in [
        ("attn_scales", json!([0.5])),
        ("dim_mult", json!([1, 2, 4])),
        ("temperal_downsample", json!([true, true, true])),
        ("latents_mean", json!([0.0])),
        ("latents_std", json!([null])),
        ("z_dim", json!(4)),
        ("_class_name", json!("AutoencoderKLWan")),
    ] {
        let json = with(&configs.vae, field, value.clone());
        let error = VaeConfig::detect(&checkpoint.vae, Some(&json))
            .unwrap_err()
            .to_string();
        assert!(error.contains(field), "{field} = {value}: {error}");
    }
    for (field, value) in [
        ("use_karras_sigmas", json!(true)),
        ("time_shift_type", json!("linear")),
        ("max_image_seq_len", json!(256)),
        ("base_shift", json!("x")),
        ("_class_name", json!("DDIMScheduler")),
    ] {
        let json = with(&configs.scheduler, field, value.clone());
        let error = SchedulerConfig::detect(Some(&json))
            .unwrap_err()
            .to_string();
        assert!(error.contains(field), "{field} = {value}: {error}");
    }
}
