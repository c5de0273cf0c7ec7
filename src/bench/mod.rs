//! The benchmark: rows of converted models side by side, for speed and for quality.

pub mod report;
pub mod results;
pub mod scorer;
