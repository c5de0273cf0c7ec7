//! What several tests share: random pipelines whose weights are a formula, and the program as a child process.
#![allow(dead_code, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

pub mod cli;
pub mod convert;
pub mod disk;
pub mod full_size;
pub mod kill;
pub mod layouts;
pub mod weights;
