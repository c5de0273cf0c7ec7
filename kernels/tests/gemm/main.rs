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
mod scales;

use common::emulator;
use qwen_nvfp4_kernels::Gpu;

/// An emulated card, of this name until it is dropped.
pub struct Card {
    gpu: Gpu,
    _settings: emulator::Settings,
}

impl std::ops::Deref for Card {
    type Target = Gpu;

    fn deref(&self) -> &Gpu {
        &self.gpu
    }
}

/// Opens it.
pub fn card(name: &str) -> Card {
    let context = emulator::context();
    let _settings = emulator::settings(&[("card", name)]);
    Card {
        gpu: Gpu::of_context(context).unwrap(),
        _settings,
    }
}
