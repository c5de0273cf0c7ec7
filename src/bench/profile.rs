//! Where the time of a picture goes.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::context::{Observer, Part};
use crate::pipeline::Timings;

/// Adds up what the transformer's parts take. It watches nothing else, so that what is timed is what runs unwatched.
#[derive(Default)]
pub struct Profile(Mutex<BTreeMap<Part, Duration>>);

impl Observer for Profile {
    fn watches_linears(&self) -> bool {
        false
    }

    fn times(&self) -> bool {
        true
    }

    fn spent(&self, part: Part, time: Duration) {
        let mut spent = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *spent.entry(part).or_default() += time;
    }
}

/// What reports call a part.
fn word(part: Part) -> &'static str {
    match part {
        Part::LinearNvfp4 => "linear nvfp4",
        Part::LinearFp8 => "linear float8_e4m3fn",
        Part::LinearF32 => "linear f32",
        Part::Attention => "attention",
        Part::Norm => "norm and modulation",
    }
}

impl Profile {
    /// Forgets what there was: when steps begin, since text encoders have linear layers too.
    pub fn clear(&self) {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clear();
    }

    /// Seconds by part since [`Self::clear`], for a picture that took `timings` in all.
    pub fn take(&self, timings: &Timings) -> BTreeMap<String, f64> {
        let mut spent = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let spent = std::mem::take(&mut *spent);
        let mut parts: BTreeMap<String, f64> = spent
            .into_iter()
            .map(|(part, time)| (word(part).to_owned(), time.as_secs_f64()))
            .collect();
        let steps: f64 = timings.steps_s.iter().sum();
        let known: f64 = parts.values().sum();
        parts.insert("other".to_owned(), (steps - known).max(0.0));
        parts.insert("text encoder".to_owned(), timings.text_encode_s);
        parts.insert("decode".to_owned(), timings.decode_s);
        parts
    }
}
