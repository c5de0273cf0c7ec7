//! The measurement: lessons, two conversions, and a row for each group.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::greedy::Budget;
use super::groups::{By, Group, groups};
use super::original::{Tier, rank_correlation};
use super::results::{Row, Sensitivity, VERSION, Whole};
use super::{SensitivityError, check, suggestion, timing};
use crate::bench::layer_errors::{LayerErrors, depth, place};
use crate::bench::teacher::{Lesson, Teacher, velocity_errors};
use crate::checkpoint::gather::{Opened, Strictness};
use crate::checkpoint::markers::Markers;
use crate::checkpoint::{CheckpointError, Component, Weights};
use crate::context::Cx;
use crate::model::transformer::QwenImageTransformer;
use crate::ops::kernels;
use crate::pipeline::request::{Request, Settings};
use crate::pipeline::{Engine, PipelineError};
use crate::quantize::plan::Options;
use crate::quantize::policy::Target;
use crate::quantize::{Calibration, ConvertError, Monitor, Plan, Policy, Source, execute};

/// Hears what is being done, and how far it is: done, of how many.
pub type Hears<'a> = dyn Fn(&str, usize, usize) + 'a;

/// What is measured.
pub struct Study<'a> {
    /// The source as it runs with F32 activations.
    pub baseline: &'a Engine,
    /// The same as something to convert.
    pub source: &'a Source,
    /// Activation ranges, which become `input_scale`.
    pub calibration: Option<&'a Calibration>,
    /// How to convert. Components are not asked: the transformer it is.
    pub options: Options,
    /// One generation each.
    pub prompts: &'a [String],
    /// Of the first prompt; the following count up.
    pub seed: u64,
    /// Of every generation.
    pub settings: Settings,
    /// What makes a group.
    pub by: By,
    /// Where converted transformers may lie until the end: an FP8 and an NVFP4 one, and two more for a suggestion.
    pub folder: &'a Path,
    /// When to stop.
    pub cx: &'a Cx,
    /// Who hears.
    pub hears: &'a Hears<'a>,
}

/// Velocity errors by lesson and step.
pub(super) type Errors = Vec<Vec<f64>>;

/// What the rows and the suggestion are made of.
pub(super) struct Measured {
    pub lessons: Vec<Lesson>,
    pub groups: Vec<Group>,
    pub fp8: Weights,
    pub nvfp4: Weights,
    pub fp8_errors: Errors,
    pub v3_errors: Errors,
    /// By group.
    pub errors: Vec<Errors>,
    /// By layer of the groups: seconds in FP8 and in NVFP4.
    pub seconds: BTreeMap<String, [f64; 2]>,
}

/// Measures every group and, with a budget, suggests a policy.
///
/// # Errors
/// No prompts, or one where half of them is to choose and half to check; a source that cannot be converted; those of the
/// generations.
pub fn measure(
    study: &Study<'_>,
    suggest: Option<Budget>,
    command: &str,
) -> Result<Sensitivity, SensitivityError> {
    enough(study.prompts.len(), suggest.is_some())?;
    // Before hours of generations: what the conversions would refuse.
    study.plan(&study.policy(&[])?)?;
    let measured = study.run()?;
    let suggestion = suggest.map(|budget| suggestion::suggest(study, &measured, budget));
    let mut rows = study.rows(&measured)?;
    rows.sort_by(|a, b| b.added.total_cmp(&a.added).then(a.name.cmp(&b.name)));
    let ranked = rows
        .iter()
        .filter_map(|row| Some((row.added, f64::from(row.original? as u8))));
    let rank_correlation = rank_correlation(&ranked.collect::<Vec<_>>());
    let checkpoint = study.baseline.checkpoint();
    let sigmas = measured.lessons[0].evaluations.iter().map(|e| e.sigma);
    let settings = &study.settings;
    let all = 0..measured.lessons.len();
    let v3_layers = v3_layers(&measured.groups)?;
    Ok(Sensitivity {
        version: VERSION,
        engine: env!("CARGO_PKG_VERSION").to_owned(),
        model: checkpoint.name.clone(),
        fingerprint: checkpoint.transformer_fingerprint(),
        command: command.to_owned(),
        calibration: study.calibration.map(|c| format!("{} {}", c.name, c.stat)),
        prompts: study.prompts.len(),
        seed: study.seed,
        size: [settings.width, settings.height],
        sigmas: sigmas.collect(),
        environment: environment(study.cx),
        by: study.by,
        fp8: Whole::of(&measured.fp8_errors[all.clone()], measured.time(&[])),
        v3: Whole::of(&measured.v3_errors[all], measured.time(&v3_layers)),
        groups: rows,
        rank_correlation,
        suggestion: suggestion.transpose()?,
    })
}

