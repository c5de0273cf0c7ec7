//! What is asked for, and what a model wants where nothing is said.

use std::path::PathBuf;

use super::PipelineError;
use super::prompt::Template;
use super::sampler::Sampler;
use super::schedule::ScheduleKind;
use crate::checkpoint::Checkpoint;

/// Pixels per packed token, each way: 8 of the VAE times the patch of 2.
pub const SIZE_STEP: usize = 16;
/// Largest side of a picture. RoPE tables reach 4096 tokens from the centre; memory ends long before.
const LARGEST_SIDE: usize = 16_384;

/// Settings of a generation, complete.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// Width in pixels, a multiple of 16.
    pub width: usize,
    /// Height in pixels, a multiple of 16.
    pub height: usize,
    /// Steps of the schedule.
    pub steps: usize,
    /// Guidance scale; 1 evaluates the prompt alone.
    pub cfg: f64,
    /// Negative prompt, used where `cfg` is not 1.
    pub negative: String,
    /// Sampler.
    pub sampler: Sampler,
    /// Schedule.
    pub schedule: ScheduleKind,
    /// Shift that replaces the schedule's own.
    pub shift: Option<f64>,
    /// Noise levels that replace the schedule.
    pub sigmas: Option<Vec<f32>>,
    /// Frame of the prompt.
    pub template: Template,
}

impl Settings {
    /// What a checkpoint is made for: diffusers folders are the base model (1024 x 1024, 50 steps, guidance 4
    /// against a blank), ComfyUI's FP8 files are distilled merges like Qwen-Rapid-AIO (4 steps, no guidance,
    /// ancestral sampling, the edit template, as its card says); the embedded tiny model draws 64 x 64 in 8 steps.
    pub fn of(checkpoint: &Checkpoint) -> Self {
        let flow = Self {
            width: 1024,
            height: 1024,
            steps: 50,
            cfg: 4.0,
            negative: " ".to_owned(),
            sampler: Sampler::Euler,
            schedule: ScheduleKind::Flow,
            shift: None,
            sigmas: None,
            template: Template::TextToImage,
        };
        if checkpoint.is_tiny() {
            return Self {
                width: 64,
                height: 64,
                steps: 8,
                cfg: 1.0,
                ..flow
            };
        }
        if checkpoint.diffusers || checkpoint.configs.scheduler.is_some() {
            return flow;
        }
        match checkpoint.is_fp8() {
            true => Self {
                steps: 4,
                cfg: 1.0,
                sampler: Sampler::EulerAncestral,
                schedule: ScheduleKind::Beta,
                template: Template::Edit,
                ..flow
            },
            false => Self {
                steps: 20,
                schedule: ScheduleKind::Simple,
                ..flow
            },
        }
    }

    /// Checks what no type can: sizes, guidance.
    ///
    /// # Errors
    /// [`PipelineError::Request`] that says what would do.
    pub fn validate(&self) -> Result<(), PipelineError> {
        for (name, side) in [("width", self.width), ("height", self.height)] {
            let below = side / SIZE_STEP * SIZE_STEP;
            let next = match side {
                0 => format!("the smallest is {SIZE_STEP}"),
                _ if side > LARGEST_SIDE => format!("the largest is {LARGEST_SIDE}"),
                _ if side == below => continue,
                _ if below == 0 => format!("the nearest is {SIZE_STEP}"),
                _ => format!("nearest are {below} and {}", below + SIZE_STEP),
            };
            return Err(PipelineError::Request(format!(
                "a {name} of {side}: sides are multiples of {SIZE_STEP} from {SIZE_STEP} to {LARGEST_SIDE}; {next}"
            )));
        }
        if !(self.cfg.is_finite() && self.cfg >= 0.0) {
            return Err(PipelineError::Request(format!(
                "a guidance scale of {}: give a finite number, 0 or more",
                self.cfg
            )));
        }
        Ok(())
    }
}

/// One batch of pictures: as many prompts as seeds.
#[derive(Clone, Debug)]
pub struct Request {
    /// A prompt per picture; may be empty.
    pub prompts: Vec<String>,
    /// A negative prompt per picture, in place of the settings' one for all.
    pub negatives: Option<Vec<String>>,
    /// A seed per picture.
    pub seeds: Vec<u64>,
    /// Everything else.
    pub settings: Settings,
    /// Starting latents `[B, C, h, w]` in place of the seeds' noise.
    pub latents: Option<PathBuf>,
}
