//! The benchmark: rows of converted models side by side, for speed and for quality.

pub mod results;
pub mod scorer;
