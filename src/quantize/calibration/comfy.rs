//! ComfyUI's capture (`CALIB_DATA.json`, written by the patch of comfy-dit-quantizer): statistics by layer and by sixth of the
//! noise levels.
//!
//! The first version of the patch added up over calls what should be maxima; a later one takes maxima. Nothing in the file
//! says which, but `count` does: where maxima were taken it is the number of calls, alike for all layers of a sixth; where
//! sums, it is 1 for a small input and its size over 131072 for a large one. Where counts leave it open, maxima are known
//! by being BF16 or F16 numbers, which sums of several are not.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use serde_json::{Value, json};

use super::capture::LEVELS;
use super::{Calibration, CalibrationError, MAX, Range, without_prefix};

/// What stands behind a layer's name, before the number of the sixth.
const LEVEL: &str = "_bin";
/// Share of numbers that look like maxima or do not, above which the file is taken for such.
const MOST: f64 = 0.95;

/// What the numbers of a capture are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// The largest over all calls.
    Maxima,
    /// The sum over all calls.
    Sums,
}

/// One layer in one sixth of the noise levels.
#[derive(Clone, Copy, Debug, Deserialize)]
struct Stats {
    amax: f64,
    p99_9: f64,
    count: f64,
}

/// A capture.
#[derive(Clone, Debug)]
pub struct Captured {
    name: String,
    layers: BTreeMap<String, [Option<Stats>; LEVELS]>,
    /// What its numbers are, if that can be told.
    pub form: Option<Form>,
    /// By what it was told, or why it cannot be.
    pub why: String,
}

/// Whether `layers` are those of a capture.
pub(super) fn is_capture(layers: &Value) -> bool {
    let first = layers.as_object().and_then(|layers| layers.keys().next());
    first.is_some_and(|name| split(name).is_some())
}

/// Layer and sixth.
fn split(listed: &str) -> Option<(&str, usize)> {
    let (layer, level) = listed.rsplit_once(LEVEL)?;
    let level = level.parse().ok()?;
    (level < LEVELS).then_some((without_prefix(layer), level))
}

impl Captured {
    /// Reads a capture.
    ///
    /// # Errors
    /// Another kind of file, a number that is none.
    pub fn parse(name: &str, text: &str) -> Result<Self, CalibrationError> {
        let refuse = |reason: String| CalibrationError::new(name, reason);
        #[derive(Deserialize)]
        struct File {
            layers: BTreeMap<String, Stats>,
        }
        let file: File = serde_json::from_str(text).map_err(|e| {
            refuse(format!(
                "it is no capture of ComfyUI ({e}); give the CALIB_DATA.json that it wrote"
            ))
        })?;
        let mut layers = BTreeMap::<String, [Option<Stats>; LEVELS]>::new();
        for (listed, stats) in &file.layers {
            let (layer, level) = split(listed).ok_or_else(|| {
                refuse(format!(
                    "`{listed}` does not end in `_bin0` to `_bin5`, as layers of a capture do"
                ))
            })?;
            let sound = |x: f64| x.is_finite() && x >= 0.0;
            if !(sound(stats.amax) && sound(stats.p99_9) && stats.count > 0.0) {
                return Err(refuse(format!("`{listed}` has {stats:?}; capture again")));
            }
            let slot = &mut layers.entry(layer.to_owned()).or_default()[level];
            if slot.replace(*stats).is_some() {
                return Err(refuse(format!(
                    "`{listed}` is listed twice, with and without prefix"
                )));
            }
        }
        if layers.is_empty() {
            return Err(refuse("it lists no layer".to_owned()));
        }
        let (form, why) = form_of(&layers);
        Ok(Self {
            name: name.to_owned(),
            layers,
            form,
            why,
        })
    }

    /// The ranges, if the numbers are maxima.
    ///
    /// # Errors
    /// Sums, or numbers of which that cannot be told; a statistic that a capture does not have.
    pub fn calibration(&self, stat: &str) -> Result<Calibration, CalibrationError> {
        if self.form != Some(Form::Maxima) {
            return Err(self.refuse(format!(
                "{}; `qwen-nvfp4 calibrate import {} -o OUT.json` says what can be done",
                self.why, self.name
            )));
        }
        let ranges = self.layers.iter().map(|(layer, levels)| {
            let values = levels.iter().flatten().map(|s| match stat {
                MAX => Some(s.amax),
                "p99.9" => Some(s.p99_9),
                _ => None,
            });
            let largest = values.collect::<Option<Vec<f64>>>().ok_or_else(|| {
                self.refuse(format!("a capture has no `{stat}`; it has max and p99.9"))
            })?;
            let range = Range::plain(largest.into_iter().fold(0.0, f64::max) as f32);
            let range =
                range.map_err(|e| self.refuse(format!("layer `{layer}` has {stat} {e}")))?;
            Ok((layer.clone(), range))
        });
        Ok(Calibration {
            name: self.name.clone(),
            stat: stat.to_owned(),
            model: None,
            never_ran: BTreeSet::new(),
            ranges: ranges.collect::<Result<_, CalibrationError>>()?,
        })
    }

