//! Watches the input of every layer of the transformer just before it is quantized.
//!
//! Small inputs are handed, many at a time, to a thread that counts them while the generation goes on; a large one is
//! counted at once on all threads, since keeping it would cost more memory than the counts.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use candle_core::{Storage, Tensor, TensorId};
use rayon::prelude::*;

use crate::context::Observer;
use crate::numerics::tally::{Elements, Scratch, Tally};
use crate::ops::operand;
use crate::quantize::calibration::capture::{Capture, Tap, level_of};

/// Numbers that are counted at a time by one thread. An input with more is large.
const AT_ONCE: usize = 1 << 16;
/// Numbers of small inputs that are handed over together: 1 MB.
const TOGETHER: usize = 1 << 18;
/// So many such parcels wait at most.
const WAITING: usize = 4;

/// Adds what it sees to a [`Capture`].
pub struct Watch {
    /// Layers of the transformer; others (the text encoder's) are let by.
    layers: BTreeSet<String>,
    front: Mutex<Front>,
    counts: Arc<Mutex<Counts>>,
}

/// What the generation's thread knows.
struct Front {
    /// By layer: its tap.
    taps: BTreeMap<String, usize>,
    /// How many taps there are.
    len: usize,
    /// Noise levels of what comes: one, or one a row.
    levels: Arc<[f32]>,
    /// The input that came last, and its tap: layers that read the same one follow each other.
    last: Option<(TensorId, usize)>,
    parcel: Vec<Kept>,
    numbers: usize,
    counter: SyncSender<Parcel>,
}

/// What the counting thread is sent.
enum Parcel {
    Inputs(Vec<Kept>),
    /// It answers when all that came before is counted.
    Flush(SyncSender<()>),
}

/// An input of a tap at its noise levels.
struct Kept {
    tap: usize,
    input: Tensor,
    levels: Arc<[f32]>,
}

/// What was counted.
#[derive(Default)]
struct Counts {
    capture: Capture,
    /// By tap: the largest magnitude of this sample.
    largest: Vec<f32>,
    /// The first tap that could not be counted, and why.
    fault: Option<(usize, String)>,
}

impl Watch {
    /// Goes on with `capture`.
    pub fn new(layers: impl IntoIterator<Item = String>, capture: Capture) -> Self {
        let (counter, parcels) = sync_channel(WAITING);
        let front = Front {
            taps: capture.layers.clone(),
            len: capture.taps.len(),
            levels: Arc::default(),
            last: None,
            parcel: Vec::new(),
            numbers: 0,
            counter,
        };
        let counts = Arc::new(Mutex::new(Counts {
            capture,
            ..Counts::default()
        }));
        let of_thread = counts.clone();
        // It ends with the sender, which is the watch's.
        thread::spawn(move || {
            let mut scratch = Scratch::default();
            for parcel in parcels {
                match parcel {
                    Parcel::Inputs(inputs) => {
                        let mut counts = lock(&of_thread);
                        inputs
                            .iter()
                            .for_each(|kept| counts.add(kept, &mut scratch));
                    }
                    Parcel::Flush(done) => drop(done.send(())),
                }
            }
        });
        Self {
            layers: layers.into_iter().collect(),
            front: Mutex::new(front),
            counts,
        }
    }

    /// Ends a sample.
    ///
    /// # Errors
    /// The first layer whose input could not be counted, and why.
    pub fn end_sample(&self) -> Result<(), String> {
        let mut front = lock(&self.front);
        let flushed = front.flush();
        let mut counts = lock(&self.counts);
        counts.capture.layers.clone_from(&front.taps);
        flushed?;
        if let Some((tap, reason)) = counts.fault.take() {
            let layer = front.taps.iter().find(|(_, of)| **of == tap);
            let layer = layer.map_or("", |(layer, _)| layer);
            return Err(format!("layer `{layer}`: {reason}"));
        }
        let Counts {
            capture, largest, ..
        } = &mut *counts;
        for (tap, largest) in capture.taps.iter_mut().zip(largest) {
            // What did not run in this sample has no largest.
            if *largest > 0.0 {
                let bin = Elements::bin(std::mem::take(largest));
                *tap.samples.entry(bin).or_default() += 1;
            }
        }
        Ok(())
    }

    /// What was seen so far, between two samples.
    pub fn with_capture<T>(&self, look: impl FnOnce(&mut Capture) -> T) -> T {
        look(&mut lock(&self.counts).capture)
    }
}

fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Observer for Watch {
    fn noise_levels(&self, sigmas: &[f32]) {
        lock(&self.front).levels = sigmas.into();
    }

    fn linear_input(&self, layer: &str, input: &Tensor) {
        if !self.layers.contains(layer) {
            return;
        }
        let mut front = lock(&self.front);
        let Some(tap) = front.tap_of(layer, input) else {
            return;
        };
        let kept = Kept {
            tap,
            input: input.clone(),
            levels: front.levels.clone(),
        };
        match input.elem_count() > AT_ONCE {
            true => lock(&self.counts).add(&kept, &mut Scratch::default()),
            false => front.keep(kept),
        }
    }
}

impl Front {
    /// The tap whose input this is; `None` where it is the one that just came, for another layer.
    fn tap_of(&mut self, layer: &str, input: &Tensor) -> Option<usize> {
        let shared = self.last.filter(|(id, _)| *id == input.id());
        let tap = match (self.taps.get(layer), shared) {
            (Some(tap), Some((_, last))) if *tap == last => return None,
            (Some(tap), _) => *tap,
            (None, Some((_, last))) => {
                self.taps.insert(layer.to_owned(), last);
                return None;
            }
            (None, None) => {
                self.taps.insert(layer.to_owned(), self.len);
                self.len += 1;
                self.len - 1
            }
        };
        self.last = Some((input.id(), tap));
        Some(tap)
    }

    fn keep(&mut self, kept: Kept) {
        self.numbers += kept.input.elem_count();
        self.parcel.push(kept);
        if self.numbers >= TOGETHER {
            // A thread that has ended is noticed by `flush`.
            let _ = self.hand_over();
        }
    }

    fn hand_over(&mut self) -> Result<(), String> {
        self.numbers = 0;
        let parcel = Parcel::Inputs(std::mem::take(&mut self.parcel));
        self.counter.send(parcel).map_err(|_| ENDED.to_owned())
    }

    /// Waits until everything is counted.
    fn flush(&mut self) -> Result<(), String> {
        self.hand_over()?;
        let (done, answer) = sync_channel(1);
        let asked = self.counter.send(Parcel::Flush(done));
        asked.map_err(|_| ENDED.to_owned())?;
        answer.recv().map_err(|_| ENDED.to_owned())
    }
}

/// Only a panic ends it, which no input should cause.
const ENDED: &str = "the thread that counts has ended";

impl Counts {
    fn add(&mut self, kept: &Kept, scratch: &mut Scratch) {
        let taps = &mut self.capture.taps;
        let len = taps.len().max(kept.tap + 1);
        taps.resize_with(len, Tap::default);
        self.largest.resize(len, 0.0);
        let reason = match kept.count(&mut taps[kept.tap], scratch) {
            Ok(magnitude) if magnitude.is_finite() => {
                let largest = &mut self.largest[kept.tap];
                *largest = largest.max(magnitude);
                return;
            }
            Ok(magnitude) => format!("its input holds {magnitude}"),
            Err(e) => e.to_string(),
        };
        self.fault.get_or_insert((kept.tap, reason));
    }
}

impl Kept {
    /// Adds the input to its tap; its largest magnitude comes back.
    fn count(&self, tap: &mut Tap, scratch: &mut Scratch) -> candle_core::Result<f32> {
        let k = self.input.dims().last().copied().unwrap_or(1).max(1);
        let input = self.input.contiguous()?;
        let (storage, layout) = input.storage_and_layout();
        let Storage::Cpu(storage) = &*storage else {
            candle_core::bail!("it is not in main memory");
        };
        let x = operand(storage, layout)?;
        match &*self.levels {
            [] => candle_core::bail!("nothing said at which noise level it runs"),
            [sigma] if x.len() > AT_ONCE => {
                let parts = in_parts(x, k);
                tally_of(tap, *sigma).merge(&parts);
                Ok(parts.amax)
            }
            [sigma] => Ok(tally_of(tap, *sigma).add(x, k, 0, scratch)),
            sigmas if sigmas.len() * k == x.len() => {
                let rows = x.chunks(k).zip(sigmas).enumerate();
                let largest =
                    rows.map(|(row, (x, sigma))| tally_of(tap, *sigma).add(x, k, row, scratch));
                // NaN is above all others.
                Ok(largest.max_by(f32::total_cmp).unwrap_or(0.0))
            }
            sigmas => candle_core::bail!("{} rows at {} noise levels", x.len() / k, sigmas.len()),
        }
    }
}

fn tally_of(tap: &mut Tap, sigma: f32) -> &mut Tally {
    tap.levels[level_of(sigma)].get_or_insert_default()
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
