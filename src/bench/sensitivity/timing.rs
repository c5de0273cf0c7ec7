//! What layers take in one format and in another, measured on the shapes that a generation gave them.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use candle_core::{Device, Tensor};

use crate::bench::layer_errors::sides;
use crate::bench::teacher::Lesson;
use crate::checkpoint::Weights;
use crate::context::Cx;
use crate::ops::Linear;
use crate::pipeline::PipelineError;

/// Rounds at least and at most; between them time decides.
const ROUNDS: (usize, usize) = (5, 101);
/// Time after which no further round of one layer and shape is begun.
const LONGEST: Duration = Duration::from_millis(20);

/// Seconds of one picture that `layer` takes in each of the `variants`: by shape the median of several calls, one variant
/// after the other in every round, times how often `lesson` called it. What layers of one input share when they run
/// together (its quantization) is counted for each.
///
/// # Errors
/// Those of the layer.
pub fn seconds<const N: usize>(
    lesson: &Lesson,
    layer: &str,
    variants: [&Weights; N],
    cx: &Cx,
) -> Result<[f64; N], PipelineError> {
    let mut total = [0.0; N];
    let mut linears = Vec::with_capacity(N);
    for weights in variants {
        let Some((n, k)) = sides(weights, layer) else {
            return Ok(total);
        };
        let of_layer = weights.pp(layer);
        let bias = of_layer.contains("bias");
        linears.push(Linear::load(&of_layer, n, k, bias)?);
    }
    for (shape, calls) in lesson.calls.get(layer).into_iter().flatten() {
        let x = input(*shape)?;
        for (sum, seconds) in total.iter_mut().zip(medians(&linears, &x, cx)?) {
            *sum += seconds * *calls as f64;
        }
    }
    Ok(total)
}

/// The same for several layers: seconds by layer.
///
/// # Errors
/// Those of the layers.
pub fn seconds_of<'a, const N: usize>(
    lesson: &Lesson,
    layers: impl Iterator<Item = &'a str>,
    variants: [&Weights; N],
    cx: &Cx,
) -> Result<BTreeMap<String, [f64; N]>, PipelineError> {
    let timed = layers.map(|layer| {
        super::check(cx)?;
        Ok((layer.to_owned(), seconds(lesson, layer, variants, cx)?))
    });
    timed.collect()
}

/// Numbers in [-1, 1] that are the same on every run.
fn input([m, k]: [usize; 2]) -> candle_core::Result<Tensor> {
    let numbers = (0..m * k).map(|i| {
        let hash = (i as u32).wrapping_mul(0x9E37_79B1) >> 8;
        hash as f32 / (1 << 23) as f32 - 1.0
    });
    Tensor::from_vec(numbers.collect::<Vec<f32>>(), (m, k), &Device::Cpu)
}

/// Median seconds of each layer on `x`.
fn medians(linears: &[Linear], x: &Tensor, cx: &Cx) -> candle_core::Result<Vec<f64>> {
    for linear in linears {
        linear.forward(x, cx)?;
    }
    let mut times = vec![Vec::new(); linears.len()];
    let start = Instant::now();
    for round in 0..ROUNDS.1 {
        if round >= ROUNDS.0 && start.elapsed() > LONGEST {
            break;
        }
        // No variant is always the one after the same other.
        for i in 0..linears.len() {
            let i = (i + round) % linears.len();
            let clock = Instant::now();
            linears[i].forward(x, cx)?;
            times[i].push(clock.elapsed().as_secs_f64());
        }
    }
    Ok(times.into_iter().map(median).collect())
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}
