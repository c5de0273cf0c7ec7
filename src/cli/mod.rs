//! The command line: words to requests, results to files and JSON, faults to exit codes.

mod args;
mod bench;
mod bench_args;
mod bench_rows;
mod calibrate;
mod calibrate_args;
mod calibration_files;
mod convert;
mod doctor;
mod generate;
mod inspect;
mod memory;
mod output;
mod sensitivity;
mod text_file;

use std::ffi::OsString;
use std::io::Write;
use std::process::ExitCode;

use clap::Parser;
use clap::error::ErrorKind;

use self::args::{Cli, Command, Common};
use crate::context::Cancel;
use crate::pipeline::PipelineError;

pub use memory::keep_freed_memory;

/// The work failed.
const FAILED: u8 = 1;
/// The arguments are wrong.
const USAGE: u8 = 2;
/// A checkpoint has faults.
const FAULTY: u8 = 3;
/// Interrupted.
const INTERRUPTED: u8 = 130;

/// How a command ends when it does not succeed.
enum Failure {
    /// Wrong arguments.
    Usage(String),
    /// What was looked at has so many faults, which were reported.
    Faults(usize),
    /// Interrupted by the user.
    Interrupted,
    /// Everything else.
    Work(anyhow::Error),
}

impl From<anyhow::Error> for Failure {
    fn from(e: anyhow::Error) -> Self {
        match e.downcast_ref::<PipelineError>() {
            Some(e) if e.is_cancelled() => Self::Interrupted,
            Some(PipelineError::Request(message)) => Self::Usage(message.clone()),
            _ => Self::Work(e),
        }
    }
}

impl From<PipelineError> for Failure {
    fn from(e: PipelineError) -> Self {
        anyhow::Error::from(e).into()
    }
}

/// Parses `args`, runs the command, prints its errors; the exit code is 0 for success, 1 where the work failed,
/// 2 where the arguments are wrong, 3 where faults were found, 130 where the user interrupted.
pub fn run(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(e) => {
            let shown = matches!(e.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
            let _ = e.print();
            return ExitCode::from(if shown { 0 } else { USAGE });
        }
    };
    start_log(&cli.common);
    match dispatch(&cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            let (code, message) = match failure {
                Failure::Usage(message) => (USAGE, message),
                Failure::Faults(1) => (FAULTY, "1 fault".to_owned()),
                Failure::Faults(n) => (FAULTY, format!("{n} faults")),
                Failure::Interrupted => (INTERRUPTED, "interrupted".to_owned()),
                Failure::Work(e) => (FAILED, chain(&e)),
            };
            let _ = writeln!(std::io::stderr(), "error: {message}");
            ExitCode::from(code)
        }
    }
}

/// An error and its causes, less those that the message before already quotes.
fn chain(error: &anyhow::Error) -> String {
    let mut message = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if !message.contains(&cause) {
            let colon = if message.is_empty() { "" } else { ": " };
            message.push_str(colon);
            message.push_str(&cause);
        }
    }
    message
}

fn dispatch(cli: &Cli) -> Result<(), Failure> {
    check_device(&cli.common)?;
    let cancel = Cancel::default();
    let handler = cancel.clone();
    ctrlc::set_handler(move || handler.cancel()).map_err(anyhow::Error::from)?;
    let threads = cli.common.threads.map_or(0, usize::from);
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(threads)
        .build()
        .map_err(anyhow::Error::from)?;
    // Inside of the pool, so that candle's operators and ours share its threads.
    pool.install(|| match &cli.command {
        Command::Generate(args) => generate::run(args, &cli.common, cancel),
        Command::Inspect(args) => inspect::run(args, &cli.common, cancel),
        Command::Convert(args) => convert::run(args, &cli.common, cancel),
        Command::Calibrate(args) => calibrate::run(args, &cli.common, cancel),
        Command::Bench(args) => bench::run(args, &cli.common, cancel),
        Command::Sensitivity(args) => sensitivity::run(args, &cli.common, cancel),
        Command::Doctor => doctor::run(&cli.common),
    })
}

/// Only the CPU is there in this version.
fn check_device(common: &Common) -> Result<(), Failure> {
    match common.device.as_str() {
        "auto" => {
            tracing::info!("device: cpu (this build has no GPU support)");
            Ok(())
        }
        "cpu" => Ok(()),
        other if other == "cuda" || other.starts_with("cuda:") => {
            Err(Failure::Work(anyhow::anyhow!(
                "this build cannot use `{other}`: it has no GPU support; leave out --device, or say --device cpu"
            )))
        }
        other => Err(Failure::Usage(format!(
            "a device `{other}`: auto, cpu, cuda and cuda:N are known"
        ))),
    }
}

/// Messages go to standard error: warnings always, more with -v, whatever RUST_LOG says where it is set.
fn start_log(common: &Common) {
    let level = match (common.quiet, common.verbose) {
        (true, _) => "error",
        (_, true) => "qwen_nvfp4=info,warn",
        _ => "warn",
    };
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new(level));
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(output::colours())
        .without_time()
        .with_target(false)
        .try_init();
}
