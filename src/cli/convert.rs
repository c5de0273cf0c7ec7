//! `qwen-nvfp4 convert`.

use std::path::Path;
use std::time::Instant;

use anyhow::Context;
use serde::Serialize;

use super::args::{Common, Convert};
use super::{Failure, output, text_file};
use crate::checkpoint::{WriteError, write_whole};
use crate::context::Cancel;
use crate::quantize::plan::{Counts, LayerPlan, Options};
use crate::quantize::{Calibration, ConvertError, Monitor, Plan, Policy, Source, execute};

/// What `--json` prints.
#[derive(Serialize)]
struct Summary<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    output: Option<String>,
    layers: &'a [LayerPlan],
    counts: Counts,
    bytes_in: u64,
    bytes_out: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    seconds: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    peak_rss_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    verified: Option<bool>,
}

impl From<ConvertError> for Failure {
    fn from(e: ConvertError) -> Self {
        match e {
            ConvertError::Cancelled => Self::Interrupted,
            ConvertError::Write(e @ WriteError::Folder(_)) => Self::Usage(e.to_string()),
            e => Self::Work(e.into()),
        }
    }
}

/// Runs the command.
pub(super) fn run(args: &Convert, common: &Common, cancel: Cancel) -> Result<(), Failure> {
    let start = Instant::now();
    check_outputs(args)?;
    let source = match args.input.as_str() {
        "tiny" => Source::embedded()?,
        path => Source::open(Path::new(path))?,
    };
    let policy = policy(&args.policy)?;
    let calibration = args
        .calib
        .as_deref()
        .map(|path| calibration(path, &args.calib_stat))
        .transpose()?;
    let options = Options {
        method: args.method.into(),
        requantize_fp8: args.requantize_fp8,
        marker: args.marker.into(),
        keys: args.keys.into(),
        components: args.components.iter().map(|c| (*c).into()).collect(),
        assume_unscaled: args.assume_unscaled,
        foreign_calibration: args.foreign_calib,
    };
    let plan = Plan::new(&source, &policy, calibration.as_ref(), &options)?;
    plan.notes.iter().for_each(|note| tracing::warn!("{note}"));
    let Some(target) = args.output.as_deref().filter(|_| !args.dry_run) else {
        return show(&plan, None, common);
    };
    let bar = output::byte_bar(plan.bytes_out, !common.quiet);
    let monitor = Monitor {
        cancel,
        done: &|bytes| bar.inc(bytes),
    };
    let reports = execute(&plan, &source, (target, args.force), &monitor)?;
    if args.verify {
        bar.reset();
        bar.set_message("verifying");
        crate::quantize::execute::verify(&plan, &source, target, &monitor)?;
    }
    bar.finish_and_clear();
    if let Some(path) = &args.report {
        let json = serde_json::to_vec_pretty(&reports).context("the report")?;
        write_whole(path, &json).map_err(ConvertError::from)?;
    }
    let done = Done {
        output: target.display().to_string(),
        seconds: start.elapsed().as_secs_f64(),
        verified: args.verify,
    };
    show(&plan, Some(done), common)
}

/// A conversion that took place.
struct Done {
    output: String,
    seconds: f64,
    verified: bool,
}

/// Refuses, before hours of work, what could not be written after them.
fn check_outputs(args: &Convert) -> Result<(), Failure> {
    if args.dry_run {
        return Ok(());
    }
    let Some(target) = args.output.as_deref() else {
        let message = "say where to write with -o OUTPUT, or look at the plan with --dry-run";
        return Err(Failure::Usage(message.to_owned()));
    };
    output::check_target(target, "-o")?;
    let Some(report) = args.report.as_deref() else {
        return Ok(());
    };
    output::check_target(report, "--report")?;
    let mut inputs = vec![Path::new(&args.input), Path::new(&args.policy)];
    inputs.extend(args.calib.as_deref());
    output::check_distinct(&[(target, "-o"), (report, "--report")], &inputs)
}

/// A built-in policy by its name, or a file.
fn policy(word: &str) -> Result<Policy, Failure> {
    let path = Path::new(word);
    if !path.is_file()
        && let Some(built_in) = Policy::built_in(word)
    {
        return Ok(built_in.map_err(ConvertError::from)?);
    }
    let names: Vec<&str> = Policy::names().collect();
    let wanted = format!(
        "give --policy one of {}, or a JSON file of comfy-dit-quantizer",
        names.join(", ")
    );
    let text = text_file::read(path, &wanted)?;
    if Policy::built_in(word).is_some() {
        tracing::warn!("the file {word} is read, not the policy of that name in this program");
    }
    let name = path.file_name().unwrap_or(path.as_os_str());
    let policy = Policy::parse(&name.to_string_lossy(), &text);
    policy.map_err(|e| {
        Failure::Work(anyhow::anyhow!(
            "{}: {}; {wanted}",
            path.display(),
            e.reason
        ))
    })
}

/// A calibration's file.
pub(super) fn calibration(path: &Path, stat: &str) -> Result<Calibration, Failure> {
    let text = text_file::read(path, "give --calib a calibration as JSON, or leave it out")?;
    let name = path.file_name().unwrap_or(path.as_os_str());
    Ok(Calibration::parse(&name.to_string_lossy(), &text, stat).map_err(ConvertError::from)?)
}

fn show(plan: &Plan, done: Option<Done>, common: &Common) -> Result<(), Failure> {
    if common.json {
        let summary = Summary {
            output: done.as_ref().map(|d| d.output.clone()),
            layers: &plan.layers,
            counts: plan.counts,
            bytes_in: plan.bytes_in,
            bytes_out: plan.bytes_out,
            seconds: done.as_ref().map(|d| d.seconds),
            peak_rss_bytes: done.as_ref().and_then(|_| output::peak_rss()),
            verified: done.as_ref().map(|d| d.verified),
        };
        let json = serde_json::to_string(&summary).context("the summary")?;
        println!("{json}");
        return Ok(());
    }
    if done.is_none() {
        for layer in &plan.layers {
            println!(
                "{:<72} {:>14} -> {:<14} {}",
                layer.name, layer.from, layer.to, layer.rule
            );
        }
    }
    if common.quiet {
        return Ok(());
    }
    let Counts {
        nvfp4,
        float8_e4m3fn,
        recorded_only,
        kept,
    } = plan.counts;
    eprintln!(
        "{nvfp4} layers to NVFP4, {float8_e4m3fn} to FP8, {recorded_only} more recorded as FP8, {kept} kept; {} -> {}",
        output::bytes(plan.bytes_in),
        output::bytes(plan.bytes_out)
    );
    if let Some(done) = done {
        println!("{}", done.output);
        eprintln!(
            "{} in {}, {}/s of input{}",
            if done.verified {
                "written and verified"
            } else {
                "written"
            },
            output::seconds(done.seconds),
            output::bytes((plan.bytes_in as f64 / done.seconds.max(1e-9)) as u64),
            if done.verified {
                ", every byte proved"
            } else {
                ""
            },
        );
    }
    Ok(())
}
