//! The noise levels of a walk, conditioned many at a time.

use std::collections::HashMap;

use super::schedule::Schedule;
use crate::context::Cx;
use crate::model::ModelError;
use crate::model::transformer::{Conditioning, QwenImageTransformer};

/// Levels that are conditioned at once, and kept: 560 MB of the published model's, if a schedule has as many.
const WINDOW: usize = 64;

/// A transformer, and its [`Conditioning`] at the levels of a schedule.
pub(super) struct NoiseLevels<'a> {
    pub transformer: &'a QwenImageTransformer,
    /// In the order in which a sampler meets them.
    announced: Vec<f32>,
    /// By the bits of the level.
    known: HashMap<u32, Conditioning>,
}

impl<'a> NoiseLevels<'a> {
    /// Nothing is computed before it is asked for.
    pub(super) fn new(transformer: &'a QwenImageTransformer, schedule: &Schedule) -> Self {
        // Nobody evaluates the model at the end of a schedule, where nothing is left to remove.
        let steps = schedule.steps();
        Self {
            transformer,
            announced: schedule.sigmas.iter().copied().take(steps).collect(),
            known: HashMap::new(),
        }
    }

    /// Conditioning at `sigma`: with those of the schedule's next levels if it is one of them, else alone.
    pub(super) fn at(&mut self, sigma: f32, cx: &Cx) -> Result<Conditioning, ModelError> {
        if let Some(known) = self.known.get(&sigma.to_bits()) {
            return Ok(known.clone());
        }
        let of_schedule = self.announced.iter().position(|s| *s == sigma);
        let wanted: Vec<f32> = match of_schedule {
            Some(first) => self.announced[first..]
                .iter()
                .copied()
                .take(WINDOW)
                .collect(),
            None => vec![sigma],
        };
        let made = self.condition(&wanted, cx)?;
        if self.known.len() + made.len() > WINDOW {
            self.known.clear();
        }
        let first = made[0].clone();
        let keys = wanted.iter().map(|s| s.to_bits());
        self.known.extend(keys.zip(made));
        Ok(first)
    }

    /// Conditioning at one level, computed again under the eyes of `cx`.
    pub(super) fn again(&self, sigma: f32, cx: &Cx) -> Result<Conditioning, ModelError> {
        Ok(self.condition(&[sigma], cx)?.swap_remove(0))
    }

    fn condition(&self, sigmas: &[f32], cx: &Cx) -> Result<Vec<Conditioning>, ModelError> {
        condition(self.transformer, sigmas, cx)
    }
}

/// Conditioning at each of `sigmas`, at most [`WINDOW`] computed at once.
///
/// # Errors
/// Those of the transformer.
pub fn condition(
    transformer: &QwenImageTransformer,
    sigmas: &[f32],
    cx: &Cx,
) -> Result<Vec<Conditioning>, ModelError> {
    let mut all = Vec::with_capacity(sigmas.len());
    for window in sigmas.chunks(WINDOW) {
        cx.observer.noise_levels(window);
        // diffusers' way through its timestep, which costs a rounding.
        let timesteps: Vec<f32> = window.iter().map(|sigma| sigma * 1000.0 / 1000.0).collect();
        all.extend(transformer.conditioning(&timesteps, cx)?);
    }
    Ok(all)
}
