//! `qwen-nvfp4 bench`.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::Instant;

use anyhow::Context;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;
use sha2::{Digest, Sha256};

use super::args::Common;
use super::bench_args::Bench;
use super::bench_rows::{Prepared, REFERENCE, cold, prepare};
use super::{Failure, output, text_file};
use crate::bench::JOURNAL;
use crate::bench::journal::{Journal, Line};
use crate::bench::metrics::Lpips;
use crate::bench::report::{html, markdown};
use crate::bench::results::{Prompt, Results, VERSION};
use crate::bench::run::{BenchError, Rounds, Row};
use crate::bench::scores::against;
use crate::bench::summary::{fill, findings};
use crate::checkpoint::fingerprint::hex;
use crate::checkpoint::write_whole;
use crate::context::{Cancel, Cx};
use crate::pipeline::request::Settings;

/// The tiny model's: held out of its training.
const TINY: &str = include_str!("../../models/tiny/held_out_prompts.txt");
/// For models of the world.
const GENERAL: &str = include_str!("../../configs/prompts/bench-100.txt");

impl From<BenchError> for Failure {
    fn from(e: BenchError) -> Self {
        match e {
            BenchError::Baseline { source, .. } if source.is_cancelled() => Self::Interrupted,
            e => Self::Work(e.into()),
        }
    }
}

/// Runs the command.
pub(super) fn run(args: &Bench, common: &Common, cancel: Cancel) -> Result<(), Failure> {
    let start = Instant::now();
    output::check_folder(&args.output, "-o")?;
    let texts = args
        .prompts
        .as_deref()
        .map(text_file::prompts)
        .transpose()?;
    let journal_path = args.output.join(JOURNAL);
    if journal_path.exists() && !args.resume {
        if !args.force {
            return Err(Failure::Usage(format!(
                "{} has a benchmark already; say --resume to go on with it, --force to begin anew, or give another -o",
                args.output.display()
            )));
        }
        fs::remove_file(&journal_path).context("the journal")?;
    }
    fs::create_dir_all(&args.output).with_context(|| args.output.display().to_string())?;
    let bar = bar(common);
    bar.set_message("converting");
    let mut prepared = prepare(args, &cancel)?;
    let engine = |p: &Prepared| {
        p.row
            .engine
            .as_ref()
            .map_err(|e| anyhow::anyhow!("{e}"))
            .map(|e| e.defaults())
    };
    let settings = settings(args, engine(&prepared[0])?);
    settings.validate()?;
    let scored = prepared[0]
        .row
        .engine
        .as_ref()
        .is_ok_and(|e| e.checkpoint().is_tiny());
    let prompts = prompts(args, texts, scored);
    let lpips = lpips(args, &settings)?;
    let mut results = begin(args, &prepared, &prompts, &settings);
    if let Some((metric, sha256)) = &lpips {
        let with = format!("{}, weights {}", metric.trunk(), &sha256[..12]);
        results.settings.insert("LPIPS".to_owned(), with);
    }
    let lpips = lpips.map(|(metric, _)| metric);
    let mut journal = Journal::open(&journal_path, &identity(&results, &prepared))
        .with_context(|| journal_path.display().to_string())?;
    cold_starts(
        args,
        &mut prepared,
        &mut journal,
        (&prompts, &settings),
        &cancel,
    )?;

    let rounds = Rounds {
        prompts: &prompts,
        settings: &settings,
        dir: &args.output,
        lpips: lpips.as_ref(),
        scored,
    };
    bar.set_length((prompts.len() * prepared.len()) as u64);
    let cx = Cx {
        cancel,
        ..Cx::default()
    };
    let (mut rows, known): (Vec<Row>, Vec<_>) =
        prepared.into_iter().map(|p| (p.row, p.variant)).unzip();
    let ran = rounds.run(&mut rows, &mut journal, &cx, &mut |done, row| {
        bar.set_position(done as u64);
        bar.set_message(row.to_owned());
    });
    bar.set_message("teacher-forced");
    let ran = ran.and_then(|()| rounds.teach(&mut rows, args.taught as usize, &mut journal, &cx));
    bar.finish_and_clear();
    for (row, mut variant) in rows.iter().zip(known) {
        variant.error = row.engine.as_ref().err().cloned();
        fill(&mut variant, &row.name, &results.baseline, &journal);
        results.variants.insert(row.name.clone(), variant);
    }
    if args.reference.is_some() {
        against(&mut results, &args.output, REFERENCE, lpips.as_ref());
    }
    results.findings = findings(&results.order, &results.variants, &journal);
    // What there is, however the rounds ended.
    write(&args.output, &results)?;
    ran?;
    report(args, common, &results, start.elapsed().as_secs_f64())
}

