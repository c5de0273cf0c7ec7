//! The benchmark: rows of converted models side by side, for speed and for quality.
//!
//! `variants -> rows -> rounds -> journal -> results -> reports`. The journal has all that was measured, a line at a time;
//! `results.json` follows from it, and the reports from that.

pub mod journal;
pub mod profile;
pub mod results;
pub mod run;
pub mod scorer;
pub mod scores;
pub mod statistics;
pub mod summary;
pub mod variants;

/// The journal's file in the folder of a benchmark.
pub const JOURNAL: &str = "journal.jsonl";
