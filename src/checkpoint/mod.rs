//! A checkpoint on disk to named tensors with a stated format.
//!
//! [`SafetensorsFile`] knows bytes, [`Weights`] knows canonical names; what lies between (prefixes,
//! spellings, shards, folders) is decided once, when the checkpoint is opened.

mod encoding;
mod error;
mod file;
mod foreign;
mod header;
mod names;
mod source;
mod weights;

use std::fmt;

pub use encoding::Encoding;
pub use error::CheckpointError;
pub use file::{SafetensorsFile, TensorView};
pub use names::Names;
pub use source::{Checkpoint, Configs, ModelSource, TokenizerSource};
pub use weights::Weights;

/// The three parts of a text-to-image model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Component {
    /// The joint-attention MMDiT (`QwenImageTransformer2DModel`).
    Transformer,
    /// Qwen2.5-VL.
    TextEncoder,
    /// `AutoencoderKLQwenImage` (Wan 2.1).
    Vae,
}

impl fmt::Display for Component {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Transformer => "transformer",
            Self::TextEncoder => "text encoder",
            Self::Vae => "VAE",
        })
    }
}
