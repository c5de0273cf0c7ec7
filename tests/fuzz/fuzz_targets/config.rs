//! Any JSON as the config of the embedded model. Nothing may panic.
#![no_main]

use std::sync::LazyLock;

use candle_core::Device;
use libfuzzer_sys::fuzz_target;
use qwen_nvfp4::checkpoint::{Checkpoint, ModelSource};
use qwen_nvfp4::model::config::{SchedulerConfig, TextEncoderConfig, TransformerConfig, VaeConfig};

static CHECKPOINT: LazyLock<Option<Checkpoint>> =
    LazyLock::new(|| Checkpoint::open(&ModelSource::Embedded, &Device::Cpu).ok());

fuzz_target!(|bytes: &[u8]| {
    let (Ok(json), Some(checkpoint)) = (serde_json::from_slice(bytes), &*CHECKPOINT) else {
        return;
    };
    let _ = TransformerConfig::detect(&checkpoint.transformer, Some(&json));
    let _ = TextEncoderConfig::detect(&checkpoint.text_encoder, Some(&json));
    let _ = VaeConfig::detect(&checkpoint.vae, Some(&json));
    let _ = SchedulerConfig::detect(Some(&json));
});
