//! The rows of `qwen-nvfp4 bench`: what each is made of, its engine, and a process of its own for the cold start.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use candle_core::Device;
use serde::Deserialize;

use super::args::ModelArgs;
use super::bench_args::Bench;
use super::{Failure, generate};
use crate::bench::journal::Cold;
use crate::bench::results::{Layers, Prompt, Variant};
use crate::bench::run::Row;
use crate::bench::variants::{VariantError, VariantSpec, Variants};
use crate::checkpoint::{Activations, Checkpoint, ModelSource};
use crate::context::Cancel;
use crate::numerics::machine::Machine;
use crate::ops::kernels::Kernels;
use crate::pipeline::request::Settings;
use crate::pipeline::{Engine, PipelineError};
use crate::quantize::Source;
use crate::quantize::source::Format;

impl From<VariantError> for Failure {
    fn from(e: VariantError) -> Self {
        match e {
            VariantError::Convert(e) => e.into(),
            e => Self::Work(e.into()),
        }
    }
}

/// What the row of `--reference` is called.
pub(super) const REFERENCE: &str = "f32";

/// A row, and what `results.json` says of it before anything ran.
pub(super) struct Prepared {
    pub row: Row,
    pub variant: Variant,
    /// What `--model` takes.
    pub model: String,
    pub activations: Activations,
}

/// The rows that are asked for, the baseline first. A row that cannot be made carries its error.
pub(super) fn prepare(args: &Bench, cancel: &Cancel) -> Result<Vec<Prepared>, Failure> {
    let (mut variants, names) = variants(args)?;
    if let Some(calib) = &args.calib {
        variants.calibrate_by(calib);
    }
    let source = match args.model.model.as_str() {
        "tiny" => Source::embedded()?,
        path => Source::open(Path::new(path))?,
    };
    let mut rows = vec![model(&args.model, &variants.file.baseline)?];
    rows[0].variant.file_bytes = source.bytes();
    let fp8 = |format: &Format| matches!(format, Format::E4m3 | Format::E5m2);
    rows[0].variant.layers.float8_e4m3fn = source.layers.iter().filter(|l| fp8(&l.format)).count();
    if let Some(reference) = &args.reference {
        let args = ModelArgs {
            model: reference.clone(),
            ..args.model.clone()
        };
        rows.push(model(&args, REFERENCE)?);
    }
    let cache = args.output.join("checkpoints");
    for (name, spec) in &variants.file.variants {
        if !names.contains(name) {
            continue;
        }
        if cancel.is_cancelled() {
            return Err(Failure::Interrupted);
        }
        tracing::info!("{name}: {spec:?}");
        rows.push(converted(
            args,
            name,
            (&variants, spec),
            (&source, &cache),
            cancel,
        ));
    }
    Ok(rows)
}

/// The file of rows, and which of them.
fn variants(args: &Bench) -> Result<(Variants, Vec<String>), Failure> {
    let all = |v: &Variants| {
        v.file
            .variants
            .iter()
            .map(|(name, _)| name.clone())
            .collect()
    };
    let Some(word) = &args.variants else {
        let built_in = Variants::built_in()?;
        let names = all(&built_in);
        return Ok((built_in, names));
    };
    if Path::new(word).is_file() {
        let opened = Variants::open(Path::new(word))?;
        let names = all(&opened);
        return Ok((opened, names));
    }
    let built_in = Variants::built_in()?;
    let names: Vec<String> = word.split(',').map(|name| name.trim().to_owned()).collect();
    let known: Vec<String> = all(&built_in);
    match names.iter().find(|name| !known.contains(name)) {
        Some(unknown) => Err(Failure::Usage(format!(
            "there is no row `{unknown}` and no such file; give --variants a file like configs/variants.json, or some of {}",
            known.join(",")
        ))),
        None => Ok((built_in, names)),
    }
}

/// A model as it is.
fn model(args: &ModelArgs, name: &str) -> Result<Prepared, Failure> {
    let engine = Engine::load(&generate::source(args))?;
    let checkpoint = engine.checkpoint();
    let fingerprint = checkpoint.fingerprint();
    let variant = Variant {
        activations: Activations::Static.word().to_owned(),
        file_bytes: checkpoint.stored_bytes() as u64,
        kernels: kernels(&engine),
        ..Variant::default()
    };
    Ok(Prepared {
        row: Row {
            name: name.to_owned(),
            engine: Ok(engine),
            fingerprint,
        },
        variant,
        model: args.model.clone(),
        activations: Activations::Static,
    })
}

