//! The noise levels that a sampler walks down: diffusers' flow matching, and ComfyUI's tables.
//!
//! Both are one curve, `sigma(t) = a t / (1 + (a - 1) t)` with `a = e^mu`: they differ in `a` and in where t
//! is sampled. Sources: diffusers `scheduling_flow_match_euler_discrete.py` and `pipeline_qwenimage.py`
//! (`calculate_shift`); ComfyUI `comfy/model_sampling.py` (`ModelSamplingFlux`, `ModelSamplingDiscreteFlow`) and
//! `comfy/samplers.py`. Arithmetic is F32 wherever theirs is.

use statrs::distribution::{Beta, Continuous, ContinuousCDF};

use super::PipelineError;
use crate::model::config::SchedulerConfig;

/// ComfyUI's mu for Qwen-Image (`sampling_settings` of `supported_models.QwenImage`).
const COMFY_MU: f64 = 1.15;
/// Entries of ComfyUI's table for `ModelSamplingFlux`.
const FLUX_TABLE: usize = 10_000;
/// Entries of its table for `ModelSamplingAuraFlow`.
const AURA_TABLE: usize = 1000;
/// Levels up to here are 0 to ComfyUI's `normal`.
const AS_GOOD_AS_0: f32 = 1e-5;
/// More steps than any schedule has a use for.
const MOST_STEPS: usize = 10_000;

/// Which noise levels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScheduleKind {
    /// diffusers' `FlowMatchEulerDiscreteScheduler` with the checkpoint's configuration.
    Flow,
    /// ComfyUI `simple`: evenly spaced entries of the table.
    Simple,
    /// ComfyUI `normal`: evenly spaced in time, both ends included.
    Normal,
    /// ComfyUI `sgm_uniform`: evenly spaced in time, the lower end left out.
    SgmUniform,
    /// ComfyUI `beta`: quantiles of Beta(0.6, 0.6), more steps at both ends.
    Beta,
}

impl ScheduleKind {
    /// Names on the command line, in help order.
    pub const NAMES: [(&'static str, Self); 5] = [
        ("flow", Self::Flow),
        ("simple", Self::Simple),
        ("normal", Self::Normal),
        ("sgm_uniform", Self::SgmUniform),
        ("beta", Self::Beta),
    ];

    /// The name on the command line.
    pub fn name(self) -> &'static str {
        Self::NAMES
            .iter()
            .find(|(_, kind)| *kind == self)
            .map_or("", |(name, _)| name)
    }
}

/// Noise levels from high to low, ending in 0.
#[derive(Clone, Debug, PartialEq)]
pub struct Schedule {
    /// `steps + 1` values in [0, 1], strictly falling, the last is 0.
    pub sigmas: Vec<f32>,
    /// `a` of the curve, which some samplers need for times between the steps.
    pub shift: f64,
}

impl Schedule {
    /// `steps` steps for a picture of `tokens` packed tokens. `shift` replaces the curve's own: for
    /// [`ScheduleKind::Flow`] a static `a`, for the others that of `ModelSamplingAuraFlow`.
    ///
    /// # Errors
    /// [`PipelineError::Request`] where `steps` is 0 or the shift is not positive.
    pub fn new(
        kind: ScheduleKind,
        steps: usize,
        shift: Option<f64>,
        config: &SchedulerConfig,
        tokens: usize,
    ) -> Result<Self, PipelineError> {
        if steps == 0 || steps > MOST_STEPS {
            return Err(PipelineError::Request(format!(
                "{steps} steps: give 1 to {MOST_STEPS}"
            )));
        }
        if let Some(bad) = shift.filter(|a| !(a.is_finite() && *a > 0.0)) {
            return Err(PipelineError::Request(format!(
                "a shift of {bad}: give a number above 0"
            )));
        }
        let table = match (kind, shift) {
            (ScheduleKind::Flow, _) => return Ok(Self::flow(steps, shift, config, tokens)),
            (_, None) => Table::new(COMFY_MU.exp(), FLUX_TABLE),
            (_, Some(a)) => Table::new(a, AURA_TABLE),
        };
        let sigmas = match kind {
            ScheduleKind::Flow | ScheduleKind::Simple => table.simple(steps),
            // A lowest level that is as good as 0 takes the place of the final 0.
            ScheduleKind::Normal if table.sigma(table.sigmas[0]) <= AS_GOOD_AS_0 => {
                table.uniform(steps, steps + 1)
            }
            ScheduleKind::Normal => table.uniform(steps, steps),
            ScheduleKind::SgmUniform => table.uniform(steps, steps + 1),
            ScheduleKind::Beta => table.beta(steps)?,
        };
        Ok(Self {
            sigmas,
            shift: table.a,
        })
    }

