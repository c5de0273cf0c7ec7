//! Samplers in their flow-matching form: `x = (1 - sigma) image + sigma noise`, the model tells the velocity
//! `noise - image`, and `denoised = x - sigma * velocity`.
//!
//! Definitions are ComfyUI's (`comfy/k_diffusion/sampling.py` with `model_sampling.CONST`); [`Sampler::Euler`] is
//! also diffusers'. Latents are `[B, C, h, w]` throughout, noise is drawn per row from the row's seed + 1.

mod er_sde;
mod euler;
mod multistep;
mod sa_solver;

use candle_core::{Device, Tensor};

use super::PipelineError;
use super::noise::TorchGenerator;
use super::schedule::Schedule;

/// How to get from noise to a picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sampler {
    /// Euler.
    Euler,
    /// Euler with fresh noise at each step (ComfyUI's rectified-flow variant, eta 1).
    EulerAncestral,
    /// Heun: two evaluations a step but for the last.
    Heun,
    /// DPM-Solver++(2M).
    Dpmpp2m,
    /// LCM: the denoised picture, noised again.
    Lcm,
    /// Extended reverse-time SDE solver of order 3 (arXiv 2309.06169).
    ErSde,
    /// Stochastic Adams solver, predictor 3 and corrector 4 (arXiv 2309.05019).
    SaSolver,
}

impl Sampler {
    /// Names on the command line, in help order.
    pub const NAMES: [(&'static str, Self); 7] = [
        ("euler", Self::Euler),
        ("euler_ancestral", Self::EulerAncestral),
        ("heun", Self::Heun),
        ("dpmpp_2m", Self::Dpmpp2m),
        ("lcm", Self::Lcm),
        ("er_sde", Self::ErSde),
        ("sa_solver", Self::SaSolver),
    ];

    /// The name on the command line.
    pub fn name(self) -> &'static str {
        Self::NAMES
            .iter()
            .find(|(_, s)| *s == self)
            .map_or("", |(name, _)| name)
    }

    /// Walks `x` (noise) down `schedule`; the picture's latents come out.
    ///
    /// # Errors
    /// Those of the model and of the callback, which ends the walk.
    pub fn run(
        self,
        x: Tensor,
        schedule: &Schedule,
        seeds: &[u64],
        walk: &mut dyn Walk,
    ) -> Result<Tensor, PipelineError> {
        let mut noise = StepNoise::new(seeds);
        match self {
            Self::Euler => euler::euler(x, schedule, walk),
            Self::EulerAncestral => euler::euler_ancestral(x, schedule, &mut noise, walk),
            Self::Heun => euler::heun(x, schedule, walk),
            Self::Dpmpp2m => multistep::dpmpp_2m(x, schedule, walk),
            Self::Lcm => euler::lcm(x, schedule, &mut noise, walk),
            Self::ErSde => er_sde::er_sde(x, schedule, &mut noise, walk),
            Self::SaSolver => sa_solver::sa_solver(x, schedule, &mut noise, walk),
        }
    }
}

/// What a sampler needs from outside: the model, and somewhere to report to.
pub trait Walk {
    /// The velocity at `x` and noise level `sigma`.
    ///
    /// # Errors
    /// Those of the model.
    fn velocity(&mut self, x: &Tensor, sigma: f32) -> Result<Tensor, PipelineError>;

    /// Step `step` (from 0) is done; `x` is where it led.
    ///
    /// # Errors
    /// An error ends the walk.
    fn stepped(&mut self, step: usize, x: &Tensor) -> Result<(), PipelineError> {
        let _ = (step, x);
        Ok(())
    }
}

/// `x - sigma * velocity`.
fn denoise(walk: &mut dyn Walk, x: &Tensor, sigma: f32) -> Result<Tensor, PipelineError> {
    let v = walk.velocity(x, sigma)?;
    Ok((x - (v * f64::from(sigma))?)?)
}

/// `a * x + b * y`, the step of every solver here.
fn combine(a: f64, x: &Tensor, b: f64, y: &Tensor) -> candle_core::Result<Tensor> {
    (x * a)? + (y * b)?
}

/// Noise that is drawn on the way: one generator per picture, seeded with its seed + 1 as ComfyUI does on the CPU.
struct StepNoise(Vec<TorchGenerator>);

impl StepNoise {
    fn new(seeds: &[u64]) -> Self {
        Self(
            seeds
                .iter()
                .map(|s| TorchGenerator::new(s.wrapping_add(1)))
                .collect(),
        )
    }

    /// Noise of the shape of `x`.
    fn like(&mut self, x: &Tensor) -> candle_core::Result<Tensor> {
        let n = x.elem_count() / self.0.len().max(1);
        let rows: Vec<f32> = self.0.iter_mut().flat_map(|g| g.randn(n)).collect();
        Tensor::from_vec(rows, x.shape(), &Device::Cpu)
    }
}

/// The levels with a first of 1 moved a little down, where a signal-to-noise ratio exists (ComfyUI
/// `offset_first_sigma_for_snr`), and `log((1 - sigma) / sigma)` of each.
fn half_log_snrs(schedule: &Schedule) -> (Vec<f32>, Vec<f64>) {
    let mut sigmas = schedule.sigmas.clone();
    if sigmas.len() > 1 && sigmas[0] >= 1.0 {
        sigmas[0] = schedule.percent_to_sigma(1e-4) as f32;
    }
    let lambdas = sigmas
        .iter()
        .map(|s| (1.0 - f64::from(*s)).ln() - f64::from(*s).ln())
        .collect();
    (sigmas, lambdas)
}