/// A converted row.
fn converted(
    args: &Bench,
    name: &str,
    (variants, spec): (&Variants, &VariantSpec),
    (source, cache): (&Source, &Path),
    cancel: &Cancel,
) -> Prepared {
    let stat = spec.stat.as_deref().unwrap_or("max");
    let mut variant = Variant {
        policy: Some(spec.policy.clone()),
        calibration: spec.calib.as_ref().map(|calib| format!("{calib}, {stat}")),
        activations: spec.activations.word().to_owned(),
        command: Some(command(args, spec)),
        ..Variant::default()
    };
    let made = variants.checkpoint(spec, source, cache, cancel);
    let (model, engine) = match made {
        Err(e) => (String::new(), Err(e.to_string())),
        Ok((path, counts)) => {
            variant.layers = Layers {
                nvfp4: counts.nvfp4,
                float8_e4m3fn: counts.float8_e4m3fn,
            };
            variant.file_bytes = path.metadata().map_or(0, |m| m.len());
            let engine = engine(args, &path, spec.activations).map_err(|e| e.to_string());
            (path.display().to_string(), engine)
        }
    };
    if let Ok(engine) = &engine {
        variant.kernels = kernels(engine);
    }
    let fingerprint = engine
        .as_ref()
        .map_or(String::new(), |e| e.checkpoint().fingerprint());
    Prepared {
        row: Row {
            name: name.to_owned(),
            engine,
            fingerprint,
        },
        variant,
        model,
        activations: spec.activations,
    }
}

fn engine(args: &Bench, path: &Path, activations: Activations) -> Result<Engine, PipelineError> {
    let source = ModelSource::Files {
        model: path.to_owned(),
        text_encoder: args.model.text_encoder.clone(),
        vae: args.model.vae.clone(),
    };
    let mut checkpoint = Checkpoint::open(&source, &Device::Cpu)?;
    checkpoint.quantize_activations(activations);
    Engine::of(checkpoint)
}

/// The command that makes the row's checkpoint.
fn command(args: &Bench, spec: &VariantSpec) -> String {
    let policy = spec.policy.strip_suffix(".json").unwrap_or(&spec.policy);
    let calib = spec.calib.as_ref().map_or(String::new(), |calib| {
        let stat = spec.stat.as_deref().unwrap_or("max");
        let foreign = if spec.foreign_calib {
            " --foreign-calib"
        } else {
            ""
        };
        format!(
            " --calib {} --calib-stat {stat}{foreign}",
            calib.trim_start_matches("../")
        )
    });
    format!(
        "qwen-nvfp4 convert {} --policy {policy} --assume-unscaled{calib} -o FILE",
        args.model.model
    )
}

/// Kernels by format.
fn kernels(engine: &Engine) -> BTreeMap<String, String> {
    let kernels = Kernels::of(&engine.checkpoint().transformer, Machine::detect());
    let json = serde_json::to_value(&kernels).unwrap_or_default();
    let fields = json.as_object().into_iter().flatten();
    let of = |(name, kernel): (&String, &serde_json::Value)| {
        Some((name.clone(), kernel.as_str()?.to_owned()))
    };
    fields.filter_map(of).collect()
}

/// Starts this program anew to make one picture: what a user waits for at first, and the memory that it takes.
pub(super) fn cold(
    prepared: &Prepared,
    model: &ModelArgs,
    prompt: &Prompt,
    settings: &Settings,
) -> std::io::Result<Cold> {
    #[derive(Deserialize)]
    struct Report {
        peak_rss_bytes: Option<u64>,
    }
    let out = tempfile::Builder::new().suffix(".png").tempfile()?;
    let mut child = Command::new(std::env::current_exe()?);
    child
        .args(["generate", "--json", "--quiet", "--model", &prepared.model])
        .args(["--activations", prepared.activations.word()])
        .arg(format!("--size={}x{}", settings.width, settings.height))
        .arg(format!("--steps={}", settings.steps))
        .arg(format!("--cfg={}", settings.cfg))
        .arg(format!("--threads={}", rayon::current_num_threads()))
        .arg("-o")
        .arg(out.path());
    for (flag, path) in [
        ("--text-encoder", &model.text_encoder),
        ("--vae", &model.vae),
    ] {
        child.args(
            path.iter()
                .flat_map(|path| [PathBuf::from(flag), path.clone()]),
        );
    }
    let start = Instant::now();
    let output = child
        .arg("--")
        .arg(&prompt.prompt)
        .stdin(Stdio::null())
        .output()?;
    let seconds = start.elapsed().as_secs_f64();
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        return Err(std::io::Error::other(said));
    }
    let report: Report = serde_json::from_slice(&output.stdout)?;
    Ok(Cold {
        seconds,
        peak_rss_bytes: report.peak_rss_bytes,
    })
}
