//! `qwen-nvfp4 doctor`.

use anyhow::Context;
use serde::Serialize;

use super::Failure;
use super::args::Common;
use crate::numerics::machine::{FEATURES, Machine};
use crate::ops::check::{self, Check};
use crate::ops::kernels;

#[derive(Serialize)]
struct Report {
    cpu: Cpu,
    gpu: Option<()>,
    gpu_reason: &'static str,
    kernels: Kernels,
    checks: Vec<Checked>,
    faults: usize,
}

#[derive(Serialize)]
struct Cpu {
    threads: usize,
    features: Vec<&'static str>,
    level: String,
}

#[derive(Serialize)]
struct Kernels {
    float8_e4m3fn: &'static str,
    nvfp4: &'static str,
    weight_only: &'static str,
    attention: &'static str,
}

#[derive(Serialize)]
struct Checked {
    operation: &'static str,
    kernel: &'static str,
    /// None where the kernel gave no number; `reason` says why.
    difference: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    allowed: f64,
    sound: bool,
}

/// Runs the command: what the machine has, which kernels serve, and whether each computes what it should.
pub(super) fn run(common: &Common) -> Result<(), Failure> {
    let machine = Machine::detect();
    let checks = check::all(machine);
    let faults = checks.iter().filter(|c| !c.is_sound()).count();
    let report = Report {
        cpu: Cpu {
            threads: rayon::current_num_threads(),
            features: found(),
            level: machine.level().to_string(),
        },
        gpu: None,
        gpu_reason: "this build has no GPU support",
        kernels: Kernels {
            float8_e4m3fn: kernels::fp8(machine),
            nvfp4: kernels::nvfp4(machine),
            weight_only: kernels::weight_only(machine),
            attention: kernels::attention(),
        },
        checks: checks.iter().map(checked).collect(),
        faults,
    };
    match common.json {
        true => println!("{}", serde_json::to_string(&report).context("the report")?),
        false => print!("{}", text(&report)),
    }
    match faults {
        0 => Ok(()),
        n => Err(Failure::Faults(n)),
    }
}

fn found() -> Vec<&'static str> {
    let features = FEATURES.iter().filter(|(_, has)| has());
    features.map(|(name, _)| *name).collect()
}

fn checked(check: &Check) -> Checked {
    Checked {
        operation: check.operation,
        kernel: check.kernel,
        difference: check
            .difference
            .as_ref()
            .ok()
            .copied()
            .filter(|d| d.is_finite()),
        reason: check.difference.as_ref().err().cloned(),
        allowed: check.allowed,
        sound: check.is_sound(),
    }
}

fn text(report: &Report) -> String {
    let Report { cpu, kernels, .. } = report;
    let mut text = format!(
        "cpu: {} thread{}, {} (kernels for {})\ngpu: none, {}\n\nkernels\n  FP8          {}\n  NVFP4        {}\n  \
         other        {}\n  attention    {}\n\nchecked against their definitions\n",
        cpu.threads,
        if cpu.threads == 1 { "" } else { "s" },
        match cpu.features.is_empty() {
            true => "no vector features that are used".to_owned(),
            false => cpu.features.join(" "),
        },
        cpu.level,
        report.gpu_reason,
        kernels.float8_e4m3fn,
        kernels.nvfp4,
        kernels.weight_only,
        kernels.attention,
    );
    for check in &report.checks {
        let word = if check.sound { "ok   " } else { "FAULT" };
        let how = match (check.difference, check.allowed) {
            (Some(0.0), _) => "the same bits".to_owned(),
            (Some(d), allowed) => format!("off by {d:.1e}, {allowed:.0e} is allowed"),
            (None, _) => match &check.reason {
                Some(reason) => format!("it failed: {reason}"),
                None => "its numbers are not finite".to_owned(),
            },
        };
        text += &format!("  {word} {:28} {how}\n", check.operation);
    }
    if report.faults > 0 {
        text += "\nPictures made on this machine cannot be trusted: please report this output.\n";
    }
    text
}
