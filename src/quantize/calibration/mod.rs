//! Activation ranges from a calibration file: for each layer the largest magnitude that its static scale is made for.
//!
//! Four kinds of file are read: this program's own ([`file`](mod@file)), of which any [`Statistic`] can be chosen; what it imported
//! (`{"layers": {name: {"amax": .., "percentiles": {"p99.9": ..}}}}`); comfy-dit-quantizer's flat ones
//! (`{"transformer_blocks.0.attn.to_q": 284.0}`); and ComfyUI's captures ([`comfy`]) if they hold maxima.

pub mod capture;
pub mod comfy;
mod counts;
pub mod file;
mod readable;
pub mod samples;
pub mod statistic;

use std::collections::{BTreeMap, BTreeSet};

use rayon::prelude::*;
use serde::de::IgnoredAny;
use serde_json::Value;

pub use self::capture::Capture;
use self::capture::Tap;
pub use self::file::{CalibrationFile, ModelLabel};
use self::statistic::{Choice, Format, Statistic, predict};

/// Prefixes under which a layer may be listed.
const PREFIXES: [&str; 2] = ["model.diffusion_model.", "diffusion_model."];
/// The statistic of a flat file, and the default.
pub const MAX: &str = "max";

/// Activation ranges of the transformer's layers.
#[derive(Clone, Debug, PartialEq)]
pub struct Calibration {
    /// The file's name, for messages and provenance.
    pub name: String,
    /// The statistic that was chosen.
    pub stat: String,
    /// The model that it was made for, where the file says so.
    pub model: Option<ModelLabel>,
    /// Layers that no sample ran, where the file says so.
    pub never_ran: BTreeSet<String>,
    /// By layer name without prefix.
    pub ranges: BTreeMap<String, Range>,
}

/// The ranges of a layer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Range {
    /// For `input_scale = amax / 2688`.
    pub nvfp4: Bound,
    /// For `input_scale = amax / 448`.
    pub fp8: Bound,
}

/// A range, finite and positive.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bound {
    /// The largest magnitude that the scale holds.
    pub amax: f32,
    /// What it does to what was seen, where the file has counts.
    pub harm: Option<Harm>,
}

/// What a range does to the activations that it was chosen from.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Harm {
    /// The share of values beyond the range.
    pub clipped: f64,
    /// NVFP4: the share of blocks that become zero; FP8: of values.
    pub flushed: f64,
    /// The predicted SQNR in dB, and that of the largest magnitude as range.
    pub sqnr_db: [f64; 2],
}

/// Why a calibration cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("calibration {name}: {reason}")]
pub struct CalibrationError {
    /// The file.
    pub name: String,
    /// What is wrong, and what to do.
    pub reason: String,
}

impl CalibrationError {
    fn new(name: &str, reason: impl Into<String>) -> Self {
        Self {
            name: name.to_owned(),
            reason: reason.into(),
        }
    }
}

impl Range {
    /// The same for both formats, nothing known of what it does.
    ///
    /// # Errors
    /// A number that is no range.
    pub fn plain(amax: f32) -> Result<Self, String> {
        let bound = Bound::checked(amax)?;
        Ok(Self {
            nvfp4: bound,
            fp8: bound,
        })
    }
}

impl Bound {
    fn checked(amax: f32) -> Result<Self, String> {
        match amax.is_finite() && amax > 0.0 {
            true => Ok(Self { amax, harm: None }),
            false => Err(format!(
                "{amax}; a range is positive and finite: calibrate again"
            )),
        }
    }
}

impl Calibration {
    /// Reads `json` and picks `stat` of every layer: `max`, `p99.9`, or what else [`Statistic`] or the file knows.
    ///
    /// # Errors
    /// Another kind of file, a statistic that it does not have, a value that is not a positive number, sums that pass for
    /// maxima.
    pub fn parse(name: &str, json: &str, stat: &str) -> Result<Self, CalibrationError> {
        let refuse = |reason: String| CalibrationError::new(name, reason);
        // Keys alone: counts are large, and read once.
        let keys = serde_json::from_str::<BTreeMap<String, IgnoredAny>>(json);
        if keys.is_ok_and(|keys| keys.contains_key("taps")) {
            return Self::of_file(name, &CalibrationFile::parse(name, json)?, stat);
        }
        let whole: Value = serde_json::from_str(json)
            .map_err(|e| refuse(format!("it is not JSON ({e}); make it again")))?;
        let ranges = match whole.get("layers") {
            None if stat != MAX => {
                return Err(refuse(format!(
                    "it is flat, it has no `{stat}`; leave out --calib-stat"
                )));
            }
            None => listed(&whole, |entry| {
                entry.as_f64().ok_or("is no number".to_owned())
            }),
            Some(layers) if comfy::is_capture(layers) => {
                return comfy::Captured::parse(name, json)?.calibration(stat);
            }
            Some(layers) => listed(layers, |entry| statistic_of(entry, stat)),
        };
        let ranges = ranges.map_err(refuse)?;
        Ok(Self {
            name: name.to_owned(),
            stat: stat.to_owned(),
            model: None,
            never_ran: BTreeSet::new(),
            ranges,
        })
    }

