//! Which layer first gave a value that is no number: found by doing the failed part again under an observer, so that
//! sound runs pay for one look at each part's result.

use std::sync::{Arc, Mutex, PoisonError};

use candle_core::Tensor;

use super::PipelineError;
use crate::checkpoint::Weights;
use crate::context::{Cx, Observer};

/// Whether every value of `x` (F32) is a finite number.
pub(super) fn is_finite(x: &Tensor) -> candle_core::Result<bool> {
    let values = x.flatten_all()?.to_vec1::<f32>()?;
    Ok(values.iter().all(|v| v.is_finite()))
}

/// A part of a generation whose result is not finite.
pub(super) struct Failed<'a> {
    /// What was done: `step 3`, `decoding`.
    pub during: String,
    /// The weights that it used.
    pub weights: &'a Weights,
    /// What it is called where every layer's output is finite and only the result is not.
    pub result: &'static str,
}

impl Failed<'_> {
    /// Does the work again and names the first layer whose values are not finite.
    pub fn locate<T>(
        self,
        cx: &Cx,
        again: impl FnOnce(&Cx) -> Result<T, PipelineError>,
    ) -> PipelineError {
        let first = Arc::new(FirstNonFinite::default());
        let again = again(&cx.observed_by(first.clone()));
        let seen = first.seen.lock().unwrap_or_else(PoisonError::into_inner);
        // Where a layer refuses to quantize such a value the work ends early, but it was seen on its way there.
        if let (Err(e), None) = (again, &*seen) {
            return e;
        }
        let (place, layer) = match &*seen {
            Some((place, layer)) => (format!("{place} `{layer}`"), layer.as_str()),
            None => (self.result.to_owned(), ""),
        };
        let path = self.weights.path_of(layer);
        // The model inside of the program has a name in place of a path.
        let inspect = match path.exists() {
            true => path.display().to_string(),
            false => "tiny".to_owned(),
        };
        let adapted = !self.weights.pp(layer).adapters().is_empty();
        PipelineError::NonFinite {
            during: self.during,
            place,
            path: path.to_owned(),
            hint: format!(
                "`qwen-nvfp4 inspect --deep {inspect}` finds a damaged weight; if it finds none, {} too large",
                match adapted {
                    true => "the scale of a --lora or the given --latents are",
                    false => "the given --latents or --cfg are",
                }
            ),
        }
    }
}

/// Remembers where values first were not all finite, and what gave them.
#[derive(Default)]
struct FirstNonFinite {
    seen: Mutex<Option<(&'static str, String)>>,
}

impl FirstNonFinite {
    fn look(&self, place: &'static str, layer: &str, finite: impl FnOnce() -> bool) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.is_none() && !finite() {
            *seen = Some((place, layer.to_owned()));
        }
    }

    fn tensor(&self, place: &'static str, layer: &str, value: &Tensor) {
        self.look(place, layer, || is_finite(value).unwrap_or(true));
    }
}

impl Observer for FirstNonFinite {
    // Not finite before any layer's output was: what lies between layers (a norm, attention) gave it.
    fn linear_input(&self, layer: &str, input: &Tensor) {
        self.tensor("what comes in to", layer, input);
    }

    fn linear_output(&self, layer: &str, output: &Tensor) {
        self.tensor("the output of", layer, output);
    }

    fn map_output(&self, layer: &str, output: &[f32]) {
        self.look("the output of", layer, || {
            output.iter().all(|v| v.is_finite())
        });
    }

    fn stage(&self, name: &str, value: &Tensor) {
        self.tensor("the output of", name, value);
    }
}