    /// Explicit noise levels, without or with the final 0.
    ///
    /// # Errors
    /// [`PipelineError::Request`] where they do not fall strictly from at most 1 to above 0.
    pub fn explicit(mut sigmas: Vec<f32>) -> Result<Self, PipelineError> {
        let refuse = |why: &str| Err(PipelineError::Request(format!("--sigmas {why}")));
        if sigmas.last() == Some(&0.0) {
            sigmas.pop();
        }
        if sigmas.is_empty() {
            return refuse("needs at least one value above 0");
        }
        if let Some(bad) = sigmas.iter().find(|s| !(**s > 0.0 && **s <= 1.0)) {
            return refuse(&format!("has {bad}, which is not above 0 and at most 1"));
        }
        if let Some(pair) = sigmas.windows(2).find(|pair| pair[0] <= pair[1]) {
            return refuse(&format!(
                "must fall from step to step, but {} is followed by {}",
                pair[0], pair[1]
            ));
        }
        sigmas.push(0.0);
        Ok(Self {
            sigmas,
            shift: COMFY_MU.exp(),
        })
    }

    /// Steps.
    pub fn steps(&self) -> usize {
        self.sigmas.len() - 1
    }

    /// ComfyUI's `percent_to_sigma`: the level after `percent` (0 to 1) of the way.
    pub fn percent_to_sigma(&self, percent: f64) -> f64 {
        match percent {
            p if p <= 0.0 => 1.0,
            p if p >= 1.0 => 0.0,
            p => self.shift * (1.0 - p) / (1.0 + (self.shift - 1.0) * (1.0 - p)),
        }
    }

    fn flow(steps: usize, shift: Option<f64>, config: &SchedulerConfig, tokens: usize) -> Self {
        let linspace = |i: usize| {
            let end = 1.0 / steps as f64;
            match i + 1 == steps && steps > 1 {
                true => end as f32,
                false => (1.0 + i as f64 * ((end - 1.0) / (steps.max(2) - 1) as f64)) as f32,
            }
        };
        let (a, dynamic) = match (shift, config.use_dynamic_shifting) {
            (Some(a), _) => (a, false),
            (None, true) => (mu(config, tokens).exp(), true),
            (None, false) => (config.shift, false),
        };
        let a32 = a as f32;
        let shifted = |t: f32| match dynamic {
            true => a32 / (a32 + (1.0 / t - 1.0)),
            false => a32 * t / (1.0 + (a - 1.0) as f32 * t),
        };
        let mut sigmas: Vec<f32> = (0..steps).map(|i| shifted(linspace(i))).collect();
        if let (Some(terminal), Some(last)) = (config.shift_terminal, sigmas.last()) {
            // One step ends where it starts, at 1: there is nothing to stretch.
            let factor = (1.0 - last) / (1.0 - terminal) as f32;
            if factor > 0.0 {
                sigmas
                    .iter_mut()
                    .for_each(|s| *s = 1.0 - (1.0 - *s) / factor);
            }
        }
        sigmas.push(0.0);
        Self { sigmas, shift: a }
    }
}

