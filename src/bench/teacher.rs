//! Teacher-forced velocities: a converted transformer sees the latents that the baseline's sampler reached, so that no
//! error feeds the next.
//!
//! A [`Lesson`] is one generation of the baseline with everything small of it: latents, noise levels, velocities, embeddings,
//! and how often each layer ran at which shape. No layer's input is kept.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use candle_core::Tensor;
use rayon::prelude::*;

use crate::context::{Cx, Observer};
use crate::model::transformer::{Input, QwenImageTransformer};
use crate::pipeline::levels::condition;
use crate::pipeline::request::Request;
use crate::pipeline::{Engine, PipelineError, Silent};

/// Numbers that one thread adds up. Fixed, so that sums do not depend on how many threads there are.
const CHUNK: usize = 1 << 16;

/// One evaluation of the baseline's transformer on the prompt.
pub struct Evaluation {
    /// The noise level.
    pub sigma: f32,
    /// Packed latents `[1, tokens, in_channels]`: the input of `img_in`.
    pub latents: Tensor,
    /// The velocity `[1, tokens, out_channels * patch^2]` that the prompt gives, unguided.
    pub conditional: Tensor,
    /// The velocity that the sampler got, guided.
    pub guided: Tensor,
}

/// How often a layer ran on `[m, k]` numbers, by m and k.
pub type Calls = BTreeMap<[usize; 2], u64>;

/// What one generation of the baseline showed.
pub struct Lesson {
    /// Rows and columns of packed tokens.
    pub grid: (usize, usize),
    /// Embeddings of the prompt `[1, tokens, hidden]`.
    pub prompt: Tensor,
    /// Those of the negative prompt, where guidance needs it.
    pub negative: Option<Tensor>,
    /// In the order of the sampler.
    pub evaluations: Vec<Evaluation>,
    /// By layer of the transformer that ran.
    pub calls: BTreeMap<String, Calls>,
}

/// Makes lessons.
pub struct Teacher;

impl Teacher {
    /// One generation of `baseline`, without its decoder.
    ///
    /// # Errors
    /// A request for other than one picture, and those of [`Engine::denoise`].
    pub fn watch(baseline: &Engine, request: &Request, cx: &Cx) -> Result<Lesson, PipelineError> {
        if request.prompts.len() != 1 {
            return Err(PipelineError::Request(format!(
                "{} prompts at once; a lesson is of one",
                request.prompts.len()
            )));
        }
        let notes = Arc::new(Notes::default());
        let watched = cx.observed_by(notes.clone());
        baseline.denoise(request, &watched, &mut Silent)?;
        let mut seen = std::mem::take(&mut *notes.lock());
        let weights = &baseline.checkpoint().transformer;
        seen.calls
            .retain(|layer, _| weights.contains(&format!("{layer}.weight")));
        let prompt = seen.prompt.ok_or_else(|| unseen("prompt_embeds"))?;
        Ok(Lesson {
            grid: baseline.latent_shape(&request.settings).grid(),
            prompt,
            negative: seen.negative,
            evaluations: seen.evaluations,
            calls: seen.calls,
        })
    }
}

impl Lesson {
    /// What the transformer got for each evaluation, its noise levels conditioned by `transformer`.
    ///
    /// # Errors
    /// Those of the transformer.
    pub fn inputs(
        &self,
        transformer: &QwenImageTransformer,
        cx: &Cx,
    ) -> Result<Vec<Input>, PipelineError> {
        let txt_lengths = vec![self.prompt.dim(1)?];
        let sigmas: Vec<f32> = self.evaluations.iter().map(|e| e.sigma).collect();
        let inputs = self
            .evaluations
            .iter()
            .zip(condition(transformer, &sigmas, cx)?);
        let inputs = inputs.map(|(evaluation, conditioning)| Input {
            img: evaluation.latents.clone(),
            txt: self.prompt.clone(),
            txt_lengths: txt_lengths.clone(),
            conditioning,
            grid: self.grid,
        });
        Ok(inputs.collect())
    }
}

/// |v - v_base| / |v_base| of `variant` on the lesson's latents, by evaluation, without guidance.
///
/// # Errors
/// Those of the transformer.
pub fn velocity_errors(
    lesson: &Lesson,
    variant: &QwenImageTransformer,
    cx: &Cx,
) -> Result<Vec<f64>, PipelineError> {
    let inputs = lesson.inputs(variant, cx)?.into_iter();
    let errors = inputs.zip(&lesson.evaluations).map(|(input, evaluation)| {
        let v = variant.forward(&input, cx)?;
        let powers = Powers::of(&evaluation.conditional, &v)?;
        Ok(powers.relative_error())
    });
    errors.collect()
}

