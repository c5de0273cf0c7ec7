//! `qwen-nvfp4 generate`.

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::Context;
use candle_core::{Device, Tensor};
use indicatif::ProgressBar;
use serde::Serialize;

use super::args::{Common, Generate, LoraArg, ModelArgs, TemplateArg};
use super::{Failure, output, text_file};
use crate::checkpoint::{Checkpoint, ModelSource};
use crate::context::{Cancel, Cx};
use crate::numerics::machine::Machine;
use crate::ops::kernels::Kernels;
use crate::pipeline::image::{Provenance, parameters};
use crate::pipeline::latents;
use crate::pipeline::prompt::Template;
use crate::pipeline::request::{Request, Settings};
use crate::pipeline::sampler::Sampler;
use crate::pipeline::schedule::ScheduleKind;
use crate::pipeline::{Engine, PipelineError, Progress};

/// Image tokens that are computed at once: smaller pictures are batched up to here.
const BATCH_TOKENS: usize = 1024;

#[derive(Serialize)]
struct Report<'a> {
    images: Vec<Image>,
    timings: Timings,
    peak_rss_bytes: Option<u64>,
    device: &'static str,
    kernels: &'a Kernels,
}

#[derive(Serialize)]
struct Image {
    path: String,
    seed: u64,
    width: usize,
    height: usize,
}

#[derive(Serialize, Default)]
struct Timings {
    load_s: f64,
    text_encode_s: f64,
    steps_s: Vec<f64>,
    decode_s: f64,
    total_s: f64,
}

/// Runs the command.
pub(super) fn run(args: &Generate, common: &Common, cancel: Cancel) -> Result<(), Failure> {
    let start = Instant::now();
    check_outputs(args)?;
    let prompts = prompts(args)?;
    let engine = engine(args)?;
    let settings = settings(args, engine.defaults())?;
    // Before any work: a schedule that cannot be made, a size that does not exist.
    settings.validate()?;
    let schedule = engine.schedule(&settings)?;
    tracing::info!(
        "model: {} ({})",
        engine.checkpoint().name,
        engine.checkpoint().policy()
    );
    let kernels = Kernels::of(&engine.checkpoint().transformer, Machine::detect());
    tracing::info!("kernels: {kernels:?}");
    for slower in kernels.slower(Machine::detect()) {
        tracing::warn!("{slower}");
    }
    tracing::info!("settings: {settings:?}");
    tracing::info!("sigmas: {:?}", schedule.sigmas);
    let mut timings = Timings {
        load_s: start.elapsed().as_secs_f64(),
        ..Timings::default()
    };

    let cx = Cx {
        cancel,
        ..Cx::default()
    };
    let fingerprint = engine.checkpoint().fingerprint();
    let policy = engine.checkpoint().policy();
    let count = prompts.len() * args.batch as usize;
    let mut images = Vec::with_capacity(count);
    for job in jobs(&prompts, args, &settings) {
        let mut progress = Reporter {
            engine: &engine,
            bar: output::progress_bar(!common.quiet),
            preview: args.preview.as_deref(),
            first: images.len(),
            clock: Instant::now(),
            cx: &cx,
        };
        if count > 1 {
            progress
                .bar
                .set_prefix(format!("picture {}/{count}  ", images.len() + 1));
        }
        let generated = engine.generate(&job, &cx, &mut progress)?;
        progress.bar.finish_and_clear();
        timings.text_encode_s += generated.timings.text_encode_s;
        timings.steps_s.extend(&generated.timings.steps_s);
        timings.decode_s += generated.timings.decode_s;
        if let Some(path) = &args.save_latents {
            latents::save(
                &generated.latents,
                &output::numbered(
                    path,
                    images.len() / job.seeds.len(),
                    count.div_ceil(job.seeds.len()),
                ),
            )?;
        }
        for ((picture, seed), prompt) in generated.pictures.iter().zip(&job.seeds).zip(&job.prompts)
        {
            if cx.cancel.is_cancelled() {
                return Err(Failure::Interrupted);
            }
            let path = output::numbered(&args.output, images.len(), count);
            let made = Provenance {
                prompt,
                seed: *seed,
                steps: generated.steps,
                settings: &job.settings,
                model: &engine.checkpoint().name,
                fingerprint: &fingerprint,
                loras: &engine.checkpoint().loras,
                policy: &policy,
                activations: engine.checkpoint().transformer.activations(),
            };
            picture.save(&path, &parameters(&made))?;
            images.push(Image {
                path: path.display().to_string(),
                seed: *seed,
                width: picture.width,
                height: picture.height,
            });
        }
    }
    timings.total_s = start.elapsed().as_secs_f64();
    report(images, timings, &kernels, common)
}

