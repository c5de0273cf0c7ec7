//! Watches the input of every layer of the transformer just before it is quantized.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use candle_core::{Storage, Tensor, TensorId};
use rayon::prelude::*;

use crate::context::Observer;
use crate::numerics::tally::{Elements, Scratch, Tally};
use crate::ops::operand;
use crate::quantize::calibration::capture::{Capture, LEVELS, Tap, level_of};

/// Numbers that are counted at a time by one thread. Smaller inputs are not worth dividing.
const AT_ONCE: usize = 1 << 16;

/// Adds what it sees to a [`Capture`].
pub struct Watch {
    /// Layers of the transformer; others (the text encoder's) are let by.
    layers: BTreeSet<String>,
    seen: Mutex<Seen>,
}

#[derive(Default)]
struct Seen {
    capture: Capture,
    /// Noise levels of what comes: one, or one a row.
    levels: Vec<f32>,
    /// The input that was counted last, and its tap: layers that read the same one follow each other.
    last: Option<(TensorId, usize)>,
    /// By tap: the largest magnitude of this sample.
    largest: Vec<f32>,
    scratch: Scratch,
    /// What could not be counted, and why.
    fault: Option<String>,
}

impl Watch {
    /// Goes on with `capture`.
    pub fn new(layers: impl IntoIterator<Item = String>, capture: Capture) -> Self {
        let largest = vec![0.0; capture.taps.len()];
        Self {
            layers: layers.into_iter().collect(),
            seen: Mutex::new(Seen {
                capture,
                largest,
                ..Seen::default()
            }),
        }
    }

    /// Ends a sample.
    ///
    /// # Errors
    /// The first layer whose input could not be counted, and why.
    pub fn end_sample(&self) -> Result<(), String> {
        let mut seen = self.lock();
        if let Some(fault) = seen.fault.take() {
            return Err(fault);
        }
        let Seen {
            capture, largest, ..
        } = &mut *seen;
        for (tap, largest) in capture.taps.iter_mut().zip(largest) {
            // What did not run in this sample has no largest.
            if *largest > 0.0 {
                let bin = Elements::bin(std::mem::take(largest));
                *tap.samples.entry(bin).or_default() += 1;
            }
        }
        seen.last = None;
        Ok(())
    }

    /// What was seen so far, between two samples.
    pub fn with_capture<T>(&self, look: impl FnOnce(&mut Capture) -> T) -> T {
        look(&mut self.lock().capture)
    }

    fn lock(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Observer for Watch {
    fn noise_levels(&self, sigmas: &[f32]) {
        self.lock().levels = sigmas.to_vec();
    }

    fn linear_input(&self, layer: &str, input: &Tensor) {
        if !self.layers.contains(layer) {
            return;
        }
        let mut seen = self.lock();
        if let Err(e) = seen.look(layer, input) {
            seen.fault.get_or_insert(format!("layer `{layer}`: {e}"));
        }
    }
}

impl Seen {
    fn look(&mut self, layer: &str, input: &Tensor) -> Result<(), String> {
        let shared = self.last.filter(|(id, _)| *id == input.id());
        let tap = match (self.capture.layers.get(layer), shared) {
            (Some(tap), Some((_, last))) if *tap == last => return Ok(()),
            (Some(tap), _) => *tap,
            (None, Some((_, last))) => {
                self.capture.layers.insert(layer.to_owned(), last);
                return Ok(());
            }
            (None, None) => {
                self.capture.taps.push(Tap::default());
                self.largest.push(0.0);
                let tap = self.capture.taps.len() - 1;
                self.capture.layers.insert(layer.to_owned(), tap);
                tap
            }
        };
        let magnitude = self.count(tap, input).map_err(|e| e.to_string())?;
        self.last = Some((input.id(), tap));
        match magnitude.is_finite() {
            true => self.largest[tap] = self.largest[tap].max(magnitude),
            false => return Err(format!("its input holds {magnitude}")),
        }
        Ok(())
    }

    /// Adds `input` to a tap; its largest magnitude comes back.
    fn count(&mut self, tap: usize, input: &Tensor) -> candle_core::Result<f32> {
        let k = input.dims().last().copied().unwrap_or(1).max(1);
        let input = input.contiguous()?;
        let (storage, layout) = input.storage_and_layout();
        let Storage::Cpu(storage) = &*storage else {
            candle_core::bail!("it is not in main memory");
        };
        let x = operand(storage, layout)?;
        let levels = &mut self.capture.taps[tap].levels;
        let scratch = &mut self.scratch;
        match self.levels.as_slice() {
            [] => candle_core::bail!("nothing said at which noise level it runs"),
            [sigma] if x.len() > AT_ONCE => {
                let parts = in_parts(x, k);
                tally_of(levels, *sigma).merge(&parts);
                Ok(parts.amax)
            }
            [sigma] => Ok(tally_of(levels, *sigma).add(x, k, 0, scratch)),
            sigmas if sigmas.len() * k == x.len() => {
                let rows = x.chunks(k).zip(sigmas).enumerate();
                let largest =
                    rows.map(|(row, (x, sigma))| tally_of(levels, *sigma).add(x, k, row, scratch));
                // NaN is above all others.
                Ok(largest.max_by(f32::total_cmp).unwrap_or(0.0))
            }
            sigmas => candle_core::bail!("{} rows at {} noise levels", x.len() / k, sigmas.len()),
        }
    }
}

fn tally_of(levels: &mut [Option<Box<Tally>>; LEVELS], sigma: f32) -> &mut Tally {
    levels[level_of(sigma)].get_or_insert_default()
}

/// A large input, on all threads.
fn in_parts(x: &[f32], k: usize) -> Tally {
    let rows = (AT_ONCE / k).max(1);
    let parts = x.par_chunks(rows * k).enumerate();
    let fresh = || (Tally::default(), Scratch::default());
    let add = |(mut tally, mut scratch): (Tally, Scratch), (i, x): (usize, &[f32])| {
        tally.add(x, k, i * rows, &mut scratch);
        (tally, scratch)
    };
    let merge = |mut a: Tally, b: Tally| {
        a.merge(&b);
        a
    };
    let parts = parts.fold(fresh, add).map(|(tally, _)| tally);
    parts.reduce(Tally::default, merge)
}