    /// The file that `calibrate import` writes. With `calls` (by sixth), sums are divided by them: what comes out is the mean
    /// of the calls' maxima, and the file says so.
    ///
    /// # Errors
    /// Sums without a number of calls, numbers of which it cannot be told what they are.
    pub fn import(
        &self,
        form: Option<Form>,
        calls: Option<[u64; LEVELS]>,
    ) -> Result<String, CalibrationError> {
        let (form, why) = match (form, self.form) {
            (Some(said), Some(told)) if said != told => {
                return Err(self.refuse(
                    format!("it is said to hold {said:?}, but {}", self.why).to_lowercase(),
                ));
            }
            (Some(said), None) => (said, format!("said to be {said:?}").to_lowercase()),
            (_, Some(told)) => (told, self.why.clone()),
            (None, None) => {
                return Err(self.refuse(format!(
                    "{}; say which with --form maxima or --form sums",
                    self.why
                )));
            }
        };
        let divisor = match (form, calls) {
            (Form::Maxima, _) => [1; LEVELS],
            (Form::Sums, Some(calls)) => calls,
            (Form::Sums, None) => {
                return Err(self.refuse(format!(
                    "{why}; maxima cannot be had from sums, but their mean can: say how many calls each sixth of the noise levels saw with --calls N,N,N,N,N,N"
                )));
            }
        };
        let mut layers = serde_json::Map::new();
        for (layer, levels) in &self.layers {
            let mut largest = [0f64; 2];
            for (level, stats) in levels.iter().enumerate() {
                let Some(stats) = stats else { continue };
                if divisor[level] == 0 {
                    return Err(self.refuse(format!(
                        "layer `{layer}` ran in sixth {level}, for which --calls says 0"
                    )));
                }
                for (largest, value) in largest.iter_mut().zip([stats.amax, stats.p99_9]) {
                    *largest = largest.max(value / divisor[level] as f64);
                }
            }
            let [amax, p99_9] = largest.map(|v| v as f32);
            layers.insert(
                layer.clone(),
                json!({ "amax": amax, "percentiles": { "p99.9": p99_9 } }),
            );
        }
        let meaning = match form {
            Form::Maxima => "the largest of all calls",
            Form::Sums => "the mean over calls: sums divided by their number",
        };
        let head = json!({ "version": super::file::VERSION, "imported": { "from": self.name, "form": why, "amax": meaning } });
        let head = head.to_string();
        let lines: Vec<String> = layers
            .iter()
            .map(|(name, entry)| format!("{}:{entry}", json!(name)))
            .collect();
        Ok(format!(
            "{},\n\"layers\":{{\n{}\n}}}}\n",
            head.strip_suffix('}').unwrap_or(&head),
            lines.join(",\n")
        ))
    }

    fn refuse(&self, reason: String) -> CalibrationError {
        CalibrationError::new(&self.name, reason)
    }
}

/// What the numbers are, and by what that is told.
fn form_of(layers: &BTreeMap<String, [Option<Stats>; LEVELS]>) -> (Option<Form>, String) {
    let all = || layers.values().flat_map(|levels| levels.iter().enumerate());
    let stats = || all().filter_map(|(level, stats)| Some((level, (*stats)?)));
    let mut counts = BTreeMap::<usize, BTreeSet<u64>>::new();
    for (level, stats) in stats() {
        counts
            .entry(level)
            .or_default()
            .insert(stats.count.to_bits());
    }
    let part = |x: f64| x.fract() != 0.0;
    if let Some((_, stats)) = stats().find(|(_, s)| part(s.count)) {
        let why = format!(
            "it holds sums over calls, not maxima (a `count` of {} is no number of calls)",
            stats.count
        );
        return (Some(Form::Sums), why);
    }
    if let Some((level, _)) = counts.iter().find(|(_, of)| of.len() > 1) {
        let why = format!(
            "it holds sums over calls, not maxima (layers of `_bin{level}` have different `count`s)"
        );
        return (Some(Form::Sums), why);
    }
    let (total, like) = stats().fold((0, 0), |(n, like), (_, s)| {
        (n + 1, like + u32::from(is_half(s.amax)))
    });
    let share = f64::from(like) / f64::from(total.max(1));
    let several = stats().any(|(_, s)| s.count > 1.0);
    match (several, share) {
        (true, share) if share >= MOST => {
            (Some(Form::Maxima), "it holds maxima over calls (`count` is their number, alike for all layers)".to_owned())
        }
        (false, share) if share >= MOST => {
            (Some(Form::Maxima), "it holds maxima (every `count` is 1, and amaxes are 16-bit floats, which sums are not)".to_owned())
        }
        (false, share) if share <= 1.0 - MOST => {
            (Some(Form::Sums), "it holds sums over calls, not maxima (every `count` is 1, but amaxes are no 16-bit floats)".to_owned())
        }
        _ => (None, format!(
            "it cannot be told whether it holds maxima or sums over calls (`count`s are alike; {:.0} % of the amaxes are 16-bit floats)", 100.0 * share
        )),
    }
}

/// Whether a number is one of BF16 or F16.
fn is_half(x: f64) -> bool {
    f64::from(half::bf16::from_f64(x)) == x || f64::from(half::f16::from_f64(x)) == x
}
