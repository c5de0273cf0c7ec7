//! What a calibration says for people: the numbers that follow from the counts of a tap.

use serde_json::json;

use super::capture::{LEVELS, Tap};
use super::statistic::{Choice, Format, LISTED};
use crate::numerics::tally::Tally;

/// Percentiles that are listed for reading; any other follows from the counts.
const PERCENTILES: [f64; 6] = [50.0, 90.0, 99.0, 99.9, 99.99, 99.999];

/// The stream of tokens that a layer sees, by its name.
pub(super) fn stream(layer: &str) -> &'static str {
    let part = |name: &str| layer.split('.').any(|p| p == name);
    let begins = |prefix: &str| layer.split('.').any(|p| p.starts_with(prefix));
    match layer {
        _ if part("img_mod") || part("txt_mod") || part("time_text_embed") => "none",
        _ if layer.starts_with("norm_out") => "none",
        _ if begins("add_") || part("to_add_out") || begins("txt_") => "txt",
        _ => "img",
    }
}

/// Amax, percentiles, noise levels and statistics of a tap.
pub(super) fn readable(tap: &Tap) -> serde_json::Value {
    let whole = tap.whole();
    let percentiles: serde_json::Map<_, _> = PERCENTILES
        .iter()
        .filter_map(|p| Some((format!("p{p}"), json!(value_at(&whole, *p)?))))
        .collect();
    let levels = tap.levels.iter().enumerate().map(|(i, tally)| {
        let tally = tally.as_deref()?;
        let edge = |i: usize| 1.0 - i as f64 / LEVELS as f64;
        Some(json!({
            "sigma": [rounded(edge(i + 1)), rounded(edge(i))],
            "values": tally.elements.total(),
            "amax": tally.amax,
            "p99.9": value_at(tally, 99.9),
        }))
    });
    let statistics: serde_json::Map<_, _> = LISTED
        .iter()
        .map(|s| {
            let of = |format| s.choose(tap, &whole, format).map(described);
            let both = json!({ "nvfp4": of(Format::Nvfp4), "fp8": of(Format::Fp8) });
            (s.to_string(), both)
        })
        .collect();
    json!({
        "amax": whole.amax,
        "values": whole.elements.total(),
        "percentiles": percentiles,
        "levels": levels.collect::<Vec<_>>(),
        "statistics": statistics,
    })
}

fn value_at(tally: &Tally, percent: f64) -> Option<f32> {
    let value = tally.elements.quantile(percent / 100.0)?;
    Some(value.min(tally.amax))
}

fn described(choice: Choice) -> serde_json::Value {
    json!({
        "amax": choice.amax,
        "clipped": choice.predicted.clipped as f32,
        "flushed": choice.predicted.flushed as f32,
        "sqnr_db": rounded(choice.predicted.sqnr_db),
    })
}

/// To a hundredth, for reading.
fn rounded(x: f64) -> f64 {
    (x * 100.0).round() / 100.0
}
