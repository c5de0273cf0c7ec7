//! Reading pictures back to score a model, and comparing pictures with reference pictures.

pub mod metrics;
pub mod scorer;
pub mod statistics;