fn report(
    images: Vec<Image>,
    timings: Timings,
    kernels: &Kernels,
    common: &Common,
) -> Result<(), Failure> {
    if common.json {
        let report = Report {
            images,
            timings,
            peak_rss_bytes: output::peak_rss(),
            device: "cpu",
            kernels,
        };
        let json = serde_json::to_string(&report).context("the report")?;
        println!("{json}");
        return Ok(());
    }
    if common.quiet {
        return Ok(());
    }
    for image in &images {
        println!("{}", image.path);
    }
    let steps = timings.steps_s.len();
    eprintln!(
        "{} picture{} in {}: loading {}, prompt {}, {steps} steps {}, decoding {}",
        images.len(),
        if images.len() == 1 { "" } else { "s" },
        output::seconds(timings.total_s),
        output::seconds(timings.load_s),
        output::seconds(timings.text_encode_s),
        output::seconds(timings.steps_s.iter().sum()),
        output::seconds(timings.decode_s),
    );
    Ok(())
}

/// The model with its adapters.
fn engine(args: &Generate) -> Result<Engine, Failure> {
    let mut checkpoint =
        Checkpoint::open(&source(&args.model), &Device::Cpu).map_err(PipelineError::from)?;
    checkpoint.quantize_activations(args.activations.into());
    for LoraArg { path, scale } in &args.lora {
        checkpoint
            .adapt(path, *scale)
            .map_err(PipelineError::from)?;
    }
    Ok(Engine::of(checkpoint)?)
}

/// Where the model comes from.
pub(super) fn source(args: &ModelArgs) -> ModelSource {
    match args.model.as_str() {
        "tiny" => ModelSource::Embedded,
        path => ModelSource::Files {
            model: PathBuf::from(path),
            text_encoder: args.text_encoder.clone(),
            vae: args.vae.clone(),
        },
    }
}

/// The model's defaults with what the user said over them.
fn settings(args: &Generate, defaults: Settings) -> Result<Settings, Failure> {
    if args.model.model == "tiny" && (args.model.text_encoder.is_some() || args.model.vae.is_some())
    {
        let message = "the tiny model is complete: --text-encoder and --vae need a --model FILE";
        return Err(Failure::Usage(message.to_owned()));
    }
    let named = |name: &str| {
        Sampler::NAMES
            .iter()
            .find(|(n, _)| *n == name)
            .map(|(_, s)| *s)
    };
    let schedule = |name: &str| {
        ScheduleKind::NAMES
            .iter()
            .find(|(n, _)| *n == name)
            .map(|(_, s)| *s)
    };
    let (width, height) = args.size.unwrap_or((defaults.width, defaults.height));
    Ok(Settings {
        width,
        height,
        steps: args.steps.unwrap_or(defaults.steps),
        cfg: args.cfg.unwrap_or(defaults.cfg),
        negative: args.negative.clone().unwrap_or(defaults.negative),
        sampler: args
            .sampler
            .as_deref()
            .and_then(named)
            .unwrap_or(defaults.sampler),
        schedule: args
            .schedule
            .as_deref()
            .and_then(schedule)
            .unwrap_or(defaults.schedule),
        shift: args.shift.or(defaults.shift),
        sigmas: args.sigmas.clone(),
        template: match args.template {
            Some(TemplateArg::T2i) => Template::TextToImage,
            Some(TemplateArg::Edit) => Template::Edit,
            None => defaults.template,
        },
    })
}

