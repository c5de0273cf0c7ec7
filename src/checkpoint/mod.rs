//! A checkpoint on disk to named tensors with a stated format.
//!
//! [`SafetensorsFile`] knows bytes, [`Weights`] knows canonical names; what lies between (prefixes,
//! spellings, shards, folders) is decided once, when the checkpoint is opened.

mod comfy_names;
mod disk;
mod encoding;
mod error;
mod file;
pub(crate) mod fingerprint;
mod folder;
mod foreign;
pub(crate) mod gather;
mod header;
mod layout;
mod lora;
pub(crate) mod markers;
mod names;
mod open;
mod reader;
mod source;
mod weights;
mod whole;
mod write_error;
mod writer;

use std::fmt;

pub use comfy_names::ComfyNames;
pub use encoding::{Activations, Encoding};
pub use error::CheckpointError;
pub use file::{SafetensorsFile, TensorView};
pub use layout::{Layout, NewTensor};
pub use lora::{Adapter, Lora, LoraLabel};
pub use names::Names;
pub use open::Checkpoint;
pub use reader::Reader;
pub use source::{Configs, ModelSource, TokenizerSource};
pub use weights::{Stored, Weights};
pub(crate) use whole::without_path;
pub use whole::{replace_by_way_of, write_whole};
pub use write_error::WriteError;
pub use writer::Writer;

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

impl Component {
    /// All three, in the order in which an all-in-one file is described.
    pub const ALL: [Self; 3] = [Self::Transformer, Self::TextEncoder, Self::Vae];
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
