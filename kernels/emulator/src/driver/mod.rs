//! The C interface of the driver: what programs call in `libcuda`, `libcublas`, `libcurand` and `libcudart`.
//!
//! The library built from this crate answers to all of these names, by links to it. Every call runs to its end before
//! it returns. An error is printed on stderr in full, once, and kept as text for `ptx_emulator_last_fault`; a call that
//! the emulator does not do answers `CUDA_ERROR_NOT_SUPPORTED`. Settings: see `settings.rs`.
//!
//! Unlike on a card, an error does not spoil the context: the next call works.

mod attributes;
mod cublas;
mod curand;
mod device;
mod fatbin;
mod ffi;
mod gemm;
mod graph;
mod handles;
mod launch;
mod memory;
mod module;
mod runtime;
mod settings;
mod status;
mod stream;
mod unsupported;

/// Names and addresses of all functions of the driver.
fn symbols() -> Vec<(&'static str, usize)> {
    [
        device::table(),
        graph::table(),
        launch::table(),
        memory::table(),
        module::table(),
        settings::table(),
        stream::table(),
        unsupported::table(),
    ]
    .concat()
}
