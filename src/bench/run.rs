//! The rounds of a benchmark: prompt by prompt all rows in turn (A B C, A B C), so that a drift of the machine meets all alike.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use sha2::{Digest, Sha256};

use super::journal::{Entry, Journal, Line, Taught};
use super::layer_errors::LayerErrors;
use super::metrics::Lpips;
use super::profile::Profile;
use super::results::{Picture, Prompt};
use super::scores::{right, scores};
use super::teacher::{Lesson, Teacher, velocity_errors};
use crate::checkpoint::fingerprint::hex;
use crate::context::Cx;
use crate::pipeline::image::{self, Provenance, parameters};
use crate::pipeline::request::{Request, Settings};
use crate::pipeline::{Engine, PipelineError, Progress};

/// A row that runs.
pub struct Row {
    /// Its name.
    pub name: String,
    /// Its engine, or why there is none.
    pub engine: Result<Engine, String>,
    /// `Checkpoint::fingerprint`, which costs some reads.
    pub fingerprint: String,
}

/// Why a benchmark cannot go on. What a row alone fails at is that row's error.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// The baseline failed, without which nothing can be compared, or the user interrupted.
    #[error("baseline, prompt {prompt}: {source}")]
    Baseline {
        /// The number of the prompt, from 0.
        prompt: usize,
        /// What happened.
        source: PipelineError,
    },
    /// A picture or the journal cannot be written or read.
    #[error("{path}: {source}")]
    File {
        /// Which.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// A picture cannot be written.
    #[error(transparent)]
    Picture(PipelineError),
}

/// What all rows are asked for.
pub struct Rounds<'a> {
    /// Prompts and seeds.
    pub prompts: &'a [Prompt],
    /// Size, steps, sampler.
    pub settings: &'a Settings,
    /// The folder of `results.json`.
    pub dir: &'a Path,
    /// The metric whose weights the user brings, see [`Lpips`].
    pub lpips: Option<&'a Lpips>,
    /// Whether the scorer of the tiny model's pictures applies.
    pub scored: bool,
}

/// Seconds by part, and in all.
type Timed = (BTreeMap<String, f64>, f64);

