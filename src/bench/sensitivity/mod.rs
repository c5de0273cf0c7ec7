//! Which layers mind NVFP4 how much, and what it saves: groups ranked by measured damage and measured time.
//!
//! The model is converted twice, to FP8 and to NVFP4. Layers are converted each on its own, so that the model with one group
//! in NVFP4 is the FP8 file with this group's tensors of the other one: nothing is converted anew for a group. Damage is the
//! teacher-forced velocity error against the source with F32 activations, beside that of the model all in FP8.

pub mod greedy;
pub mod groups;
pub mod original;
pub mod report;
pub mod results;
mod study;
mod suggestion;
pub mod timing;

use crate::context::Cx;
use crate::model::ModelError;
use crate::pipeline::PipelineError;
use crate::quantize::ConvertError;

pub use study::{Hears, Study, enough, measure};

/// Why a sensitivity cannot be measured.
#[derive(Debug, thiserror::Error)]
pub enum SensitivityError {
    /// Generating.
    #[error(transparent)]
    Pipeline(#[from] PipelineError),
    /// Converting.
    #[error(transparent)]
    Convert(#[from] ConvertError),
    /// The request makes no sense.
    #[error("{0}")]
    Request(String),
}

impl From<ModelError> for SensitivityError {
    fn from(e: ModelError) -> Self {
        Self::Pipeline(e.into())
    }
}

/// Stops where someone asked.
fn check(cx: &Cx) -> Result<(), PipelineError> {
    match cx.cancel.is_cancelled() {
        true => Err(ModelError::Cancelled.into()),
        false => Ok(()),
    }
}
