//! Qwen-Image as it is drawn on paper. Sizes come from the checkpoint, precision from its weights.

pub mod config;
mod error;
pub mod inventory;
pub mod text_encoder;
pub mod transformer;
pub mod vae;

pub use error::ModelError;
