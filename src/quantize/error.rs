//! Why a conversion cannot be planned or done.

use std::path::PathBuf;

use super::calibration::CalibrationError;
use super::policy::PolicyError;
use crate::checkpoint::{CheckpointError, WriteError};

/// A conversion's fault. Each message names the layer or file, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum ConvertError {
    /// The source.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The policy.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// The calibration.
    #[error(transparent)]
    Calibration(#[from] CalibrationError),
    /// The output.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// A layer that cannot be converted as asked.
    #[error("{path}: layer `{layer}`: {reason}")]
    Layer {
        /// The file that holds it.
        path: PathBuf,
        /// Its stored name.
        layer: String,
        /// What is wrong, and what to do.
        reason: String,
    },
    /// A tensor with a NaN or an infinity.
    #[error(
        "{path}: tensor `{tensor}` is NaN or infinite at number {at}; get the file again from its source"
    )]
    NotFinite {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// Which of its numbers, row-major.
        at: usize,
    },
    /// FP8 weights without a scale.
    #[error("{path}: {missing} of {all} FP8 weights have no scale, the first is `{layer}`; {hint}")]
    Unscaled {
        /// The file that holds the first.
        path: PathBuf,
        /// The first layer without a scale.
        layer: String,
        /// How many have none.
        missing: usize,
        /// How many FP8 weights there are.
        all: usize,
        /// What to do.
        hint: &'static str,
    },
    /// The request does not fit the source.
    #[error("{0}")]
    Request(String),
    /// The written file is not what the plan says.
    #[error(
        "{path}: `{tensor}` differs from what the plan says at byte {at}; the disk or the memory is faulty: convert again"
    )]
    Verify {
        /// The output.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// Byte within the tensor.
        at: u64,
    },
    /// The user asked to stop.
    #[error("interrupted")]
    Cancelled,
}
