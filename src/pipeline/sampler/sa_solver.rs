//! The stochastic Adams solver (Xue et al., arXiv 2309.05019): a predictor of order 3 and a corrector of order 4
//! in the half log signal-to-noise ratio, stochastic in the middle of the way.

use candle_core::Tensor;

use super::super::PipelineError;
use super::super::schedule::Schedule;
use super::{StepNoise, Walk, combine, denoise, half_log_snrs};

const PREDICTOR_ORDER: usize = 3;
const CORRECTOR_ORDER: usize = 4;

/// ComfyUI `sample_sa_solver` with its defaults: tau is 1 between 20 % and 80 % of the way, else 0.
pub(super) fn sa_solver(
    x: Tensor,
    schedule: &Schedule,
    noise: &mut StepNoise,
    walk: &mut dyn Walk,
) -> Result<Tensor, PipelineError> {
    let (sigmas, lambdas) = half_log_snrs(schedule);
    let (from, to) = (
        schedule.percent_to_sigma(0.2),
        schedule.percent_to_sigma(0.8),
    );
    let tau_at = |sigma: f32| match (to..=from).contains(&f64::from(sigma)) {
        true => 1.0,
        false => 0.0,
    };
    let steps = sigmas.len() - 1;
    let (mut x, mut predicted) = (x.clone(), x);
    let mut denoised: Vec<Tensor> = Vec::new();
    let (mut tau, mut h, mut fresh) = (0.0, 0.0, None::<Tensor>);
    for i in 0..steps {
        denoised.push(denoise(walk, &predicted, sigmas[i])?);
        if denoised.len() > CORRECTOR_ORDER {
            denoised.remove(0);
        }
        let last = sigmas[i + 1] == 0.0;
        // The order falls towards the end, which the final 0 makes unstable.
        let corrector = match i == 0 || last {
            true => 0,
            false => CORRECTOR_ORDER.min(denoised.len()).min(steps - i),
        };
        let predictor = PREDICTOR_ORDER.min(denoised.len()).min(steps - 1 - i);

        x = match corrector {
            0 => predicted,
            order => {
                let step = Step {
                    from: i - 1,
                    to: i,
                    newest: i,
                    order,
                };
                let mut x = step.apply(&x, &denoised, (&sigmas, &lambdas), tau, h)?;
                if let Some(fresh) = &fresh {
                    x = (x + fresh)?;
                }
                x
            }
        };
        if last {
            predicted = denoised.swap_remove(denoised.len() - 1);
        } else {
            tau = tau_at(sigmas[i + 1]);
            h = lambdas[i + 1] - lambdas[i];
            let step = Step {
                from: i,
                to: i + 1,
                newest: i,
                order: predictor,
            };
            predicted = step.apply(&x, &denoised, (&sigmas, &lambdas), tau, h)?;
            fresh = None;
            if tau > 0.0 {
                let scale = f64::from(sigmas[i + 1]) * (-(-2.0 * tau * tau * h).exp_m1()).sqrt();
                let drawn = (noise.like(&x)? * scale)?;
                predicted = (predicted + &drawn)?;
                fresh = Some(drawn);
            }
        }
        walk.stepped(i, &predicted)?;
    }
    Ok(predicted)
}

/// One Adams step between two levels through the `order` latest predictions, the newest of level `newest`.
struct Step {
    from: usize,
    to: usize,
    newest: usize,
    order: usize,
}

impl Step {
    fn apply(
        &self,
        x: &Tensor,
        denoised: &[Tensor],
        (sigmas, lambdas): (&[f32], &[f64]),
        tau: f64,
        h: f64,
    ) -> candle_core::Result<Tensor> {
        let nodes = &lambdas[self.newest + 1 - self.order..=self.newest];
        let b = coefficients(nodes, lambdas[self.from], lambdas[self.to], tau);
        let sigma = f64::from(sigmas[self.to]);
        let alpha = sigma * lambdas[self.to].exp();
        let mut out = (x * (sigma / f64::from(sigmas[self.from]) * (-tau * tau * h).exp()))?;
        for (b, d) in b.iter().zip(&denoised[denoised.len() - self.order..]) {
            out = combine(1.0, &out, alpha * b, d)?;
        }
        Ok(out)
    }
}

/// Integrals from s to t of `(1 + tau^2) e^((1 + tau^2)(x - t))` times each Lagrange polynomial of `nodes`.
fn coefficients(nodes: &[f64], s: f64, t: f64, tau: f64) -> Vec<f64> {
    let rate = 1.0 + tau * tau;
    // Moments of x^p by parts: m_p = [x^p e^(rate (x - t))] - p / rate * m_(p - 1).
    let decay = (-rate * (t - s)).exp();
    let mut moments: Vec<f64> = Vec::with_capacity(nodes.len());
    for p in 0..nodes.len() {
        let ends = t.powi(p as i32) - s.powi(p as i32) * decay;
        let below = moments.last().map_or(0.0, |m| p as f64 / rate * m);
        moments.push(ends - below);
    }
    nodes
        .iter()
        .enumerate()
        .map(|(j, node)| {
            // The j-th Lagrange polynomial, coefficients from the constant up.
            let mut poly = vec![1.0];
            for other in nodes
                .iter()
                .enumerate()
                .filter(|(k, _)| *k != j)
                .map(|(_, x)| x)
            {
                let scale = 1.0 / (node - other);
                let mut next = vec![0.0; poly.len() + 1];
                for (p, c) in poly.iter().enumerate() {
                    next[p] -= c * other * scale;
                    next[p + 1] += c * scale;
                }
                poly = next;
            }
            poly.iter().zip(&moments).map(|(c, m)| c * m).sum()
        })
        .collect()
}
