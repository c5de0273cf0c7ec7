//! Entry point: everything happens in [`qwen_nvfp4::cli`].

use std::process::ExitCode;

fn main() -> ExitCode {
    qwen_nvfp4::cli::keep_freed_memory();
    qwen_nvfp4::cli::run(std::env::args_os())
}
