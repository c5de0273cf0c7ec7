//! What several tests share: random pipelines whose weights are a formula.
#![allow(dead_code, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

pub mod full_size;
pub mod layouts;
pub mod weights;
