//! The extended reverse-time SDE solver (Cui et al., arXiv 2309.06169), ER-SDE-Solver-3.

use candle_core::Tensor;

use super::super::PipelineError;
use super::super::schedule::Schedule;
use super::{StepNoise, Walk, combine, denoise, half_log_snrs};

/// Points of the integrals that the higher orders need.
const POINTS: usize = 200;

/// The paper's noise scale function 5.
fn noise_scale(x: f64) -> f64 {
    x * (x.powf(0.3).exp() + 10.0)
}

/// ComfyUI `sample_er_sde` with three stages.
pub(super) fn er_sde(
    mut x: Tensor,
    schedule: &Schedule,
    noise: &mut StepNoise,
    walk: &mut dyn Walk,
) -> Result<Tensor, PipelineError> {
    let (sigmas, lambdas) = half_log_snrs(schedule);
    // lambda = sigma / alpha, with alpha = 1 - sigma.
    let er: Vec<f64> = lambdas.iter().map(|l| (-l).exp()).collect();
    let mut before: Option<Tensor> = None;
    let mut slope_before: Option<Tensor> = None;
    for i in 0..sigmas.len() - 1 {
        let denoised = denoise(walk, &x, sigmas[i])?;
        if sigmas[i + 1] == 0.0 {
            x = denoised;
            walk.stepped(i, &x)?;
            break;
        }
        let (s, t) = (er[i], er[i + 1]);
        let (alpha_s, alpha_t) = (f64::from(sigmas[i]) / s, f64::from(sigmas[i + 1]) / t);
        let r = noise_scale(t) / noise_scale(s);
        x = combine(alpha_t / alpha_s * r, &x, alpha_t * (1.0 - r), &denoised)?;
        if let Some(before) = before {
            let dt = t - s;
            let width = -dt / POINTS as f64;
            let points = (0..POINTS).map(|p| t + p as f64 * width);
            let integral: f64 = points.clone().map(|l| 1.0 / noise_scale(l)).sum::<f64>() * width;
            let run = s - er[i - 1];
            let slope = combine(1.0 / run, &denoised, -1.0 / run, &before)?;
            x = combine(1.0, &x, alpha_t * (dt + integral * noise_scale(t)), &slope)?;
            if let Some(slope_before) = slope_before {
                let integral: f64 = points.map(|l| (l - s) / noise_scale(l)).sum::<f64>() * width;
                let run = (s - er[i - 2]) / 2.0;
                let curve = combine(1.0 / run, &slope, -1.0 / run, &slope_before)?;
                let factor = alpha_t * (dt * dt / 2.0 + integral * noise_scale(t));
                x = combine(1.0, &x, factor, &curve)?;
            }
            slope_before = Some(slope);
        }
        let variance = t * t - s * s * r * r;
        x = combine(
            1.0,
            &x,
            alpha_t * variance.max(0.0).sqrt(),
            &noise.like(&x)?,
        )?;
        before = Some(denoised);
        walk.stepped(i, &x)?;
    }
    Ok(x)
}