fn bar(common: &Common) -> ProgressBar {
    let bar = output::progress_bar(!common.quiet);
    let style = ProgressStyle::with_template("{bar:32} picture {pos}/{len}  {msg}  ETA {eta}");
    if let Ok(style) = style {
        bar.set_style(style);
    }
    bar
}

/// The model's defaults with what the user said over them.
fn settings(args: &Bench, defaults: Settings) -> Settings {
    let (width, height) = args.size.unwrap_or((defaults.width, defaults.height));
    Settings {
        width,
        height,
        steps: args.steps.unwrap_or(defaults.steps),
        cfg: args.cfg.unwrap_or(defaults.cfg),
        ..defaults
    }
}

fn prompts(args: &Bench, texts: Option<Vec<String>>, tiny: bool) -> Vec<Prompt> {
    let built_in = if tiny { TINY } else { GENERAL };
    let texts = texts.unwrap_or_else(|| text_file::lines(built_in));
    let limit = args.limit.map_or(usize::MAX, |limit| limit as usize);
    let seeds = args.seed..;
    let pairs = texts.into_iter().take(limit).zip(seeds);
    pairs
        .map(|(prompt, seed)| Prompt { prompt, seed })
        .collect()
}

/// The metric that was asked for, and the SHA-256 of its file.
fn lpips(args: &Bench, settings: &Settings) -> Result<Option<(Lpips, String)>, Failure> {
    let Some(path) = &args.lpips else {
        return Ok(None);
    };
    let metric = Lpips::open(path).map_err(anyhow::Error::from)?;
    let (least, Settings { width, height, .. }) = (metric.least_side(), settings);
    if (*width).min(*height) < least {
        return Err(Failure::Usage(format!(
            "--lpips needs pictures of at least {least} pixels a side, not {width}x{height}"
        )));
    }
    let bytes = fs::read(path).with_context(|| path.display().to_string())?;
    Ok(Some((metric, hex(&Sha256::digest(bytes)))))
}

/// What is known before anything runs.
fn begin(args: &Bench, prepared: &[Prepared], prompts: &[Prompt], settings: &Settings) -> Results {
    let first = &prepared[0];
    let model = Path::new(&args.model.model);
    let setting = |name: &str, value: String| (name.to_owned(), value);
    Results {
        version: VERSION,
        engine: env!("CARGO_PKG_VERSION").to_owned(),
        baseline: first.row.name.clone(),
        model: model
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned(),
        fingerprint: first.row.fingerprint.clone(),
        command: output::command(),
        settings: BTreeMap::from([
            setting("size", format!("{}x{}", settings.width, settings.height)),
            setting("steps", settings.steps.to_string()),
            setting("guidance", settings.cfg.to_string()),
            setting("sampler", settings.sampler.name().to_owned()),
            setting("schedule", settings.schedule.name().to_owned()),
        ]),
        environment: environment(),
        prompts: prompts.to_vec(),
        order: prepared.iter().map(|p| p.row.name.clone()).collect(),
        variants: BTreeMap::new(),
        findings: Vec::new(),
    }
}

