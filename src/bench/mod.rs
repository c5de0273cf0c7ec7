//! Reading pictures back to score a model.