/// Whether `prompts` prompts are enough to rank, and to suggest.
///
/// # Errors
/// [`SensitivityError::Request`].
pub fn enough(prompts: usize, suggest: bool) -> Result<(), SensitivityError> {
    let (least, why) = match suggest {
        true => (
            2,
            ": a policy is chosen on the first half of them and checked on the second",
        ),
        false => (1, ""),
    };
    match prompts >= least {
        true => Ok(()),
        false => Err(SensitivityError::Request(format!(
            "{prompts} prompts; {least} are the least{why}"
        ))),
    }
}

impl Study<'_> {
    fn run(&self) -> Result<Measured, SensitivityError> {
        let lessons = self.lessons()?;
        (self.hears)("converting", 0, 2);
        let source = &self.baseline.checkpoint().transformer;
        let groups = groups(&lessons[0], source, self.by);
        if groups.is_empty() {
            return Err(SensitivityError::Request(
                "the model has no layer that could be NVFP4: none of the blocks' has sides that are multiples of 16".to_owned(),
            ));
        }
        let all: Vec<&str> = layers(&groups).collect();
        let fp8 = self.convert("fp8", &self.policy(&[])?)?;
        (self.hears)("converting", 1, 2);
        let nvfp4 = self.convert("nvfp4", &self.policy(&all)?)?;
        let v3 = v3_layers(&groups)?;
        let mut measured = Measured {
            fp8_errors: self.errors(&fp8, &lessons)?,
            v3_errors: self.errors(&fp8.with_layers_of(&nvfp4, &set(&v3)), &lessons)?,
            errors: Vec::new(),
            seconds: BTreeMap::new(),
            lessons,
            fp8,
            nvfp4,
            groups,
        };
        for (i, group) in measured.groups.iter().enumerate() {
            (self.hears)("damage of each group", i, measured.groups.len());
            let weights = measured.mixed(group.layers.iter().map(String::as_str));
            let errors = self.errors(&weights, &measured.lessons)?;
            measured.errors.push(errors);
        }
        for (i, group) in measured.groups.iter().enumerate() {
            (self.hears)("time of each group", i, measured.groups.len());
            let layers = group.layers.iter().map(String::as_str);
            let formats = [&measured.fp8, &measured.nvfp4];
            let seconds = timing::seconds_of(&measured.lessons[0], layers, formats, self.cx)?;
            measured.seconds.extend(seconds);
        }
        Ok(measured)
    }

    fn lessons(&self) -> Result<Vec<Lesson>, SensitivityError> {
        let prompts = self.prompts.iter().zip(0..).enumerate();
        let lessons = prompts.map(|(i, (prompt, n))| {
            (self.hears)("generations of the baseline", i, self.prompts.len());
            let request = Request {
                prompts: vec![prompt.clone()],
                negatives: None,
                seeds: vec![self.seed.wrapping_add(n)],
                settings: self.settings.clone(),
                latents: None,
            };
            Ok(Teacher::watch(self.baseline, &request, self.cx)?)
        });
        lessons.collect()
    }

    /// The policy that sends `nvfp4` to NVFP4 and the rest of the blocks to FP8.
    pub(super) fn policy(&self, nvfp4: &[&str]) -> Result<Policy, SensitivityError> {
        let json = super::groups::policy_json(nvfp4, self.blocks());
        Ok(Policy::parse("of this measurement", &json).map_err(ConvertError::from)?)
    }

    /// Blocks of the model.
    pub(super) fn blocks(&self) -> usize {
        let layers = self.baseline.checkpoint().transformer_layers();
        depth(layers.iter().map(String::as_str))
    }

    /// How the transformer would be converted.
    fn plan(&self, policy: &Policy) -> Result<Plan, SensitivityError> {
        let options = Options {
            components: vec![Component::Transformer],
            ..self.options.clone()
        };
        Ok(Plan::new(self.source, policy, self.calibration, &options)?)
    }

    /// The transformer, converted.
    pub(super) fn convert(&self, name: &str, policy: &Policy) -> Result<Weights, SensitivityError> {
        let path = self.folder.join(format!("{name}.safetensors"));
        let plan = self.plan(policy)?;
        plan.notes.iter().for_each(|note| tracing::info!("{note}"));
        let monitor = Monitor {
            cancel: self.cx.cancel.clone(),
            done: &|_| {},
        };
        execute(&plan, self.source, (&path, false), &monitor)?;
        let weights = transformer_of(&path).map_err(PipelineError::from)?;
        Ok(weights)
    }

    /// Velocity errors of a transformer, by lesson.
    pub(super) fn errors(
        &self,
        weights: &Weights,
        lessons: &[Lesson],
    ) -> Result<Errors, SensitivityError> {
        let config = self.baseline.transformer_config();
        let transformer = QwenImageTransformer::load(weights, config)?;
        let errors = lessons.iter().map(|lesson| {
            check(self.cx)?;
            Ok(velocity_errors(lesson, &transformer, self.cx)?)
        });
        errors.collect()
    }

    fn rows(&self, measured: &Measured) -> Result<Vec<Row>, SensitivityError> {
        (self.hears)("SQNR of each layer", 0, 1);
        let (first, variants) = (&measured.lessons[0], [&measured.nvfp4]);
        let of_layers = LayerErrors::measure(self.baseline, first, &variants, self.cx)?;
        let db = of_layers[0].db();
        let rows = measured.groups.iter().zip(&measured.errors);
        let rows = rows.map(|(group, errors)| measured.row(group, errors, &db));
        Ok(rows.collect())
    }
}

