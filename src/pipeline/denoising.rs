//! The transformer as a sampler sees it: guided, timed, and told apart where it fails.

use std::time::Instant;

use candle_core::Tensor;

use super::PipelineError;
use super::engine::Progress;
use super::guidance::guide;
use super::latents::LatentShape;
use super::levels::NoiseLevels;
use super::non_finite::{Failed, is_finite};
use super::prompt::PromptEmbeds;
use super::sampler::Walk;
use crate::checkpoint::Weights;
use crate::context::Cx;
use crate::model::transformer::{Conditioning, Input};

/// The transformer as a sampler sees it.
pub(super) struct Denoising<'a> {
    /// The transformer's, for messages.
    pub weights: &'a Weights,
    pub levels: NoiseLevels<'a>,
    pub shape: LatentShape,
    pub positive: PromptEmbeds,
    pub negative: Option<PromptEmbeds>,
    pub cfg: f64,
    pub cx: &'a Cx,
    pub progress: &'a mut dyn Progress,
    /// Steps that are done.
    pub step: usize,
    /// Since the last of them.
    pub clock: Instant,
    /// What each of them took.
    pub steps_s: Vec<f64>,
}

impl Denoising<'_> {
    /// Packed latents to the packed velocity that `prompt` gives.
    fn evaluate(
        &self,
        packed: &Tensor,
        conditioning: &Conditioning,
        prompt: &PromptEmbeds,
        cx: &Cx,
    ) -> Result<Tensor, PipelineError> {
        let input = Input {
            img: packed.clone(),
            txt: prompt.embeds.clone(),
            txt_lengths: prompt.lengths.clone(),
            conditioning: conditioning.clone(),
            grid: self.shape.grid(),
        };
        Ok(self.levels.transformer.forward(&input, cx)?)
    }

    /// The velocity at `sigma`, guided.
    fn guided(&mut self, packed: &Tensor, sigma: f32) -> Result<Tensor, PipelineError> {
        let at = self.levels.at(sigma, self.cx)?;
        self.cx.observer.noise_levels(&[sigma]);
        let mut v = self.evaluate(packed, &at, &self.positive, self.cx)?;
        self.cx.observer.stage("velocity.cond", &v);
        if let Some(negative) = &self.negative {
            let uncond = self.evaluate(packed, &at, negative, self.cx)?;
            self.cx.observer.stage("velocity.uncond", &uncond);
            v = guide(&v, &uncond, self.cfg)?;
        }
        self.cx.observer.stage("velocity", &v);
        Ok(v)
    }
}

impl Walk for Denoising<'_> {
    fn velocity(&mut self, x: &Tensor, sigma: f32) -> Result<Tensor, PipelineError> {
        let packed = self.shape.pack(x)?;
        match self.guided(&packed, sigma) {
            Ok(v) if is_finite(&v)? => return Ok(self.shape.unpack(&v)?),
            Err(e) if !e.is_non_finite() => return Err(e),
            _ => {}
        }
        let failed = Failed {
            during: format!("step {}", self.step + 1),
            weights: self.weights,
            result: "the guided velocity",
        };
        Err(failed.locate(self.cx, |cx| {
            let at = self.levels.again(sigma, cx)?;
            let prompts = [Some(&self.positive), self.negative.as_ref()];
            prompts
                .into_iter()
                .flatten()
                .try_for_each(|prompt| self.evaluate(&packed, &at, prompt, cx).map(drop))
        }))
    }

    fn stepped(&mut self, step: usize, x: &Tensor) -> Result<(), PipelineError> {
        self.step = step + 1;
        self.steps_s.push(self.clock.elapsed().as_secs_f64());
        self.progress.stepped(step, x)?;
        self.clock = Instant::now();
        Ok(())
    }
}