/// Squared norms of a signal and of what another one is off it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Powers {
    /// Of the signal.
    pub signal: f64,
    /// Of the difference.
    pub noise: f64,
}

impl Powers {
    /// Of two tensors with as many numbers.
    ///
    /// # Errors
    /// Tensors that are not F32, or not alike.
    pub fn of(base: &Tensor, other: &Tensor) -> candle_core::Result<Self> {
        if base.dims() != other.dims() {
            candle_core::bail!("{:?} against {:?}", base.dims(), other.dims());
        }
        let [base, other] = [base, other].map(|t| t.flatten_all()?.to_vec1::<f32>());
        let (base, other) = (base?, other?);
        let parts = base.par_chunks(CHUNK).zip(other.par_chunks(CHUNK));
        let parts: Vec<Self> = parts.map(|(b, o)| Self::of_slices(b, o)).collect();
        Ok(parts.into_iter().fold(Self::default(), Self::plus))
    }

    fn of_slices(base: &[f32], other: &[f32]) -> Self {
        let pairs = base.iter().zip(other);
        pairs.fold(Self::default(), |sum, (b, o)| {
            let (b, o) = (f64::from(*b), f64::from(*o));
            Self {
                signal: sum.signal + b * b,
                noise: sum.noise + (o - b) * (o - b),
            }
        })
    }

    /// Both sums.
    pub fn plus(self, other: Self) -> Self {
        Self {
            signal: self.signal + other.signal,
            noise: self.noise + other.noise,
        }
    }

    /// The root of noise over signal; 0 where there is no noise, infinite where there is nothing else.
    pub fn relative_error(self) -> f64 {
        match self.noise == 0.0 {
            true => 0.0,
            false => (self.noise / self.signal).sqrt(),
        }
    }

    /// Signal over noise in dB; nothing where both are alike bit for bit, which no number of dB says.
    pub fn db(self) -> Option<f64> {
        (self.noise != 0.0).then(|| 10.0 * (self.signal / self.noise).log10())
    }
}

fn unseen(stage: &str) -> PipelineError {
    PipelineError::Request(format!("the generation never came to `{stage}`"))
}

/// What the observer has noted so far.
#[derive(Default)]
struct Seen {
    sigma: f32,
    latents: Option<Tensor>,
    prompt: Option<Tensor>,
    negative: Option<Tensor>,
    evaluations: Vec<Evaluation>,
    calls: BTreeMap<String, Calls>,
}

#[derive(Default)]
struct Notes(Mutex<Seen>);

impl Notes {
    fn lock(&self) -> MutexGuard<'_, Seen> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Observer for Notes {
    fn noise_levels(&self, sigmas: &[f32]) {
        // Before an evaluation it is the one level; a whole schedule's comes earlier.
        if let [sigma] = sigmas {
            self.lock().sigma = *sigma;
        }
    }

    fn linear_input(&self, layer: &str, input: &Tensor) {
        let mut seen = self.lock();
        if layer == "img_in" {
            seen.latents = Some(input.clone());
        }
        let k = input.dims().last().copied().unwrap_or(1).max(1);
        let shape = [input.elem_count() / k, k];
        let calls = seen.calls.entry(layer.to_owned()).or_default();
        *calls.entry(shape).or_default() += 1;
    }

    fn stage(&self, name: &str, value: &Tensor) {
        let mut seen = self.lock();
        match name {
            "prompt_embeds" => seen.prompt = Some(value.clone()),
            "negative_prompt_embeds" => seen.negative = Some(value.clone()),
            "velocity.cond" => {
                let Some(latents) = seen.latents.take() else {
                    return;
                };
                let sigma = seen.sigma;
                seen.evaluations.push(Evaluation {
                    sigma,
                    latents,
                    conditional: value.clone(),
                    guided: value.clone(),
                });
            }
            "velocity" => {
                if let Some(last) = seen.evaluations.last_mut() {
                    last.guided = value.clone();
                }
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use candle_core::Device;

    #[test]
    fn powers_are_those_of_the_definition() {
        let t = |v: &[f32]| Tensor::new(v, &Device::Cpu).unwrap();
        let powers = Powers::of(&t(&[3.0, 4.0]), &t(&[3.0, 4.5])).unwrap();
        assert_eq!((powers.signal, powers.noise), (25.0, 0.25));
        assert_eq!(powers.relative_error(), 0.1);
        assert!((powers.db().unwrap() - 20.0).abs() < 1e-12);
        let same = Powers::of(&t(&[1.0]), &t(&[1.0])).unwrap();
        assert_eq!((same.relative_error(), same.db()), (0.0, None));
        assert!(Powers::of(&t(&[1.0]), &t(&[1.0, 2.0])).is_err());
    }
}
