//! Prompt to image: templates and tokens, noise and schedules, samplers and guidance, and the engine that joins them.

mod denoising;
mod engine;
mod error;
pub mod guidance;
pub mod image;
pub mod latents;
mod levels;
pub mod noise;
pub mod prompt;
pub mod request;
pub mod sampler;
pub mod schedule;

pub use engine::{Engine, Generated, Progress, Timings};
pub use error::PipelineError;
