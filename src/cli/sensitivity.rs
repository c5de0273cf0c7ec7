//! `qwen-nvfp4 sensitivity`.

use std::path::{Path, PathBuf};

use anyhow::Context;
use candle_core::Device;
use clap::{Args, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};

use super::args::{Common, ModelArgs, size};
use super::generate::source;
use super::{Failure, convert, output, text_file};
use crate::bench::sensitivity::greedy::Budget;
use crate::bench::sensitivity::groups::By;
use crate::bench::sensitivity::results::Sensitivity as Found;
use crate::bench::sensitivity::{SensitivityError, Study, enough, measure, report};
use crate::checkpoint::{Activations, Checkpoint, write_whole};
use crate::context::{Cancel, Cx};
use crate::pipeline::request::Settings;
use crate::pipeline::{Engine, PipelineError};
use crate::quantize::plan::Options;
use crate::quantize::{ConvertError, Source};

const HELP: &str = "Each group of layers alone becomes NVFP4 while the rest of the blocks is FP8. Its damage is the teacher-forced velocity \
error |v - v_base| / |v_base| against the model with F32 activations, its time is measured layer by layer on this machine. \
Converted transformers lie in -o while it works: 1 byte and half a byte for each weight, as much again with --suggest.

--suggest puts groups into NVFP4, the least added error for each saved millisecond first, as long as the budget allows. \
--budget X is either a number, the largest allowed velocity error as a multiple of that of policy v3 on the same prompts (1 is as \
much, 0.9 a tenth less), or seconds with their unit (12ms, 3.5s), the time that the blocks' linears may take for one picture of the first \
prompt. Groups are chosen on the first half of the prompts; then the policy and v3 are converted and compared on the second half. The \
report says both, whether or not the suggestion is better. The policy is for `convert --policy`.

Examples:
  qwen-nvfp4 sensitivity --prompts prompts.txt
  qwen-nvfp4 sensitivity --prompts prompts.txt --suggest --budget 0.95 -o found
  qwen-nvfp4 convert tiny --assume-unscaled --policy found/suggested.json -o out.safetensors";

/// `sensitivity`
#[derive(Args, Debug)]
#[command(after_help = HELP)]
pub struct Sensitivity {
    #[command(flatten)]
    pub model: ModelArgs,
    /// Prompts, one a line
    #[arg(long, value_name = "FILE")]
    pub prompts: PathBuf,
    /// Folder for sensitivity.json, sensitivity.md and suggested.json
    #[arg(short, long, default_value = "sensitivity", value_name = "DIR")]
    pub output: PathBuf,
    /// What makes a group
    #[arg(long, value_enum, default_value_t, value_name = "WHAT")]
    pub by: ByArg,
    /// Suggest a policy
    #[arg(long)]
    pub suggest: bool,
    /// What it may cost: N times the error of v3, or seconds a picture (12ms, 3.5s)
    #[arg(long, value_name = "X", default_value = "1", requires = "suggest")]
    pub budget: Budget,
    /// Activation ranges, which become `input_scale`
    #[arg(long, value_name = "FILE")]
    pub calib: Option<PathBuf>,
    /// Which of the calibration's statistics: max, p99.9 (any percentile), run-p99.9, mse, headroom
    #[arg(long, value_name = "NAME", default_value = "max", requires = "calib")]
    pub calib_stat: String,
    /// The calibration may be of other weights with the same layers
    #[arg(long, requires = "calib")]
    pub foreign_calib: bool,
    /// FP8 weights without a scale are the weights themselves, as in Qwen-Rapid-AIO; of the tiny models that is known
    #[arg(long)]
    pub assume_unscaled: bool,
    /// Steps of the schedule [default: the model's]
    #[arg(long, value_name = "N")]
    pub steps: Option<usize>,
    /// Width and height in pixels, multiples of 16 [default: the model's]
    #[arg(long, value_name = "WxH", value_parser = size)]
    pub size: Option<(usize, usize)>,
    /// Seed of the first prompt; the following count up
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub seed: u64,
    /// Overwrite what is there
    #[arg(long)]
    pub force: bool,
}

/// What makes a group.
#[derive(Clone, Copy, Debug, Default, ValueEnum)]
pub enum ByArg {
    /// Layers of one type (attn.to_q)
    Type,
    /// Layers of one type in one third of the depth
    #[default]
    TypeThird,
}

impl From<SensitivityError> for Failure {
    fn from(e: SensitivityError) -> Self {
        match e {
            SensitivityError::Pipeline(e) => e.into(),
            SensitivityError::Convert(e) => e.into(),
            SensitivityError::Request(message) => Self::Usage(message),
        }
    }
}

