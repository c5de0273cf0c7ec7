//! `calibs/NAME.json`: a [`Capture`], what it was made of and how, and what each statistic would do, readable.
//!
//! `taps` hold the counts, from which everything under `layers` follows; merging and resuming read nothing else. No date and no
//! duration is in it: the same work gives the same bytes.

use std::collections::BTreeMap;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::CalibrationError;
use super::capture::{Capture, LEVELS, Tap};
use super::counts;
use super::readable::{readable, stream};
use super::samples::{MOST, Samples};
use crate::numerics::tally::{Elements, Tally};

/// The schema that this program writes and reads.
pub const VERSION: u32 = 1;
/// A model as a calibration knows it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModelLabel {
    /// File or folder name.
    pub name: String,
    /// `Checkpoint::transformer_fingerprint`.
    pub fingerprint: String,
    /// How its weights are stored: `178 float8_e4m3fn`.
    pub weights: String,
}

/// What all samples of a part have in common. Two parts with the same of it are one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Recipe {
    /// SHA-256 over the prompts, a line each.
    pub prompts_sha256: String,
    /// How many prompts.
    pub prompts: usize,
    /// Sizes, `64x64`.
    pub sizes: Vec<String>,
    /// Step counts.
    pub steps: Vec<usize>,
    /// Guidance scales.
    pub cfg: Vec<f64>,
    /// Seed of sample 0.
    pub seed: u64,
    /// How samples take their values of these lists: `cycle` or `drawn`.
    pub plan: String,
    /// Negative prompt, sampler, schedule, template: one line.
    pub settings: String,
}

/// Samples of one recipe.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Part {
    /// How they are made.
    #[serde(flatten)]
    pub recipe: Recipe,
    /// Which of them are in: first and last of each unbroken row, in order.
    pub done: Samples,
}

/// A calibration as it is stored.
#[derive(Clone, Debug, PartialEq)]
pub struct CalibrationFile {
    /// The version of the program that made it.
    pub engine: String,
    /// The model that it is for.
    pub model: ModelLabel,
    /// The model that ran: the same, or one converted from it.
    pub observed: ModelLabel,
    /// How activations were quantized in it: `static`, `dynamic`, `none`.
    pub activations: String,
    /// What was run.
    pub parts: Vec<Part>,
    /// Layers of the model that no sample ran.
    pub never_ran: Vec<String>,
    /// What was seen.
    pub capture: Capture,
}

#[derive(Serialize, Deserialize)]
struct Run {
    samples: u64,
    activations: String,
    parts: Vec<Part>,
}

#[derive(Deserialize)]
struct Stored {
    version: u32,
    engine: String,
    model: ModelLabel,
    observed: ModelLabel,
    run: Run,
    never_ran: Vec<String>,
    layers: BTreeMap<String, StoredLayer>,
    taps: Vec<StoredTap>,
}

#[derive(Deserialize)]
struct StoredLayer {
    tap: usize,
}

#[derive(Serialize, Deserialize)]
struct StoredTap {
    levels: [Option<StoredTally>; LEVELS],
    samples: BTreeMap<usize, u64>,
}

#[derive(Serialize, Deserialize)]
struct StoredTally {
    amax: f32,
    elements: String,
    blocks: String,
    profile: String,
}

impl CalibrationFile {
    /// Samples of all parts.
    pub fn samples(&self) -> u64 {
        self.parts.iter().map(|part| part.done.count()).sum()
    }

    /// Adds another one of the same model: exact, and in any order the same bytes.
    ///
    /// # Errors
    /// Another model, another way to run it, a sample that both have.
    pub fn merge(&mut self, other: &Self) -> Result<(), String> {
        let labels = |f: &Self| [&f.model, &f.observed].map(|m| m.fingerprint.clone());
        if labels(self) != labels(other) {
            return Err(format!(
                "it is of {} (observed: {}), the others are of {} (observed: {})",
                other.model.name, other.observed.name, self.model.name, self.observed.name
            ));
        }
        for (what, mine, theirs) in [
            ("engine", &self.engine, &other.engine),
            ("activations", &self.activations, &other.activations),
        ] {
            if mine != theirs {
                return Err(format!("its {what} is {theirs}, that of the others {mine}"));
            }
        }
        self.capture.merge(&other.capture).map_err(|layer| {
            format!("layer `{layer}` is not in both, or shares its input with other layers")
        })?;
        for part in &other.parts {
            match self.parts.iter_mut().find(|p| p.recipe == part.recipe) {
                Some(mine) => mine.done.merge(&part.done).map_err(|i| {
                    format!("sample {i} is in it and in the others, and would count twice")
                })?,
                None => self.parts.push(part.clone()),
            }
        }
        let key = |part: &Part| serde_json::to_string(&part.recipe).unwrap_or_default();
        self.parts.sort_by_cached_key(key);
        self.never_ran
            .retain(|layer| other.never_ran.contains(layer));
        Ok(())
    }

