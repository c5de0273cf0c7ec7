//! The products on the emulated card: against F64, byte by byte where arithmetic is exact, and with hostile numbers.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "../common/mod.rs"]
mod common;

mod bf16;
mod case;
mod gelu;
mod hostile;
mod numbers;
mod run;