/// Runs the command.
pub(super) fn run(args: &Sensitivity, common: &Common, cancel: Cancel) -> Result<(), Failure> {
    let prompts = text_file::prompts(&args.prompts)?;
    enough(prompts.len(), args.suggest)?;
    check_output(args)?;
    let calibration = args.calib.as_deref();
    let calibration = calibration.map(|path| convert::calibration(path, &args.calib_stat));
    let calibration = calibration.transpose()?;
    let baseline = baseline(args)?;
    let settings = settings(args, &baseline)?;
    let to_convert = match args.model.model.as_str() {
        "tiny" => Source::embedded()?,
        path => Source::open(Path::new(path))?,
    };
    std::fs::create_dir_all(&args.output).with_context(|| {
        format!(
            "{} cannot be made; choose another -o",
            args.output.display()
        )
    })?;
    let folder = tempfile::Builder::new()
        .prefix(".sensitivity-")
        .tempdir_in(&args.output)
        .map_err(crate::checkpoint::without_path)
        .with_context(|| format!("no file can be made in {}", args.output.display()))?;
    let bar = bar(common);
    let cx = Cx {
        cancel,
        ..Cx::default()
    };
    let study = Study {
        baseline: &baseline,
        source: &to_convert,
        calibration: calibration.as_ref(),
        options: Options {
            assume_unscaled: args.assume_unscaled || baseline.checkpoint().is_tiny(),
            foreign_calibration: args.foreign_calib,
            ..Options::default()
        },
        prompts: &prompts,
        seed: args.seed,
        settings,
        by: match args.by {
            ByArg::Type => By::Type,
            ByArg::TypeThird => By::TypeThird,
        },
        folder: folder.path(),
        cx: &cx,
        hears: &|what, done, of| {
            bar.set_message(what.to_owned());
            bar.set_length(of as u64);
            bar.set_position(done as u64);
        },
    };
    let found = measure(
        &study,
        args.suggest.then_some(args.budget),
        &output::command(),
    );
    bar.finish_and_clear();
    write(&found?, &args.output, common)
}

/// Refuses, before the work, what could not be written after it.
fn check_output(args: &Sensitivity) -> Result<(), Failure> {
    output::check_folder(&args.output, "-o")?;
    for path in targets(&args.output) {
        output::check_target(&path, "-o")?;
        if path.exists() && !args.force {
            let message = format!(
                "{} exists; say --force, or choose another -o",
                path.display()
            );
            return Err(Failure::Work(anyhow::anyhow!(message)));
        }
    }
    Ok(())
}

fn targets(folder: &Path) -> [PathBuf; 3] {
    ["sensitivity.json", "sensitivity.md", "suggested.json"].map(|name| folder.join(name))
}

/// The model with F32 activations.
fn baseline(args: &Sensitivity) -> Result<Engine, Failure> {
    let checkpoint = Checkpoint::open(&source(&args.model), &Device::Cpu);
    let mut checkpoint = checkpoint.map_err(PipelineError::from)?;
    checkpoint.quantize_activations(Activations::None);
    Ok(Engine::of(checkpoint)?)
}

fn settings(args: &Sensitivity, baseline: &Engine) -> Result<Settings, Failure> {
    let defaults = baseline.defaults();
    let (width, height) = args.size.unwrap_or((defaults.width, defaults.height));
    let settings = Settings {
        width,
        height,
        steps: args.steps.unwrap_or(defaults.steps),
        ..defaults
    };
    settings.validate()?;
    baseline.schedule(&settings)?;
    Ok(settings)
}

fn bar(common: &Common) -> ProgressBar {
    let bar = output::progress_bar(!common.quiet);
    if let Ok(style) = ProgressStyle::with_template("{bar:32} {msg} {pos}/{len}  {elapsed}") {
        bar.set_style(style);
    }
    bar
}

/// Files, and what is printed.
fn write(found: &Found, folder: &Path, common: &Common) -> Result<(), Failure> {
    let json = serde_json::to_string_pretty(found).context("the results")?;
    let text = report::markdown(found);
    let put = |path: &Path, text: &str| write_whole(path, text.as_bytes());
    let [to_json, to_text, to_policy] = targets(folder);
    put(&to_json, &format!("{json}\n")).map_err(ConvertError::from)?;
    put(&to_text, &text).map_err(ConvertError::from)?;
    if let Some(suggestion) = &found.suggestion {
        put(&to_policy, &suggestion.policy).map_err(ConvertError::from)?;
    } else if to_policy.exists() {
        // With --force: a policy of an earlier run belongs to no report any more.
        std::fs::remove_file(&to_policy).context("an earlier suggested.json")?;
    }
    match common.json {
        true => println!("{json}"),
        false => {
            print!("{text}");
            if !common.quiet {
                eprintln!("written to {}", folder.display());
            }
        }
    }
    Ok(())
}
