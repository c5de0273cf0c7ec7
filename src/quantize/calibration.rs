//! Activation ranges from a calibration file: layer name to amax, under one chosen statistic.
//!
//! Three forms are read: flat (`{"transformer_blocks.0.attn.to_q": 284.0}`, comfy-dit-quantizer's), this program's own
//! (`{"layers": {name: {"amax": .., "percentiles": {"p99.9": ..}}}}`), and ComfyUI's capture
//! (`{"layers": {"name_bin0": {"amax": ..}}}`), of which the largest bin counts.

use std::collections::BTreeMap;

use serde_json::Value;

/// Prefixes under which a layer may be listed.
const PREFIXES: [&str; 2] = ["model.diffusion_model.", "diffusion_model."];
/// The statistic of a flat file, and the default.
pub const MAX: &str = "max";

/// Activation amax of the transformer's layers.
#[derive(Clone, Debug, PartialEq)]
pub struct Calibration {
    /// The file's name, for messages and provenance.
    pub name: String,
    /// The statistic that was chosen.
    pub stat: String,
    /// By layer name without prefix; finite and positive.
    pub amax: BTreeMap<String, f32>,
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

impl Calibration {
    /// Reads `json` and picks `stat` of every layer: `max`, `p99.9`, or another name that the file uses.
    ///
    /// # Errors
    /// Another kind of file, a statistic that it does not have, a value that is not a positive number.
    pub fn parse(name: &str, json: &str, stat: &str) -> Result<Self, CalibrationError> {
        let refuse = |reason: String| CalibrationError {
            name: name.to_owned(),
            reason,
        };
        let whole: Value = serde_json::from_str(json)
            .map_err(|e| refuse(format!("it is not JSON ({e}); make it again")))?;
        let nested = whole.get("layers");
        let layers = nested
            .unwrap_or(&whole)
            .as_object()
            .ok_or_else(|| refuse("it has no layers".to_owned()))?;
        if nested.is_none() && stat != MAX {
            return Err(refuse(format!(
                "it is flat, it has no `{stat}`; leave out --calib-stat"
            )));
        }
        let mut amax = BTreeMap::<String, f32>::new();
        for (listed, entry) in layers {
            let layer = canonical(listed);
            let value = match nested {
                None => entry.as_f64(),
                Some(_) => statistic(entry, stat),
            };
            let value = value.ok_or_else(|| match entry {
                Value::Object(fields) => refuse(format!(
                    "layer `{listed}` has no `{stat}`; it has {}",
                    fields.keys().cloned().collect::<Vec<_>>().join(", ")
                )),
                other => refuse(format!("layer `{listed}` is {other}, not a number")),
            })?;
            let value = value as f32;
            if !(value.is_finite() && value > 0.0) {
                return Err(refuse(format!(
                    "layer `{listed}` has {stat} {value}; a range is positive and finite: calibrate again"
                )));
            }
            let slot = amax.entry(layer.to_owned()).or_default();
            *slot = slot.max(value);
        }
        if amax.is_empty() {
            return Err(refuse("it lists no layer".to_owned()));
        }
        Ok(Self {
            name: name.to_owned(),
            stat: stat.to_owned(),
            amax,
        })
    }
}

/// The layer's name without prefix and without the timestep bin of a capture.
fn canonical(listed: &str) -> &str {
    let name = PREFIXES
        .iter()
        .find_map(|prefix| listed.strip_prefix(prefix))
        .unwrap_or(listed);
    match name.rsplit_once("_bin") {
        Some((layer, bin)) if !bin.is_empty() && bin.bytes().all(|b| b.is_ascii_digit()) => layer,
        _ => name,
    }
}

/// `stat` of one layer of a nested file.
fn statistic(entry: &Value, stat: &str) -> Option<f64> {
    match stat {
        MAX | "amax" => entry.get("amax")?.as_f64(),
        _ => {
            let percentile = entry.get("percentiles").and_then(|p| p.get(stat));
            // ComfyUI's capture writes `p99_9`.
            let captured = || entry.get(stat.replace('.', "_"));
            percentile
                .or_else(|| entry.get(stat))
                .or_else(captured)?
                .as_f64()
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn three_forms_one_meaning() {
        let flat = Calibration::parse("a", r#"{"b.attn.to_q": 284.0}"#, MAX).unwrap();
        let own = r#"{"version": 1, "layers": {"b.attn.to_q": {"amax": 284, "percentiles": {"p99.9": 71.5}}}}"#;
        let captured = r#"{"layers": {"b.attn.to_q_bin0": {"amax": 2, "p99_9": 1}, "b.attn.to_q_bin5": {"amax": 284, "p99_9": 71.5}}}"#;
        for json in [own, captured] {
            let max = Calibration::parse("a", json, MAX).unwrap();
            assert_eq!(max.amax, flat.amax);
            let p = Calibration::parse("a", json, "p99.9").unwrap();
            assert_eq!(p.amax["b.attn.to_q"], 71.5);
        }
        let prefixed = r#"{"model.diffusion_model.b.attn.to_q": 284.0}"#;
        assert_eq!(
            Calibration::parse("a", prefixed, MAX).unwrap().amax,
            flat.amax
        );
    }

    #[test]
    fn values_are_not_guessed() {
        for (json, stat, words) in [
            ("nonsense", MAX, "not JSON"),
            ("[1]", MAX, "no layers"),
            ("{}", MAX, "no layer"),
            (r#"{"a": 0.0}"#, MAX, "positive"),
            (r#"{"a": -1}"#, MAX, "positive"),
            (r#"{"a": 1e300}"#, MAX, "positive"),
            (r#"{"a": "1"}"#, MAX, "not a number"),
            (r#"{"a": 1}"#, "p99.9", "flat"),
            (
                r#"{"layers": {"a": {"amax": 1, "std": 2}}}"#,
                "p99.9",
                "it has amax, std",
            ),
            (r#"{"layers": {"a": 3}}"#, MAX, "not a number"),
        ] {
            let error = Calibration::parse("c.json", json, stat)
                .unwrap_err()
                .to_string();
            assert!(error.contains(words) && error.contains("c.json"), "{error}");
        }
    }
}
