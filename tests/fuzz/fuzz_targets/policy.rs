//! Any text as a policy, and what the policy decides of the tensors that it names. Nothing may panic.
#![no_main]

use libfuzzer_sys::fuzz_target;
use qwen_nvfp4::quantize::Policy;

const TENSORS: [&str; 4] = [
    "",
    "model.diffusion_model.transformer_blocks.0.attn.to_q.weight",
    "transformer_blocks.59.img_mlp.net.2.weight",
    "vae.é.bias",
];

fuzz_target!(|text: &str| {
    if let Ok(policy) = Policy::parse("fuzz", text) {
        // Whole, and by the pieces that the rules look for.
        let words = text.split('"').chain(TENSORS);
        for tensor in words {
            let decision = policy.decide(tensor);
            assert_eq!(decision, policy.decide(tensor));
            policy.rename(tensor);
        }
    }
});