impl Rounds<'_> {
    /// Makes every picture that the journal does not have. The first row is the baseline.
    ///
    /// # Errors
    /// [`BenchError`]; the journal keeps what was done.
    pub fn run(
        &self,
        rows: &mut [Row],
        journal: &mut Journal,
        cx: &Cx,
        hear: &mut dyn FnMut(usize, &str),
    ) -> Result<(), BenchError> {
        let mut warm = vec![false; rows.len()];
        let baseline = rows.first().map_or(String::new(), |row| row.name.clone());
        for (i, prompt) in self.prompts.iter().enumerate() {
            let mut base: Option<image::Picture> = None;
            for (r, row) in rows.iter_mut().enumerate() {
                hear(i * warm.len() + r, &row.name);
                if self.is_done(journal, &row.name, i) {
                    continue;
                }
                let Ok(engine) = &row.engine else { continue };
                if r > 0 && base.is_none() {
                    base = Some(load(&self.dir.join(file_of(&baseline, i)))?);
                }
                let made = self.draw(engine, prompt, &mut warm[r], cx);
                let (picture, timed) = match made {
                    Ok(made) => made,
                    Err(source) if r == 0 || source.is_cancelled() => {
                        return Err(BenchError::Baseline { prompt: i, source });
                    }
                    Err(e) => {
                        row.engine = Err(format!("prompt {i}: {e}"));
                        continue;
                    }
                };
                // The baseline comes first, when there is nothing to hold it against yet.
                let reference = base.as_ref();
                let entry = self.keep(row, (i, prompt), (&picture, timed), reference)?;
                self.write(journal, &Line::Picture(entry))?;
                if r == 0 {
                    base = Some(picture);
                }
            }
        }
        Ok(())
    }

    /// Teacher-forced figures of every row that the journal does not have, over the first `taught` prompts.
    ///
    /// # Errors
    /// As [`Self::run`].
    pub fn teach(
        &self,
        rows: &mut [Row],
        taught: usize,
        journal: &mut Journal,
        cx: &Cx,
    ) -> Result<(), BenchError> {
        let known = |journal: &Journal, row: &Row| {
            let of = |line: &Line| matches!(line, Line::Taught(of, _) if *of == row.name);
            journal.lines.iter().any(of)
        };
        let (base, rows) = match rows.split_first_mut() {
            Some((base, rows)) if rows.iter().any(|row| !known(journal, row)) => (base, rows),
            _ => return Ok(()),
        };
        let Ok(baseline) = &base.engine else {
            return Ok(());
        };
        let mut lessons = Vec::new();
        for (i, prompt) in self.prompts.iter().take(taught).enumerate() {
            let lesson = Teacher::watch(baseline, &self.request(prompt), cx);
            lessons.push(lesson.map_err(|source| BenchError::Baseline { prompt: i, source })?);
        }
        for row in rows {
            let Ok(engine) = &row.engine else { continue };
            if known(journal, row) {
                continue;
            }
            match taught_of(baseline, engine, &lessons, cx) {
                Ok(taught) => self.write(journal, &Line::Taught(row.name.clone(), taught))?,
                Err(source) if source.is_cancelled() => {
                    return Err(BenchError::Baseline { prompt: 0, source });
                }
                Err(e) => row.engine = Err(format!("teacher-forced: {e}")),
            }
        }
        Ok(())
    }

    fn request(&self, prompt: &Prompt) -> Request {
        Request {
            prompts: vec![prompt.prompt.clone()],
            negatives: None,
            seeds: vec![prompt.seed],
            settings: self.settings.clone(),
            latents: None,
        }
    }

    /// One picture, seconds by part, and in all.
    fn draw(
        &self,
        engine: &Engine,
        prompt: &Prompt,
        warm: &mut bool,
        cx: &Cx,
    ) -> Result<(image::Picture, Timed), PipelineError> {
        let request = self.request(prompt);
        let profile = Arc::new(Profile::default());
        let cx = cx.observed_by(profile.clone());
        let mut from_steps = FromSteps(&profile);
        if !*warm {
            // Pages that were never read belong to the cold start.
            engine.generate(&request, &cx, &mut from_steps)?;
            *warm = true;
        }
        let start = Instant::now();
        let mut made = engine.generate(&request, &cx, &mut from_steps)?;
        let seconds = start.elapsed().as_secs_f64();
        let parts = profile.take(&made.timings);
        let none = || PipelineError::Request("the engine made no picture".to_owned());
        let picture = made.pictures.pop().ok_or_else(none)?;
        Ok((picture, (parts, seconds)))
    }

    /// Writes a picture and judges it.
    fn keep(
        &self,
        row: &Row,
        (i, prompt): (usize, &Prompt),
        (picture, (parts, seconds)): (&image::Picture, Timed),
        reference: Option<&image::Picture>,
    ) -> Result<Entry, BenchError> {
        let file = file_of(&row.name, i);
        let text = row.engine.as_ref().map_or(String::new(), |engine| {
            let checkpoint = engine.checkpoint();
            parameters(&Provenance {
                prompt: &prompt.prompt,
                seed: prompt.seed,
                steps: self.settings.steps,
                settings: self.settings,
                model: &checkpoint.name,
                fingerprint: &row.fingerprint,
                loras: &checkpoint.loras,
                policy: &checkpoint.policy(),
                activations: checkpoint.transformer.activations(),
            })
        });
        let saved = picture.save(&self.dir.join(&file), &text);
        saved.map_err(BenchError::Picture)?;
        let hash = Sha256::digest(&picture.rgb);
        Ok(Entry {
            variant: row.name.clone(),
            prompt: i,
            parts,
            picture: Picture {
                file,
                sha256: hex(&hash),
                seconds,
                scores: reference
                    .map_or_else(BTreeMap::new, |base| scores(base, picture, self.lpips)),
                right: self
                    .scored
                    .then(|| right(&prompt.prompt, picture))
                    .flatten(),
            },
        })
    }

    /// Whether the journal has the picture, and the folder its file.
    fn is_done(&self, journal: &Journal, row: &str, i: usize) -> bool {
        let of = |line: &Line| match line {
            Line::Picture(e) if e.variant == row && e.prompt == i => Some(e.picture.file.clone()),
            _ => None,
        };
        let file = journal.lines.iter().find_map(of);
        file.is_some_and(|file| self.dir.join(file).is_file())
    }

    fn write(&self, journal: &mut Journal, line: &Line) -> Result<(), BenchError> {
        journal.write(line).map_err(|source| BenchError::File {
            path: self.dir.join(super::JOURNAL),
            source,
        })
    }
}

/// What a row's arithmetic makes of what the baseline saw.
fn taught_of(
    baseline: &Engine,
    engine: &Engine,
    lessons: &[Lesson],
    cx: &Cx,
) -> Result<Taught, PipelineError> {
    let mut taught = Taught::default();
    let mut layers = LayerErrors::default();
    for lesson in lessons {
        let velocity = velocity_errors(lesson, engine.transformer(), cx)?;
        taught.velocity.push(velocity);
        let weights = [&engine.checkpoint().transformer];
        for errors in LayerErrors::measure(baseline, lesson, &weights, cx)? {
            layers.merge(&errors);
        }
    }
    taught.layers = layers.by_third();
    Ok(taught)
}

/// A picture that an earlier round made.
///
/// # Errors
/// A file that cannot be read.
pub(super) fn load(path: &Path) -> Result<image::Picture, BenchError> {
    let failed = |e: ::image::ImageError| BenchError::File {
        path: path.to_owned(),
        source: io::Error::other(e),
    };
    let picture = ::image::open(path).map_err(failed)?.into_rgb8();
    Ok(image::Picture {
        width: picture.width() as usize,
        height: picture.height() as usize,
        rgb: picture.into_raw(),
    })
}

/// Where a picture lies, below the folder of `results.json`.
fn file_of(row: &str, i: usize) -> String {
    format!("images/{row}/{i:03}.png")
}

/// Clears the profile when the steps begin.
struct FromSteps<'a>(&'a Profile);

impl Progress for FromSteps<'_> {
    fn begin(&mut self, _: usize) {
        self.0.clear();
    }
}
