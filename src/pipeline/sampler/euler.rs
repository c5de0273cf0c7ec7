//! One-step samplers.

use candle_core::Tensor;

use super::super::PipelineError;
use super::super::schedule::Schedule;
use super::{StepNoise, Walk, combine, denoise};

/// `x += (sigma' - sigma) v`.
pub(super) fn euler(
    mut x: Tensor,
    schedule: &Schedule,
    walk: &mut dyn Walk,
) -> Result<Tensor, PipelineError> {
    for (i, pair) in schedule.sigmas.windows(2).enumerate() {
        let v = walk.velocity(&x, pair[0])?;
        x = (x + (v * f64::from(pair[1] - pair[0]))?)?;
        walk.stepped(i, &x)?;
    }
    Ok(x)
}

/// Steps further down than asked, then adds noise back up to the level (ComfyUI `sample_euler_ancestral_RF`, eta 1).
pub(super) fn euler_ancestral(
    mut x: Tensor,
    schedule: &Schedule,
    noise: &mut StepNoise,
    walk: &mut dyn Walk,
) -> Result<Tensor, PipelineError> {
    for (i, pair) in schedule.sigmas.windows(2).enumerate() {
        let denoised = denoise(walk, &x, pair[0])?;
        let (sigma, next) = (f64::from(pair[0]), f64::from(pair[1]));
        x = match next == 0.0 {
            true => denoised,
            false => {
                let down = next * (next / sigma);
                let (alpha_next, alpha_down) = (1.0 - next, 1.0 - down);
                let renoise = next * next - (down * alpha_next / alpha_down).powi(2);
                let ratio = down / sigma;
                let stepped = combine(ratio, &x, 1.0 - ratio, &denoised)?;
                combine(
                    alpha_next / alpha_down,
                    &stepped,
                    renoise.sqrt(),
                    &noise.like(&stepped)?,
                )?
            }
        };
        walk.stepped(i, &x)?;
    }
    Ok(x)
}

/// The mean of the slopes at both ends of a step (Karras et al. 2022, algorithm 1).
pub(super) fn heun(
    mut x: Tensor,
    schedule: &Schedule,
    walk: &mut dyn Walk,
) -> Result<Tensor, PipelineError> {
    for (i, pair) in schedule.sigmas.windows(2).enumerate() {
        let dt = f64::from(pair[1] - pair[0]);
        let v = walk.velocity(&x, pair[0])?;
        let ahead = combine(1.0, &x, dt, &v)?;
        x = match pair[1] == 0.0 {
            true => ahead,
            false => {
                let v_ahead = walk.velocity(&ahead, pair[1])?;
                combine(1.0, &x, dt / 2.0, &(v + v_ahead)?)?
            }
        };
        walk.stepped(i, &x)?;
    }
    Ok(x)
}

/// The denoised picture, noised to the next level.
pub(super) fn lcm(
    mut x: Tensor,
    schedule: &Schedule,
    noise: &mut StepNoise,
    walk: &mut dyn Walk,
) -> Result<Tensor, PipelineError> {
    for (i, pair) in schedule.sigmas.windows(2).enumerate() {
        x = denoise(walk, &x, pair[0])?;
        let next = f64::from(pair[1]);
        if next > 0.0 {
            x = combine(1.0 - next, &x, next, &noise.like(&x)?)?;
        }
        walk.stepped(i, &x)?;
    }
    Ok(x)
}
