//! Where a model comes from and what came with its weights, as values.

use std::path::PathBuf;

use serde_json::Value;

/// Where a model comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ModelSource {
    /// The tiny model inside of the program.
    Embedded,
    /// Files: an all-in-one, a diffusers folder, a sharded checkpoint, or a transformer with the rest beside it.
    Files {
        /// The transformer, or everything.
        model: PathBuf,
        /// A text encoder that replaces or completes it.
        text_encoder: Option<PathBuf>,
        /// A VAE that replaces or completes it.
        vae: Option<PathBuf>,
    },
}

/// Where the token ids come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TokenizerSource {
    /// A `tokenizer.json`.
    Json(Vec<u8>),
    /// A folder as transformers writes it.
    Folder(PathBuf),
    /// The checkpoint brings none: Qwen2.5's own, if its vocabulary has that size.
    Unstated,
}

/// Configurations that came with a checkpoint, as parsed JSON.
#[derive(Clone, Debug, Default)]
pub struct Configs {
    /// `transformer/config.json`.
    pub transformer: Option<Value>,
    /// `text_encoder/config.json`.
    pub text_encoder: Option<Value>,
    /// `vae/config.json`.
    pub vae: Option<Value>,
    /// `scheduler/scheduler_config.json`.
    pub scheduler: Option<Value>,
}
