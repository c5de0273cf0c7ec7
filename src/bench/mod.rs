//! Reading pictures back to score a model.

pub mod scorer;
