//! Prompt to image: templates and tokens, noise and schedules, samplers and guidance, and the engine that joins them.

mod denoising;
mod engine;
mod error;
mod fit;
pub mod guidance;
pub mod image;
pub mod latents;
pub mod levels;
pub mod noise;
mod non_finite;
pub mod prompt;
pub mod request;
pub mod sampler;
pub mod schedule;

pub use engine::{Denoised, Engine, Generated, Progress, Silent, Timings};
pub use error::PipelineError;
