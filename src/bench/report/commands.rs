//! What is said of the run itself: commands, kernels, failures, and the parts of a picture's time.

use std::collections::BTreeSet;

use super::columns::rows;
use crate::bench::results::{Results, Variant};

/// Parts of a picture's time in the order of the work; others follow by name.
const PARTS: [&str; 8] = [
    "linear nvfp4",
    "linear float8_e4m3fn",
    "linear f32",
    "attention",
    "norm and modulation",
    "text encoder",
    "decode",
    "other",
];

/// The parts that any row has.
pub(super) fn parts(results: &Results) -> Vec<&str> {
    let there: BTreeSet<_> = results
        .variants
        .values()
        .flat_map(|v| v.parts_s.keys())
        .map(String::as_str)
        .collect();
    let known = PARTS.into_iter().filter(|p| there.contains(p));
    let others = there.iter().copied().filter(|p| !PARTS.contains(p));
    known.chain(others).collect()
}

/// Formats that any row has a kernel for.
pub(super) fn formats(results: &Results) -> Vec<&str> {
    let formats = results.variants.values().flat_map(|v| v.kernels.keys());
    let formats: BTreeSet<_> = formats.map(String::as_str).collect();
    formats.into_iter().collect()
}

/// Rows that failed, and why.
pub(super) fn failures(results: &Results) -> impl Iterator<Item = (&str, &str)> {
    rows(results).filter_map(|(name, row)| Some((name, row.error.as_deref()?)))
}

/// The command of the benchmark, then those of the checkpoints, each with what it makes.
pub(super) fn commands(results: &Results) -> Vec<(String, &str)> {
    let whole = ("This report".to_owned(), results.command.as_str());
    let each =
        rows(results).filter_map(|(name, row)| Some((name.to_owned(), row.command.as_deref()?)));
    std::iter::once(whole).chain(each).collect()
}

/// How a row came to be, in a few words: policy, calibration, activations.
pub(super) fn recipe(row: &Variant) -> String {
    let policy = row.policy.clone();
    let calibration = row.calibration.as_ref().map(|c| format!("calibration {c}"));
    let activations = match row.activations.as_str() {
        "" => None,
        how => Some(format!("activations {how}")),
    };
    let said: Vec<_> = [policy, calibration, activations]
        .into_iter()
        .flatten()
        .collect();
    said.join(", ")
}

/// Names of figures against the F32 model that any row has.
pub(super) fn against_f32(results: &Results) -> Vec<&str> {
    let rows = results.variants.values();
    let names: BTreeSet<_> = rows.flat_map(|v| v.quality.against_f32.keys()).collect();
    names.into_iter().map(String::as_str).collect()
}
