//! The benchmark: rows of converted models side by side, for speed and for quality.

pub mod layer_errors;
pub mod results;
pub mod scorer;
pub mod sensitivity;
pub mod teacher;
