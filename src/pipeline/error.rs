//! What can go wrong between a request and a picture.

use std::path::PathBuf;

use crate::checkpoint::{CheckpointError, WriteError};
use crate::model::ModelError;
use crate::model::text_encoder::tokenizer::TokenizerError;

/// A fault of a request or of the work it asks for.
#[derive(Debug, thiserror::Error)]
pub enum PipelineError {
    /// The model cannot be built or run.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The prompt cannot be tokenized.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// The request makes no sense.
    #[error("{0}")]
    Request(String),
    /// A value that is no number came out of the model.
    #[error("{path}: {during}: {place} is the first to be NaN or infinite; {hint}")]
    NonFinite {
        /// What was done: `step 3` (counted from 1), `encoding the prompt`, `decoding`.
        during: String,
        /// The layer, and whether what it gave or already what came in is not finite.
        place: String,
        /// The file that holds the layer.
        path: PathBuf,
        /// What to do.
        hint: String,
    },
    /// A file that cannot be written.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// A file of latents that does not fit.
    #[error("{path}: {reason}")]
    Latents {
        /// The file.
        path: PathBuf,
        /// What is wrong, with both shapes.
        reason: String,
    },
    /// A picture that cannot be encoded.
    #[error("cannot encode {path}: {reason}")]
    Encode {
        /// The file.
        path: PathBuf,
        /// The encoder's reason.
        reason: String,
    },
}

impl PipelineError {
    /// Whether a layer refused to quantize a value that is no number.
    pub(super) fn is_non_finite(&self) -> bool {
        matches!(self, Self::Model(e) if e.is_non_finite())
    }

    /// Whether the work was stopped on request rather than by a fault.
    pub fn is_cancelled(&self) -> bool {
        matches!(self, Self::Model(ModelError::Cancelled))
    }
}

impl From<candle_core::Error> for PipelineError {
    fn from(e: candle_core::Error) -> Self {
        Self::Model(e.into())
    }
}

impl From<CheckpointError> for PipelineError {
    fn from(e: CheckpointError) -> Self {
        Self::Model(e.into())
    }
}