/// `calculate_shift`: mu grows with the number of tokens.
fn mu(config: &SchedulerConfig, tokens: usize) -> f64 {
    let (low, high) = (
        config.base_image_seq_len as f64,
        config.max_image_seq_len as f64,
    );
    let slope = (config.max_shift - config.base_shift) / (high - low);
    tokens as f64 * slope + (config.base_shift - slope * low)
}

/// ComfyUI's table of noise levels at t = 1/n, 2/n, ... 1.
struct Table {
    a: f64,
    /// `ModelSamplingFlux` rather than `ModelSamplingAuraFlow`: the same curve, other operations.
    flux: bool,
    sigmas: Vec<f32>,
}

impl Table {
    fn new(a: f64, entries: usize) -> Self {
        let curve = Self {
            a,
            flux: entries == FLUX_TABLE,
            sigmas: Vec::new(),
        };
        let sigmas = (1..=entries).map(|i| curve.sigma(i as f32 / entries as f32));
        Self {
            sigmas: sigmas.collect(),
            ..curve
        }
    }

    /// The curve, in the order of ComfyUI's operations.
    fn sigma(&self, t: f32) -> f32 {
        let a = self.a as f32;
        match self.flux {
            // torch divides a number by a tensor as the tensor's reciprocal times the number.
            true => 1.0 / (a + (1.0 / t - 1.0)) * a,
            false => a * t / (1.0 + (self.a - 1.0) as f32 * t),
        }
    }

    fn simple(&self, steps: usize) -> Vec<f32> {
        let stride = self.sigmas.len() as f64 / steps as f64;
        let index = |x: usize| self.sigmas.len() - 1 - (x as f64 * stride) as usize;
        let sigmas = (0..steps).map(|x| self.sigmas[index(x)]);
        falling(sigmas)
    }

    /// `steps` of `points` times from 1 to the table's lowest level. ComfyUI takes `timestep(sigma)` for the
    /// identity here, so the curve is applied to the levels once more; that is what the name means to its users.
    fn uniform(&self, steps: usize, points: usize) -> Vec<f32> {
        let (start, end) = (self.sigmas[self.sigmas.len() - 1], self.sigmas[0]);
        let step = (end - start) / (points.max(2) - 1) as f32;
        let sigma = |i: usize| {
            // torch.linspace counts from whichever end is nearer.
            self.sigma(match i < points / 2 || points == 1 {
                true => start + step * i as f32,
                false => end - step * (points - 1 - i) as f32,
            })
        };
        falling((0..steps).map(sigma))
    }

    fn beta(&self, steps: usize) -> Result<Vec<f32>, PipelineError> {
        let beta = Beta::new(0.6, 0.6).map_err(|e| PipelineError::Request(e.to_string()))?;
        let top = (self.sigmas.len() - 1) as f64;
        let index = |i: usize| {
            let t = 1.0 - i as f64 / steps as f64;
            // The median falls between two entries of the table: exactly in the middle, by symmetry.
            let quantile = match t == 0.5 {
                true => 0.5,
                false => quantile(&beta, t),
            };
            (quantile * top).round_ties_even() as usize
        };
        Ok(falling((0..steps).map(|i| self.sigmas[index(i)])))
    }
}

/// The library's quantile, which bisects to about 1e-8, made exact by Newton's steps.
fn quantile(beta: &Beta, t: f64) -> f64 {
    let step = |x: f64| {
        let next = x - (beta.cdf(x) - t) / beta.pdf(x);
        if next > 0.0 && next < 1.0 { next } else { x }
    };
    (0..4).fold(beta.inverse_cdf(t), |x, _| step(x))
}

/// The levels and the final 0, repeated levels dropped: a step from a level to itself does nothing.
fn falling(sigmas: impl Iterator<Item = f32>) -> Vec<f32> {
    let mut out: Vec<f32> = sigmas.collect();
    out.dedup();
    out.push(0.0);
    out
}
