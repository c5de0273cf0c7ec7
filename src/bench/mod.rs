//! The benchmark: rows of converted models side by side, for speed and for quality.

pub mod journal;
pub mod profile;
pub mod results;
pub mod scorer;
pub mod variants;
