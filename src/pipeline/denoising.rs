//! The transformer as a sampler sees it: guided, timed, and told apart where it fails.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use candle_core::Tensor;

use super::PipelineError;
use super::engine::Progress;
use super::guidance::guide;
use super::latents::LatentShape;
use super::levels::NoiseLevels;
use super::prompt::PromptEmbeds;
use super::sampler::Walk;
use crate::context::{Cx, Observer};
use crate::model::transformer::{Conditioning, Input};

/// The transformer as a sampler sees it.
pub(super) struct Denoising<'a> {
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

    /// The first layer or stage of this evaluation whose values are not all finite.
    fn first_non_finite(&self, packed: &Tensor, sigma: f32) -> Result<String, PipelineError> {
        let first = Arc::new(FirstNonFinite::default());
        let cx = self.cx.observed_by(first.clone());
        let conditioning = self.levels.again(sigma, &cx)?;
        for prompt in [&self.positive].into_iter().chain(&self.negative) {
            self.evaluate(packed, &conditioning, prompt, &cx)?;
        }
        Ok(first.name())
    }
}

impl Walk for Denoising<'_> {
    fn velocity(&mut self, x: &Tensor, sigma: f32) -> Result<Tensor, PipelineError> {
        let packed = self.shape.pack(x)?;
        let at = self.levels.at(sigma, self.cx)?;
        let mut v = self.evaluate(&packed, &at, &self.positive, self.cx)?;
        self.cx.observer.stage("velocity.cond", &v);
        if let Some(negative) = &self.negative {
            let uncond = self.evaluate(&packed, &at, negative, self.cx)?;
            self.cx.observer.stage("velocity.uncond", &uncond);
            v = guide(&v, &uncond, self.cfg)?;
        }
        self.cx.observer.stage("velocity", &v);
        if !is_finite(&v)? {
            return Err(PipelineError::NonFinite {
                step: self.step + 1,
                layer: self.first_non_finite(&packed, sigma)?,
            });
        }
        Ok(self.shape.unpack(&v)?)
    }

    fn stepped(&mut self, step: usize, x: &Tensor) -> Result<(), PipelineError> {
        self.step = step + 1;
        self.steps_s.push(self.clock.elapsed().as_secs_f64());
        self.progress.stepped(step, x)?;
        self.clock = Instant::now();
        Ok(())
    }
}

fn is_finite(x: &Tensor) -> candle_core::Result<bool> {
    // A sum is finite unless a term is not, or it overflows, which is as bad.
    Ok(x.abs()?.sum_all()?.to_scalar::<f32>()?.is_finite())
}

/// Remembers the first layer or stage whose values are not all finite.
#[derive(Default)]
struct FirstNonFinite(Mutex<Option<String>>);

impl FirstNonFinite {
    fn look(&self, name: &str, value: &Tensor) {
        let mut first = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if first.is_none() && !is_finite(value).unwrap_or(true) {
            *first = Some(name.to_owned());
        }
    }

    fn name(&self) -> String {
        let first = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        first.clone().unwrap_or_else(|| "proj_out".to_owned())
    }
}

impl Observer for FirstNonFinite {
    fn linear_input(&self, layer: &str, input: &Tensor) {
        self.look(&format!("the input of {layer}"), input);
    }

    fn stage(&self, name: &str, value: &Tensor) {
        self.look(name, value);
    }
}
