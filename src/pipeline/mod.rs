//! Prompt to image: templates and tokens, noise and schedules, samplers and guidance, and the engine that joins them.

mod denoising;
mod engine;
mod error;
mod fit;
pub mod guidance;
pub mod image;
pub mod latents;
mod levels;
pub mod noise;
mod non_finite;
pub mod prompt;
pub mod request;
pub mod sampler;
pub mod schedule;

pub use engine::{Denoised, Engine, Generated, Progress, Timings};
pub use error::PipelineError;
