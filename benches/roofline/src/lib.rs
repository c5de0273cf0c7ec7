//! A model of the time of one denoising step of Qwen-Image on an RTX 5090. Nothing here is measured by this project.
//!
//! `model` is what is multiplied, `policy` in which format, `inputs` what the card does, each number with its source;
//! `time` turns a product, a pass over memory or an attention into seconds, `step` adds them up, `report` prints. The
//! tiles are those that the launch code chooses, the instruction counts those of `kernels/SASS.md`.

pub mod inputs;
pub mod model;
pub mod policy;
pub mod report;
pub mod step;
pub mod time;
