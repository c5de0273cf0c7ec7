//! `qwen-nvfp4 calibrate`: a run of samples.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context;
use candle_core::Device;
use indicatif::{ProgressBar, ProgressStyle};
use serde::{Deserialize, Serialize};

use super::args::{Common, ModelArgs};
use super::calibrate_args::Calibrate;
use super::generate::source;
use super::{Failure, calibration_files, output, text_file};
use crate::calibrate::session::{Existing, Outcome, SampleProgress, label};
use crate::calibrate::{CalibrateError, SamplePlan, Session, Shard};
use crate::checkpoint::Checkpoint;
use crate::context::{Cancel, Cx};
use crate::pipeline::request::Settings;
use crate::pipeline::{Engine, PipelineError, Progress};
use crate::quantize::calibration::ModelLabel;

/// The tiny model's own language.
const TINY: &str = include_str!("../../configs/prompts/calibration-tiny.txt");
/// For models of the world.
const GENERAL: [&str; 3] = [
    include_str!("../../configs/prompts/calibration-general.txt"),
    include_str!("../../configs/prompts/calibration-portrait.txt"),
    include_str!("../../configs/prompts/calibration-skin-detail.txt"),
];

/// What `--json` prints.
#[derive(Serialize)]
struct Summary {
    output: String,
    samples: u64,
    missing: u64,
    layers: usize,
    never_ran: Vec<String>,
    seconds: f64,
    counts_bytes: usize,
    peak_rss_bytes: Option<u64>,
}

impl From<CalibrateError> for Failure {
    fn from(e: CalibrateError) -> Self {
        match e {
            CalibrateError::Sample { source, .. } if source.is_cancelled() => Self::Interrupted,
            CalibrateError::Request(message) => Self::Usage(message),
            e => Self::Work(e.into()),
        }
    }
}

/// Runs the command.
pub(super) fn run(args: &Calibrate, common: &Common, cancel: Cancel) -> Result<(), Failure> {
    if let Some(command) = &args.command {
        return calibration_files::run(command, common);
    }
    let start = Instant::now();
    let target = args.output.as_deref().unwrap_or(Path::new(""));
    output::check_target(target, "-o")?;
    let (engine, model) = engine(args)?;
    let (plan, samples) = plan(args, &engine)?;
    // Every schedule that will be needed, before the first of them.
    for steps in &plan.steps {
        let settings = Settings {
            steps: *steps,
            ..plan.settings.clone()
        };
        engine.schedule(&settings)?;
    }
    tracing::info!("samples: {samples}, plan: {:?}", plan.recipe());
    let session = Session {
        engine: &engine,
        model,
        plan: &plan,
        samples,
        shard: args.shard.unwrap_or(Shard::WHOLE),
        output: target,
    };
    let existing = match (args.resume, args.force) {
        (true, _) => Existing::Resume,
        (_, true) => Existing::Replace,
        _ => Existing::Refuse,
    };
    let time = args
        .max_minutes
        .map(|m| Duration::try_from_secs_f64(60.0 * m));
    let until = time
        .and_then(Result::ok)
        .and_then(|time| start.checked_add(time));
    let cx = Cx {
        cancel,
        ..Cx::default()
    };
    let mut progress = Bar::new(!common.quiet);
    let outcome = session.run(existing, until, &cx, &mut progress);
    progress.bar.finish_and_clear();
    let state = Session::state_path(target);
    let interrupted = |e: &CalibrateError| matches!(e, CalibrateError::Sample { source, .. } if source.is_cancelled());
    if outcome.as_ref().is_err_and(interrupted) && state.exists() && !common.quiet {
        eprintln!(
            "{} keeps the samples that are done; the same command with --resume goes on",
            state.display()
        );
    }
    report(target, &outcome?, start.elapsed().as_secs_f64(), common)
}

/// The engine of the model that runs, and what the calibration is for.
fn engine(args: &Calibrate) -> Result<(Engine, ModelLabel), Failure> {
    let open = |args: &ModelArgs| {
        Checkpoint::open(&source(args), &Device::Cpu).map_err(PipelineError::from)
    };
    let checkpoint = open(&args.model)?;
    let model = label(&checkpoint);
    let mut observed = match &args.observe_on {
        None => checkpoint,
        Some(path) => {
            let observed = open(&ModelArgs {
                model: path.clone(),
                ..args.model.clone()
            })?;
            if observed.transformer_layers() != checkpoint.transformer_layers() {
                return Err(Failure::Usage(format!(
                    "{path} does not have the layers of {}; give --observe-on a file that was converted from it",
                    args.model.model
                )));
            }
            observed
        }
    };
    observed.quantize_activations(args.activations.into());
    Ok((Engine::of(observed)?, model))
}