/// Where this runs.
fn environment() -> BTreeMap<String, String> {
    let file = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let field = |text: String, name: &str| {
        let line = text
            .lines()
            .find(|line| line.starts_with(name))
            .map(str::to_owned);
        line.and_then(|line| Some(line.split_once(':')?.1.trim().to_owned()))
    };
    let known = [
        ("processor", field(file("/proc/cpuinfo"), "model name")),
        ("memory", field(file("/proc/meminfo"), "MemTotal")),
        (
            "system",
            Some(format!(
                "{} {}",
                std::env::consts::OS,
                std::env::consts::ARCH
            )),
        ),
        ("threads", Some(rayon::current_num_threads().to_string())),
        (
            "vector instructions",
            Some(
                crate::numerics::machine::Machine::detect()
                    .level()
                    .to_string(),
            ),
        ),
        ("device", Some("cpu".to_owned())),
    ];
    known
        .into_iter()
        .filter_map(|(name, value)| Some((name.to_owned(), value?)))
        .collect()
}

/// What makes a journal this run's: model, rows, prompts and settings, but not the machine.
fn identity(results: &Results, prepared: &[Prepared]) -> String {
    let rows: Vec<_> = prepared
        .iter()
        .map(|p| (&p.row.name, &p.row.fingerprint, &p.variant.activations))
        .collect();
    json!([
        results.engine,
        results.fingerprint,
        results.settings,
        results.prompts,
        rows
    ])
    .to_string()
}

/// A process of its own for each row that has none yet.
fn cold_starts(
    args: &Bench,
    prepared: &mut [Prepared],
    journal: &mut Journal,
    (prompts, settings): (&[Prompt], &Settings),
    cancel: &Cancel,
) -> Result<(), Failure> {
    for p in prepared {
        let known = |line: &Line| matches!(line, Line::Cold(row, _) if *row == p.row.name);
        let Some(prompt) = prompts.first() else {
            continue;
        };
        if p.row.engine.is_err() || journal.lines.iter().any(known) {
            continue;
        }
        if cancel.is_cancelled() {
            return Err(Failure::Interrupted);
        }
        match cold(p, &args.model, prompt, settings) {
            Ok(cold) => journal
                .write(&Line::Cold(p.row.name.clone(), cold))
                .context("the journal")?,
            Err(e) => tracing::warn!("{}: no cold start was measured: {e}", p.row.name),
        }
    }
    Ok(())
}

/// `results.json` and the reports.
fn write(dir: &Path, results: &Results) -> Result<(), Failure> {
    let json = serde_json::to_string_pretty(results).context("the results")?;
    let page = html(results, dir).map_err(anyhow::Error::from)?;
    let files = [
        ("results.json", json + "\n"),
        ("report.md", markdown(results)),
        ("report.html", page),
    ];
    for (name, text) in files {
        write_whole(&dir.join(name), text.as_bytes()).map_err(anyhow::Error::from)?;
    }
    Ok(())
}

fn report(args: &Bench, common: &Common, results: &Results, seconds: f64) -> Result<(), Failure> {
    let failed = results
        .variants
        .values()
        .filter(|v| v.error.is_some())
        .count();
    if common.json {
        println!("{}", serde_json::to_string(results).context("the results")?);
    } else {
        for name in ["results.json", "report.md", "report.html"] {
            println!("{}", args.output.join(name).display());
        }
        if !common.quiet {
            for sentence in &results.findings {
                eprintln!("{sentence}");
            }
            eprintln!(
                "{} rows, {} prompts, in {}",
                results.order.len(),
                results.prompts.len(),
                output::seconds(seconds)
            );
        }
    }
    for name in &results.order {
        if let Some(error) = results.variants.get(name).and_then(|v| v.error.as_ref()) {
            tracing::warn!("{name} failed: {error}");
        }
    }
    match failed {
        0 => Ok(()),
        n => Err(Failure::Work(anyhow::anyhow!(
            "{n} rows failed; the others are in {}",
            args.output.display()
        ))),
    }
}
