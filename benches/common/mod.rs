//! Numbers and layers that benches are fed.

use qwen_nvfp4::checkpoint::Weights;
use safetensors::Dtype;

/// A tensor's name, stored type, shape and bytes.
pub type Named<'a> = (&'a str, Dtype, Vec<usize>, Vec<u8>);

/// Numbers between -1 and 1 without a pattern.
pub fn numbers(n: usize) -> Vec<f32> {
    let mixed = (0..n as u32).map(|i| i.wrapping_mul(2_654_435_761) >> 8);
    mixed.map(|v| v as f32 / (1 << 23) as f32 - 1.0).collect()
}

pub fn bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

/// A transformer's weights in memory.
pub fn weights(tensors: &[Named<'_>]) -> Weights {
    let tensors: Vec<_> = tensors
        .iter()
        .map(|(name, dtype, shape, bytes)| (*name, *dtype, shape.as_slice(), bytes.clone()))
        .collect();
    Weights::in_memory(&tensors).unwrap()
}
