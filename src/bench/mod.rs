//! The benchmark: rows of converted models side by side, for speed and for quality.
//!
//! `variants -> rows -> rounds -> journal -> results -> reports`. The journal has all that was measured, a line at a time;
//! `results.json` follows from it, and the reports from that. [`teacher`] and [`layer_errors`] measure arithmetic without
//! letting one error feed the next; [`sensitivity`] ranks layers by it.

pub mod journal;
pub mod layer_errors;
pub mod metrics;
pub mod profile;
pub mod report;
pub mod results;
pub mod run;
pub mod scorer;
pub mod scores;
pub mod sensitivity;
pub mod statistics;
pub mod summary;
pub mod teacher;
pub mod variants;

/// The journal's file in the folder of a benchmark.
pub const JOURNAL: &str = "journal.jsonl";