impl Measured {
    /// FP8 with these layers in NVFP4.
    pub fn mixed<'a>(&self, layers: impl Iterator<Item = &'a str>) -> Weights {
        let layers: BTreeSet<String> = layers.map(str::to_owned).collect();
        self.fp8.with_layers_of(&self.nvfp4, &layers)
    }

    /// Seconds of all groups' layers with these in NVFP4.
    pub fn time(&self, nvfp4: &[&str]) -> f64 {
        let seconds = self.seconds.iter();
        seconds
            .map(
                |(layer, [fp8, other])| match nvfp4.contains(&layer.as_str()) {
                    true => other,
                    false => fp8,
                },
            )
            .sum()
    }

    /// What NVFP4 saves in a group, in seconds.
    pub fn saved(&self, group: &Group) -> f64 {
        let [fp8, nvfp4] = self.seconds_of(group);
        fp8 - nvfp4
    }

    fn seconds_of(&self, group: &Group) -> [f64; 2] {
        let seconds = group.layers.iter().filter_map(|l| self.seconds.get(l));
        seconds.fold([0.0; 2], |[a, b], [fp8, nvfp4]| [a + fp8, b + nvfp4])
    }

    fn row(&self, group: &Group, errors: &Errors, db: &BTreeMap<String, Option<f64>>) -> Row {
        let added: Vec<f64> = errors
            .iter()
            .zip(&self.fp8_errors)
            .map(|(of_group, of_fp8)| mean(of_group) - mean(of_fp8))
            .collect();
        let [fp8_s, nvfp4_s] = self.seconds_of(group);
        let dbs = group.layers.iter().filter_map(|l| *db.get(l)?);
        let dbs: Vec<f64> = dbs.collect();
        let by_step = by_step(errors);
        Row {
            name: group.name(),
            layer_type: group.layer_type.clone(),
            third: group.third.map(|t| t + 1),
            layers: group.layers.len(),
            velocity_rel_err: mean(&by_step),
            by_step,
            added: mean(&added),
            added_std_err: std_err(&added),
            sqnr_db: (!dbs.is_empty()).then(|| mean(&dbs)),
            fp8_s,
            nvfp4_s,
            original: Tier::of(&group.layer_type),
        }
    }
}