/// A plan file: every sample draws from these lists.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PlanFile {
    /// Prompt files, beside the plan.
    prompts: Vec<String>,
    sizes: Vec<[usize; 2]>,
    steps: Vec<usize>,
    cfg: Vec<f64>,
    samples: u64,
    #[serde(default)]
    seed: u64,
}

/// What is to be sampled, and how often.
fn plan(args: &Calibrate, engine: &Engine) -> Result<(SamplePlan, u64), Failure> {
    let settings = engine.defaults();
    let or = |list: &[usize], default| match list.is_empty() {
        true => vec![default],
        false => list.to_vec(),
    };
    if let Some(path) = &args.plan {
        return drawn(path, args, settings);
    }
    let mut prompts = Vec::new();
    for path in &args.prompts {
        prompts.extend(text_file::prompts(path)?);
    }
    if args.prompts.is_empty() {
        prompts = match engine.checkpoint().is_tiny() {
            true => text_file::lines(TINY),
            false => GENERAL
                .iter()
                .flat_map(|text| text_file::lines(text))
                .collect(),
        };
    }
    let samples = args.samples.unwrap_or(prompts.len() as u64);
    let plan = SamplePlan {
        prompts,
        sizes: match args.sizes.is_empty() {
            true => vec![(settings.width, settings.height)],
            false => args.sizes.clone(),
        },
        steps: or(&args.steps, settings.steps),
        cfg: match args.cfg.is_empty() {
            true => vec![settings.cfg],
            false => args.cfg.clone(),
        },
        seed: args.seed.unwrap_or(0),
        drawn: false,
        settings,
    };
    Ok((plan, samples))
}

/// The plan of a file.
fn drawn(path: &Path, args: &Calibrate, settings: Settings) -> Result<(SamplePlan, u64), Failure> {
    let wanted = "give --plan a JSON file like configs/calibration-tiny-512.json";
    let file: PlanFile = serde_json::from_str(&text_file::read(path, wanted)?)
        .map_err(|e| Failure::Usage(format!("{}: {e}; {wanted}", path.display())))?;
    let mut prompts = Vec::new();
    for name in &file.prompts {
        prompts.extend(text_file::prompts(&path.with_file_name("").join(name))?);
    }
    let plan = SamplePlan {
        prompts,
        sizes: file.sizes.iter().map(|[w, h]| (*w, *h)).collect(),
        steps: file.steps,
        cfg: file.cfg,
        seed: args.seed.unwrap_or(file.seed),
        drawn: true,
        settings,
    };
    Ok((plan, args.samples.unwrap_or(file.samples)))
}

fn report(target: &Path, outcome: &Outcome, seconds: f64, common: &Common) -> Result<(), Failure> {
    let file = &outcome.file;
    let summary = Summary {
        output: target.display().to_string(),
        samples: file.samples(),
        missing: outcome.missing,
        layers: file.capture.layers.len(),
        never_ran: file.never_ran.clone(),
        seconds,
        counts_bytes: file.capture.bytes(),
        peak_rss_bytes: output::peak_rss(),
    };
    if common.json {
        println!(
            "{}",
            serde_json::to_string(&summary).context("the summary")?
        );
        return Ok(());
    }
    println!("{}", summary.output);
    if !common.quiet {
        eprintln!(
            "{} samples, {} of them now, {} layers, in {}",
            summary.samples,
            outcome.made,
            summary.layers,
            output::seconds(seconds)
        );
        if outcome.missing > 0 {
            eprintln!(
                "{} samples are missing: time was up; the same command with --resume goes on",
                outcome.missing
            );
        }
    }
    for layer in &file.never_ran {
        tracing::info!("never ran: {layer}");
    }
    Ok(())
}

/// A bar of samples.
struct Bar {
    bar: ProgressBar,
}

impl Bar {
    fn new(wanted: bool) -> Self {
        let bar = output::progress_bar(wanted);
        let style = ProgressStyle::with_template("{bar:32} sample {pos}/{len}  ETA {eta}  {msg}");
        if let Ok(style) = style {
            bar.set_style(style);
        }
        Self { bar }
    }
}

impl SampleProgress for Bar {
    fn begin(&mut self, done: u64, of: u64) {
        self.bar.set_length(of);
        self.bar.set_position(done);
    }

    fn steps(&mut self) -> &mut dyn Progress {
        self
    }
}

impl Progress for Bar {
    fn cut(&mut self, cut: &str) {
        tracing::warn!("a prompt is longer than the model reads; this was cut off: {cut:?}");
    }
}
