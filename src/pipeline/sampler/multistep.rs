//! DPM-Solver++(2M): the slope is extrapolated from the step before (arXiv 2211.01095).

use candle_core::Tensor;

use super::super::PipelineError;
use super::super::schedule::Schedule;
use super::{Walk, combine, denoise};

/// As ComfyUI runs it for every model, in `-log(sigma)`.
pub(super) fn dpmpp_2m(
    mut x: Tensor,
    schedule: &Schedule,
    walk: &mut dyn Walk,
) -> Result<Tensor, PipelineError> {
    let t: Vec<f64> = schedule
        .sigmas
        .iter()
        .map(|s| -f64::from(*s).ln())
        .collect();
    let mut before: Option<Tensor> = None;
    for (i, pair) in schedule.sigmas.windows(2).enumerate() {
        let denoised = denoise(walk, &x, pair[0])?;
        // At the last step h is infinite: the ratio is 0 and the picture is the denoised one.
        let h = t[i + 1] - t[i];
        let target = match before.filter(|_| pair[1] != 0.0) {
            None => denoised.clone(),
            Some(before) => {
                let r = (t[i] - t[i - 1]) / h;
                combine(1.0 + 0.5 / r, &denoised, -0.5 / r, &before)?
            }
        };
        let ratio = f64::from(pair[1]) / f64::from(pair[0]);
        x = combine(ratio, &x, -(-h).exp_m1(), &target)?;
        before = Some(denoised);
        walk.stepped(i, &x)?;
    }
    Ok(x)
}