/// The prompts: the one on the command line, or the lines of a file.
fn prompts(args: &Generate) -> Result<Vec<String>, Failure> {
    let Some(path) = &args.prompts else {
        return Ok(vec![args.prompt.clone()]);
    };
    text_file::prompts(path)
}

/// Batches: pictures of one prompt go together as long as they are small.
fn jobs(prompts: &[String], args: &Generate, settings: &Settings) -> Vec<Request> {
    let tokens = settings.width / 16 * (settings.height / 16);
    let together = (BATCH_TOKENS / tokens.max(1)).clamp(1, args.batch as usize);
    // A file of starting latents is one batch, as its shape says.
    let together = if args.latents.is_some() {
        args.batch as usize
    } else {
        together
    };
    let seeds: Vec<u64> = (0..u64::from(args.batch))
        .map(|i| args.seed.wrapping_add(i))
        .collect();
    prompts
        .iter()
        .flat_map(|prompt| {
            seeds.chunks(together).map(|seeds| Request {
                prompts: vec![prompt.clone(); seeds.len()],
                negatives: None,
                seeds: seeds.to_vec(),
                settings: settings.clone(),
                latents: args.latents.clone(),
            })
        })
        .collect()
}

/// Refuses, before the work, what could not be written after it, and outputs that would replace an input.
fn check_outputs(args: &Generate) -> Result<(), Failure> {
    if let Some(folder) = &args.preview {
        output::check_folder(folder, "--preview")?;
    }
    let mut outputs = vec![(args.output.as_path(), "-o")];
    outputs.extend(args.save_latents.as_deref().map(|p| (p, "--save-latents")));
    for (path, flag) in &outputs {
        output::check_target(path, flag)?;
    }
    let given = [&args.model.text_encoder, &args.model.vae, &args.prompts];
    let inputs: Vec<&Path> = [Path::new(&args.model.model)]
        .into_iter()
        .chain(args.lora.iter().map(|lora| lora.path.as_path()))
        .chain(given.into_iter().filter_map(|path| path.as_deref()))
        .collect();
    output::check_distinct(&outputs, &inputs)?;
    let ending = args.output.extension().map(|e| e.to_ascii_lowercase());
    match ending.as_deref().and_then(|e| e.to_str()) {
        Some(other @ ("jpg" | "jpeg" | "webp" | "gif" | "bmp" | "tif" | "tiff")) => {
            Err(Failure::Usage(format!(
                "pictures are written as PNG, not as {other}; give -o a name that ends in .png"
            )))
        }
        _ => Ok(()),
    }
}

/// The progress bar and the previews.
struct Reporter<'a> {
    engine: &'a Engine,
    bar: ProgressBar,
    preview: Option<&'a Path>,
    first: usize,
    clock: Instant,
    cx: &'a Cx,
}

impl Progress for Reporter<'_> {
    fn cut(&mut self, cut: &str) {
        tracing::warn!("the prompt is longer than the model reads; this was cut off: {cut:?}");
    }

    fn begin(&mut self, steps: usize) {
        self.bar.set_length(steps as u64);
        self.bar.set_position(0);
        self.clock = Instant::now();
    }

    fn stepped(&mut self, step: usize, latents: &Tensor) -> Result<(), PipelineError> {
        let s = output::seconds(self.clock.elapsed().as_secs_f64());
        self.bar.set_message(format!("{s}/step"));
        self.bar.set_position(step as u64 + 1);
        if let Some(folder) = self.preview {
            for (i, picture) in self.engine.decode(latents, self.cx)?.iter().enumerate() {
                let name = format!("{:03}-step-{:03}.png", self.first + i, step + 1);
                picture.save(&folder.join(name), "")?;
            }
        }
        self.clock = Instant::now();
        Ok(())
    }
}
