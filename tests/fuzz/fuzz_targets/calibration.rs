//! Any text as a calibration, under every statistic that there is a rule for. Nothing may panic, and what is read is
//! positive and finite.
#![no_main]

use libfuzzer_sys::fuzz_target;
use qwen_nvfp4::quantize::Calibration;

fuzz_target!(|text: &str| {
    for stat in ["max", "p99.9", "mean", ""] {
        if let Ok(calibration) = Calibration::parse("fuzz", text, stat) {
            assert!(!calibration.amax.is_empty());
            assert!(calibration.amax.values().all(|v| v.is_finite() && *v > 0.0));
        }
    }
});
