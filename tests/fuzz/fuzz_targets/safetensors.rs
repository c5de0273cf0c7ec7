//! Any bytes as a checkpoint file: opened, inspected, its sizes read. Nothing may panic.
#![no_main]

use std::io::Write;

use candle_core::Device;
use libfuzzer_sys::fuzz_target;
use qwen_nvfp4::checkpoint::{Checkpoint, ModelSource};
use qwen_nvfp4::inspect::{inspect, render_text};
use qwen_nvfp4::model::config::{TextEncoderConfig, TransformerConfig, VaeConfig};

fuzz_target!(|bytes: &[u8]| {
    let Ok(mut file) = tempfile::Builder::new().suffix(".safetensors").tempfile() else {
        return;
    };
    if file.write_all(bytes).is_err() {
        return;
    }
    if let Ok(report) = inspect(file.path()) {
        render_text(&report);
    }
    let source = ModelSource::Files {
        model: file.path().to_owned(),
        text_encoder: None,
        vae: None,
    };
    if let Ok(checkpoint) = Checkpoint::open(&source, &Device::Cpu) {
        checkpoint.fingerprint();
        let configs = &checkpoint.configs;
        let _ = TransformerConfig::detect(&checkpoint.transformer, configs.transformer.as_ref());
        let _ = TextEncoderConfig::detect(&checkpoint.text_encoder, configs.text_encoder.as_ref());
        let _ = VaeConfig::detect(&checkpoint.vae, configs.vae.as_ref());
    }
});