impl Whole {
    pub(super) fn of(errors: &[Vec<f64>], linears_s: f64) -> Self {
        let by_step = by_step(errors);
        Self {
            velocity_rel_err: mean(&by_step),
            by_step,
            linears_s,
        }
    }
}

/// What times depend on.
fn environment(cx: &Cx) -> BTreeMap<String, String> {
    let of = [
        ("threads", rayon::current_num_threads().to_string()),
        ("float8_e4m3fn", kernels::fp8(cx.machine).to_owned()),
        ("nvfp4", kernels::nvfp4(cx.machine).to_owned()),
    ];
    let of = of.into_iter().map(|(name, value)| (name.to_owned(), value));
    of.collect()
}

/// The layers of groups.
pub(super) fn layers(groups: &[Group]) -> impl Iterator<Item = &str> {
    groups.iter().flat_map(|g| &g.layers).map(String::as_str)
}

/// Those that v3 sends to NVFP4.
pub(super) fn v3_layers(groups: &[Group]) -> Result<Vec<&str>, SensitivityError> {
    let v3 = v3()?;
    let nvfp4 = |layer: &&str| v3.decide(&format!("{layer}.weight")).target == Target::Nvfp4;
    Ok(layers(groups)
        .filter(|l| place(l).is_some())
        .filter(nvfp4)
        .collect())
}

/// The policy that a suggestion is held against.
pub(super) fn v3() -> Result<Policy, SensitivityError> {
    match Policy::built_in("v3") {
        Some(policy) => Ok(policy.map_err(ConvertError::from)?),
        None => Err(SensitivityError::Request("no policy v3".to_owned())),
    }
}

/// Errors by step, the mean of lessons.
pub(super) fn by_step(errors: &[Vec<f64>]) -> Vec<f64> {
    let steps = errors.first().map_or(0, Vec::len);
    let step = |i| mean(&errors.iter().map(|e| e[i]).collect::<Vec<f64>>());
    (0..steps).map(step).collect()
}

pub(super) fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len().max(1) as f64
}

fn std_err(values: &[f64]) -> Option<f64> {
    let (n, middle) = (values.len() as f64, mean(values));
    let squares: f64 = values.iter().map(|v| (v - middle).powi(2)).sum();
    (values.len() > 1).then(|| (squares / (n - 1.0) / n).sqrt())
}

fn set(layers: &[&str]) -> BTreeSet<String> {
    layers.iter().map(|l| (*l).to_owned()).collect()
}

/// The transformer of a file that holds nothing else.
fn transformer_of(path: &Path) -> Result<Weights, CheckpointError> {
    let mut opened = Opened::open(path, Strictness::Whole)?;
    let markers = Markers::read(&opened);
    let tensors = opened.tensors.remove(&Component::Transformer);
    let tensors = tensors.unwrap_or_default();
    let records = markers.canonical(&tensors);
    let device = candle_core::Device::Cpu;
    Ok(Weights::new(Component::Transformer, path, &device, tensors).marked(records))
}
