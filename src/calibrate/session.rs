//! A run of samples that may end at any time and go on later: after every sample the state lies on disk, whole.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::observer::Watch;
use super::plan::{SamplePlan, Shard};
use crate::checkpoint::{Checkpoint, WriteError, replace_by_way_of};
use crate::context::Cx;
use crate::pipeline::{Engine, PipelineError, Progress};
use crate::quantize::calibration::file::Part;
use crate::quantize::calibration::samples::Samples;
use crate::quantize::calibration::{CalibrationError, CalibrationFile, Capture, ModelLabel};

/// A state that a loss of power may take is never older.
const SYNC_EVERY: Duration = Duration::from_secs(1);

/// Why a calibration cannot begin or go on.
#[derive(Debug, thiserror::Error)]
pub enum CalibrateError {
    /// A generation failed, or was interrupted.
    #[error("sample {sample}: {source}")]
    Sample {
        /// Its number.
        sample: u64,
        /// What happened.
        source: PipelineError,
    },
    /// A layer's input could not be counted.
    #[error("sample {sample}: {reason}; look at the model with `qwen-nvfp4 inspect --deep`")]
    Watch {
        /// Its number.
        sample: u64,
        /// The layer and the reason.
        reason: String,
    },
    /// An earlier run's file cannot be gone on with.
    #[error(transparent)]
    File(#[from] CalibrationError),
    /// Something cannot be read.
    #[error("{path}: {reason}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why, and what to do.
        reason: String,
    },
    /// Something cannot be written.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// What is asked for does not fit what is there.
    #[error("{0}")]
    Request(String),
}

/// What a run is asked for.
pub struct Session<'a> {
    /// The engine of the model that runs.
    pub engine: &'a Engine,
    /// The model that the calibration is for.
    pub model: ModelLabel,
    /// What the samples are.
    pub plan: &'a SamplePlan,
    /// How many there are, of all shards.
    pub samples: u64,
    /// Which of them are this run's.
    pub shard: Shard,
    /// The file.
    pub output: &'a Path,
}

/// How a run ended.
pub struct Outcome {
    /// The file as it was written.
    pub file: CalibrationFile,
    /// Samples that are still missing, where time was up.
    pub missing: u64,
    /// Samples that this run made.
    pub made: u64,
}

/// What to do about what lies there already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Existing {
    /// Nothing may lie there.
    Refuse,
    /// Go on with it.
    Resume,
    /// Begin anew.
    Replace,
}

