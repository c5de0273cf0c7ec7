//! The VAE of Qwen-Image (`AutoencoderKLQwenImage`, which is Wan 2.1's) on single frames.
//!
//! It is a video VAE: its kernels have three slices in time, of which only the last meets a single frame, and
//! `time_conv` never runs on a first frame. What is left is a picture VAE, computed channels last.

mod blocks;
mod decoder;
mod encoder;

pub use decoder::Decoder;
pub use encoder::Encoder;