    /// Chooses from counts.
    ///
    /// # Errors
    /// No such statistic, or a layer for which it gives no range.
    pub fn of_file(
        name: &str,
        file: &CalibrationFile,
        stat: &str,
    ) -> Result<Self, CalibrationError> {
        let statistic: Statistic = stat
            .parse()
            .map_err(|reason: String| CalibrationError::new(name, reason))?;
        let Capture { taps, layers } = &file.capture;
        let ranges: Vec<Option<Range>> = taps.par_iter().map(|tap| range(tap, statistic)).collect();
        let ranges = layers.iter().map(|(layer, tap)| {
            let range = ranges[*tap].ok_or_else(|| {
                let reason = format!(
                    "`{stat}` of layer `{layer}` is zero, which is no range; choose another statistic, or calibrate with other prompts"
                );
                CalibrationError::new(name, reason)
            })?;
            Ok((layer.clone(), range))
        });
        Ok(Self {
            name: name.to_owned(),
            stat: stat.to_owned(),
            model: Some(file.model.clone()),
            never_ran: file.never_ran.iter().cloned().collect(),
            ranges: ranges.collect::<Result<_, CalibrationError>>()?,
        })
    }
}

/// What a statistic makes of a tap.
fn range(tap: &Tap, statistic: Statistic) -> Option<Range> {
    let whole = tap.whole();
    let bound = |format: Format| {
        let Choice { amax, predicted } = statistic.choose(tap, &whole, format)?;
        let of_max = predict(&whole, format, whole.amax);
        let harm = Harm {
            clipped: predicted.clipped,
            flushed: predicted.flushed,
            sqnr_db: [predicted.sqnr_db, of_max.sqnr_db],
        };
        Some(Bound {
            amax,
            harm: Some(harm),
        })
    };
    Some(Range {
        nvfp4: bound(Format::Nvfp4)?,
        fp8: bound(Format::Fp8)?,
    })
}

/// Ranges of a file that lists a number for each layer.
fn listed(
    layers: &Value,
    number: impl Fn(&Value) -> Result<f64, String>,
) -> Result<BTreeMap<String, Range>, String> {
    let layers = layers.as_object().ok_or("it has no layers")?;
    if layers.is_empty() {
        return Err("it lists no layer".to_owned());
    }
    let mut ranges = BTreeMap::<String, Range>::new();
    for (listed, entry) in layers {
        let wrong = |reason| format!("layer `{listed}`: {reason}");
        let range = Range::plain(number(entry).map_err(wrong)? as f32).map_err(wrong)?;
        let name = without_prefix(listed).to_owned();
        if ranges.insert(name, range).is_some() {
            return Err(format!(
                "layer `{listed}` is listed twice, with and without prefix"
            ));
        }
    }
    Ok(ranges)
}

/// The layer's name without prefix.
fn without_prefix(listed: &str) -> &str {
    let mut stripped = PREFIXES
        .iter()
        .filter_map(|prefix| listed.strip_prefix(prefix));
    stripped.next().unwrap_or(listed)
}

/// `stat` of one layer of a file without counts.
fn statistic_of(entry: &Value, stat: &str) -> Result<f64, String> {
    let fields = entry.as_object().ok_or("is no number and has no fields")?;
    let found = match stat {
        MAX | "amax" => fields.get("amax"),
        _ => fields.get("percentiles").and_then(|p| p.get(stat)),
    };
    found.and_then(Value::as_f64).ok_or_else(|| {
        let percentiles = fields.get("percentiles").and_then(Value::as_object);
        let has = percentiles.into_iter().flat_map(|p| p.keys().cloned());
        let has: Vec<String> = fields
            .contains_key("amax")
            .then(|| MAX.to_owned())
            .into_iter()
            .chain(has)
            .collect();
        format!("has no `{stat}`; it has {}", has.join(", "))
    })
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