impl Session<'_> {
    /// The file that holds the state of a run that is not at its end.
    pub fn state_path(output: &Path) -> PathBuf {
        let mut name = output.file_name().unwrap_or_default().to_owned();
        name.push(".partial");
        output.with_file_name(name)
    }

    /// Makes the samples that are missing and writes the file. `until` ends it early, after a sample.
    ///
    /// # Errors
    /// [`CalibrateError`]; every sample that was made before is kept.
    pub fn run(
        &self,
        existing: Existing,
        until: Option<Instant>,
        cx: &Cx,
        progress: &mut dyn SampleProgress,
    ) -> Result<Outcome, CalibrateError> {
        self.plan
            .validate()
            .map_err(|e| CalibrateError::Request(e.to_string()))?;
        let mut file = self.begin(existing)?;
        let layers = self.engine.checkpoint().transformer_layers();
        let mut done = std::mem::take(&mut self.part(&mut file)?.done);
        let watch = Arc::new(Watch::new(layers, std::mem::take(&mut file.capture)));
        let cx = cx.observed_by(watch.clone());
        let mine = || (0..self.samples).filter(|i| self.shard.has(*i));
        let total = self.shard.count(self.samples);
        let mut store = Store::new(self.output);
        let mut made = 0;
        for i in mine() {
            if done.contains(i) {
                continue;
            }
            if until.is_some_and(|until| Instant::now() >= until) {
                break;
            }
            progress.begin(done.count(), total);
            let generated = self
                .engine
                .denoise(&self.plan.sample(i), &cx, progress.steps());
            generated.map_err(|source| CalibrateError::Sample { sample: i, source })?;
            let seen = watch.end_sample();
            seen.map_err(|reason| CalibrateError::Watch { sample: i, reason })?;
            done.insert(i);
            made += 1;
            self.part(&mut file)?.done = done.clone();
            // Lent for as long as it takes to write: cloning would double the memory.
            let text = watch.with_capture(|capture| {
                std::mem::swap(&mut file.capture, capture);
                let text = file.to_json(false);
                std::mem::swap(&mut file.capture, capture);
                text
            });
            store.state(text.as_bytes())?;
        }
        self.part(&mut file)?.done = done;
        watch.with_capture(|capture| std::mem::swap(&mut file.capture, capture));
        self.end(file, &mut store, (total, made))
    }

    /// Writes the file, and takes the state away if nothing is missing.
    fn end(
        &self,
        mut file: CalibrationFile,
        store: &mut Store,
        (total, made): (u64, u64),
    ) -> Result<Outcome, CalibrateError> {
        if file.samples() == 0 {
            return Err(CalibrateError::Request(
                "no sample was made; give more --samples or --max-minutes".to_owned(),
            ));
        }
        let layers = self.engine.checkpoint().transformer_layers();
        let ran = |layer: &String| file.capture.layers.contains_key(layer);
        file.never_ran = layers.into_iter().filter(|layer| !ran(layer)).collect();
        let missing = total - file.samples();
        store.file(file.to_json(true).as_bytes(), missing == 0)?;
        Ok(Outcome {
            file,
            missing,
            made,
        })
    }

    /// The one part of a file that this run makes.
    fn part<'f>(&self, file: &'f mut CalibrationFile) -> Result<&'f mut Part, CalibrateError> {
        let none = || CalibrateError::Request("the state has no samples; remove it".to_owned());
        file.parts.first_mut().ok_or_else(none)
    }

    /// An empty file, or what an earlier run left.
    fn begin(&self, existing: Existing) -> Result<CalibrationFile, CalibrateError> {
        let checkpoint = self.engine.checkpoint();
        let activations = checkpoint.transformer.activations().word().to_owned();
        let fresh = CalibrationFile {
            engine: env!("CARGO_PKG_VERSION").to_owned(),
            model: self.model.clone(),
            observed: label(checkpoint),
            activations,
            parts: vec![Part {
                recipe: self.plan.recipe(),
                done: Samples::default(),
            }],
            never_ran: Vec::new(),
            capture: Capture::default(),
        };
        let state = Self::state_path(self.output);
        let there = [state.as_path(), self.output];
        let Some(path) = there.into_iter().find(|path| path.exists()) else {
            return Ok(fresh);
        };
        match existing {
            Existing::Replace => Ok(fresh),
            Existing::Refuse => Err(CalibrateError::Request(format!(
                "{} is there already; say --resume to go on with it, --force to begin anew, or give another -o",
                path.display()
            ))),
            Existing::Resume => {
                let text = fs::read_to_string(path).map_err(|e| CalibrateError::Read {
                    path: path.to_owned(),
                    reason: format!("it cannot be read ({e}); say --force to begin anew"),
                })?;
                let found = CalibrationFile::parse(&path.display().to_string(), &text)?;
                self.check_same(&found, &fresh, path)?;
                Ok(found)
            }
        }
    }

    /// Refuses a file of another run.
    fn check_same(
        &self,
        found: &CalibrationFile,
        fresh: &CalibrationFile,
        path: &Path,
    ) -> Result<(), CalibrateError> {
        let differs = |what: &str| {
            Err(CalibrateError::Request(format!(
                "{} was made with another {what}; --resume goes on with the same run only: say --force to begin anew, or give another -o",
                path.display()
            )))
        };
        if found.model.fingerprint != fresh.model.fingerprint {
            return differs("model");
        }
        if found.observed.fingerprint != fresh.observed.fingerprint {
            return differs("observed model");
        }
        if (&found.engine, &found.activations) != (&fresh.engine, &fresh.activations) {
            return differs("version or way to quantize activations");
        }
        let (Some(there), Some(here), 1) = (
            found.parts.first().map(|p| &p.recipe),
            fresh.parts.first().map(|p| &p.recipe),
            found.parts.len(),
        ) else {
            return differs("plan (it is merged of several)");
        };
        let fields = [
            (
                "set of prompts",
                there.prompts_sha256 == here.prompts_sha256,
            ),
            ("list of sizes", there.sizes == here.sizes),
            ("list of steps", there.steps == here.steps),
            ("list of guidance scales", there.cfg == here.cfg),
            ("seed", there.seed == here.seed),
            ("plan", there == here),
        ];
        if let Some((what, _)) = fields.iter().find(|(_, same)| !same) {
            return differs(what);
        }
        let asked = |i: u64| i < self.samples && self.shard.has(i);
        match found.parts[0].done.iter().find(|i| !asked(*i)) {
            Some(i) => Err(CalibrateError::Request(format!(
                "{} has sample {i} already, which is not asked for; give more --samples, or the same --shard",
                path.display()
            ))),
            None => Ok(()),
        }
    }
}

/// What a calibration says of a model.
pub fn label(checkpoint: &Checkpoint) -> ModelLabel {
    ModelLabel {
        name: checkpoint.name.clone(),
        fingerprint: checkpoint.transformer_fingerprint(),
        weights: checkpoint.policy(),
    }
}

/// Hears how far the samples are.
pub trait SampleProgress {
    /// The next sample begins; so many of so many are done.
    fn begin(&mut self, done: u64, of: u64);

    /// What hears of its steps.
    fn steps(&mut self) -> &mut dyn Progress;
}

/// Where state and file are written.
struct Store {
    output: PathBuf,
    state: PathBuf,
    /// Written first, then renamed. Named by the process, so that two of them do not write one file.
    beside: PathBuf,
    synced: Option<Instant>,
}

impl Store {
    /// Removes what a killed run left half-written.
    fn new(output: &Path) -> Self {
        let state = Session::state_path(output);
        let prefix = format!(
            "{}.",
            state.file_name().unwrap_or_default().to_string_lossy()
        );
        let folder = output.parent().filter(|p| !p.as_os_str().is_empty());
        let folder = folder.unwrap_or(Path::new("."));
        // If this fails, so will writing, which says why.
        let _ = fs::create_dir_all(folder);
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let process = name.to_str().and_then(|name| name.strip_prefix(&prefix));
            if process.is_some_and(|id| id.parse::<u32>().is_ok()) {
                let _ = fs::remove_file(entry.path());
            }
        }
        Self {
            output: output.to_owned(),
            beside: state.with_file_name(format!("{prefix}{}", std::process::id())),
            state,
            synced: None,
        }
    }

    fn state(&mut self, text: &[u8]) -> Result<(), WriteError> {
        let sync = self.synced.is_none_or(|at| at.elapsed() >= SYNC_EVERY);
        replace_by_way_of(&self.state, &self.beside, text, sync)?;
        if sync {
            self.synced = Some(Instant::now());
        }
        Ok(())
    }

    fn file(&mut self, text: &[u8], complete: bool) -> Result<(), WriteError> {
        replace_by_way_of(&self.output, &self.beside, text, true)?;
        if complete {
            let _ = fs::remove_file(&self.state);
        }
        Ok(())
    }
}
