//! What can go wrong between a checkpoint and a forward pass.

use crate::checkpoint::CheckpointError;

/// A fault while a model is built or run.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// The checkpoint cannot serve the model.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The configuration contradicts itself or the published architecture.
    #[error("the {component}'s configuration cannot be used: {reason}")]
    Config {
        /// Which component.
        component: crate::checkpoint::Component,
        /// What is wrong, with both numbers.
        reason: String,
    },
    /// A tensor operation failed.
    #[error("computation failed: {0}")]
    Compute(#[from] candle_core::Error),
    /// Someone asked to stop.
    #[error("interrupted")]
    Cancelled,
}

impl ModelError {
    /// Whether a layer refused to quantize a value that is no number.
    pub fn is_non_finite(&self) -> bool {
        fn refused(e: &candle_core::Error) -> bool {
            match e {
                candle_core::Error::WrappedContext { wrapped, .. } => {
                    wrapped.is::<crate::ops::matmul::NonFinite>()
                }
                candle_core::Error::WithBacktrace { inner, .. } => refused(inner),
                candle_core::Error::Context { inner, .. } => refused(inner),
                _ => false,
            }
        }
        matches!(self, Self::Compute(e) if refused(e))
    }
}
