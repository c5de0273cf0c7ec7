//! The VAE of Qwen-Image (`AutoencoderKLQwenImage`, which is Wan 2.1's) on single frames.
//!
//! It is a video VAE: its kernels have three slices in time, of which only the last meets a single frame, and
//! `time_conv` never runs on a first frame. What is left is a picture VAE, computed channels last.

mod blocks;
mod decoder;
mod encoder;
mod stream;
#[cfg(test)]
mod tests;

use candle_core::{Device, Tensor};
pub use decoder::Decoder;
pub use encoder::Encoder;

use super::ModelError;
use crate::context::Cx;
use crate::ops::conv::Map;

/// Shows a map to the observer, `[1, height, width, channels]`.
fn observe(stage: &str, x: &Map, cx: &Cx) -> Result<(), ModelError> {
    let shape = (1, x.height, x.width, x.channels);
    let value = Tensor::from_slice(&x.data, shape, &Device::Cpu)?;
    cx.observer.stage(stage, &value);
    Ok(())
}