    /// The file's text. Without `statistics` only what merging and resuming read.
    pub fn to_json(&self, statistics: bool) -> String {
        let run = Run {
            samples: self.samples(),
            activations: self.activations.clone(),
            parts: self.parts.clone(),
        };
        let head = json!({
            "version": VERSION,
            "engine": self.engine,
            "model": self.model,
            "observed": self.observed,
            "run": run,
            "never_ran": self.never_ran,
        });
        // A line for each layer and each tap.
        let entries = match statistics {
            true => self.entries(),
            false => self.capture.taps.iter().map(|_| json!({})).collect(),
        };
        let layers = self.capture.layers.iter().map(|(layer, tap)| {
            let mut entry = json!({ "tap": tap });
            if statistics {
                entry["stream"] = json!(stream(layer));
                if let (Some(entry), Some(seen)) =
                    (entry.as_object_mut(), entries[*tap].as_object())
                {
                    entry.extend(seen.clone());
                }
            }
            format!("{}:{entry}", json!(layer))
        });
        let taps = self.capture.taps.par_iter();
        let taps = taps.map(|tap| serde_json::to_string(&StoredTap::of(tap)).unwrap_or_default());
        let head = head.to_string();
        format!(
            "{},\n\"layers\":{{\n{}\n}},\n\"taps\":[\n{}\n]}}\n",
            head.strip_suffix('}').unwrap_or(&head),
            layers.collect::<Vec<_>>().join(",\n"),
            taps.collect::<Vec<_>>().join(",\n"),
        )
    }

    /// What there is to read of each tap.
    fn entries(&self) -> Vec<serde_json::Value> {
        self.capture.taps.par_iter().map(readable).collect()
    }

    /// Reads what [`Self::to_json`] wrote.
    ///
    /// # Errors
    /// Text that is cut short, of another kind or version, or whose counts contradict each other.
    pub fn parse(name: &str, text: &str) -> Result<Self, CalibrationError> {
        let refuse = |reason: String| CalibrationError {
            name: name.to_owned(),
            reason,
        };
        let stored: Stored = serde_json::from_str(text).map_err(|e| {
            let how = match e.is_eof() {
                true => "it is cut short",
                false => "it is no calibration with counts",
            };
            refuse(format!("{how} ({e}); calibrate again"))
        })?;
        if stored.version != VERSION {
            return Err(refuse(format!(
                "its version is {}, {VERSION} is known; calibrate again",
                stored.version
            )));
        }
        let layers = stored
            .layers
            .into_iter()
            .map(|(name, layer)| (name, layer.tap));
        let layers: BTreeMap<String, usize> = layers.collect();
        if let Some((layer, _)) = layers.iter().find(|(_, tap)| **tap >= stored.taps.len()) {
            return Err(refuse(format!(
                "layer `{layer}` has no counts; it is damaged"
            )));
        }
        if let Some(part) = stored.run.parts.iter().find(|p| !p.done.is_sound()) {
            return Err(refuse(format!(
                "its samples {:?} are no set; it is damaged",
                part.done
            )));
        }
        let taps = stored.taps.iter().enumerate().map(|(i, tap)| {
            tap.read().map_err(|reason| {
                let readers = layers.iter().find(|(_, tap)| **tap == i);
                let layer = readers.map_or("none", |(layer, _)| layer);
                refuse(format!(
                    "layer `{layer}` has {reason}; it is damaged, calibrate again"
                ))
            })
        });
        Ok(Self {
            engine: stored.engine,
            model: stored.model,
            observed: stored.observed,
            activations: stored.run.activations,
            parts: stored.run.parts,
            never_ran: stored.never_ran,
            capture: Capture {
                taps: taps.collect::<Result<_, _>>()?,
                layers,
            },
        })
    }
}

impl StoredTap {
    fn of(tap: &Tap) -> Self {
        let tally = |tally: &Tally| StoredTally {
            amax: tally.amax,
            elements: counts::encode(tally.elements.counts()),
            blocks: counts::encode(tally.blocks.counts()),
            profile: counts::encode(tally.profile.counts()),
        };
        Self {
            levels: tap.levels.each_ref().map(|t| t.as_deref().map(tally)),
            samples: tap.samples.clone(),
        }
    }

    fn read(&self) -> Result<Tap, String> {
        let mut tap = Tap {
            samples: self.samples.clone(),
            ..Tap::default()
        };
        for (level, stored) in tap.levels.iter_mut().zip(&self.levels) {
            if let Some(stored) = stored {
                *level = Some(Box::new(stored.read()?));
            }
        }
        if self.samples.keys().any(|bin| *bin >= Elements::BINS) {
            return Err("samples beyond the last bin".to_owned());
        }
        let counts: Vec<u64> = self.samples.values().copied().collect();
        check_sum(&counts)?;
        Ok(tap)
    }
}

impl StoredTally {
    fn read(&self) -> Result<Tally, String> {
        let mut tally = Tally {
            amax: self.amax,
            ..Tally::default()
        };
        counts::decode(&self.elements, tally.elements.counts_mut())?;
        counts::decode(&self.blocks, tally.blocks.counts_mut())?;
        counts::decode(&self.profile, tally.profile.counts_mut())?;
        for counts in [
            tally.elements.counts(),
            tally.blocks.counts(),
            tally.profile.counts(),
        ] {
            check_sum(counts)?;
        }
        let highest = tally.elements.filled().last().map(|(bin, _)| bin);
        // Magnitudes are compared as bits, which a sign would spoil.
        let magnitude = self.amax.is_finite() && self.amax.is_sign_positive();
        match magnitude && highest == Some(Elements::bin(self.amax)) {
            true => Ok(tally),
            false => Err(format!(
                "an amax of {} that its counts contradict",
                self.amax
            )),
        }
    }
}

/// Refuses counts whose sum, or that of several files, could overflow: no run gets there.
fn check_sum(counts: &[u64]) -> Result<(), String> {
    let sum = counts.iter().try_fold(0u64, |sum, n| sum.checked_add(*n));
    match sum {
        Some(sum) if sum < MOST => Ok(()),
        _ => Err("more counts than there can be".to_owned()),
    }
}
