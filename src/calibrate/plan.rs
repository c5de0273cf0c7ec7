//! Which generation sample number i is: decided by i alone, so that any shard, any order and any interruption agree.

use sha2::{Digest, Sha256};

use crate::checkpoint::fingerprint::hex;
use crate::numerics::splitmix::splitmix64;
use crate::pipeline::PipelineError;
use crate::pipeline::prompt::Template;
use crate::pipeline::request::{Request, Settings};
use crate::quantize::calibration::file::Recipe;

/// What samples are made of, and how each takes its part of it.
#[derive(Clone, Debug)]
pub struct SamplePlan {
    /// Prompts; at least one.
    pub prompts: Vec<String>,
    /// Widths and heights in pixels; at least one.
    pub sizes: Vec<(usize, usize)>,
    /// Step counts; at least one.
    pub steps: Vec<usize>,
    /// Guidance scales; at least one.
    pub cfg: Vec<f64>,
    /// Seed of sample 0; the following count up.
    pub seed: u64,
    /// Whether values are drawn, rather than taken in turn.
    pub drawn: bool,
    /// Everything else.
    pub settings: Settings,
}

impl SamplePlan {
    /// Sample `i`: prompt, size, steps and guidance in turn, each list for itself, or drawn by (seed, i) from each list.
    pub fn sample(&self, i: u64) -> Request {
        let pick = |list: usize, len: usize| {
            let at = match self.drawn {
                true => splitmix64(splitmix64(self.seed ^ ((list as u64) << 56)).wrapping_add(i)),
                false => i,
            };
            (at % len.max(1) as u64) as usize
        };
        let (width, height) = self.sizes[pick(1, self.sizes.len())];
        let settings = Settings {
            width,
            height,
            steps: self.steps[pick(2, self.steps.len())],
            cfg: self.cfg[pick(3, self.cfg.len())],
            ..self.settings.clone()
        };
        Request {
            prompts: vec![self.prompts[pick(0, self.prompts.len())].clone()],
            negatives: None,
            seeds: vec![self.seed.wrapping_add(i)],
            settings,
            latents: None,
        }
    }

    /// Checks every value before the first sample runs.
    ///
    /// # Errors
    /// An empty list, a size or guidance that no picture can have.
    pub fn validate(&self) -> Result<(), PipelineError> {
        for (what, len) in [
            ("prompts", self.prompts.len()),
            ("sizes", self.sizes.len()),
            ("steps", self.steps.len()),
            ("cfg", self.cfg.len()),
        ] {
            if len == 0 {
                return Err(PipelineError::Request(format!(
                    "no {what}: give at least one"
                )));
            }
        }
        for (width, height) in self.sizes.iter().copied() {
            for cfg in self.cfg.iter().copied() {
                let settings = Settings {
                    width,
                    height,
                    cfg,
                    ..self.settings.clone()
                };
                settings.validate()?;
            }
        }
        Ok(())
    }

    /// What the calibration file says of it.
    pub fn recipe(&self) -> Recipe {
        let mut hash = Sha256::new();
        for prompt in &self.prompts {
            hash.update(prompt.as_bytes());
            hash.update(b"\n");
        }
        let s = &self.settings;
        let template = match s.template {
            Template::TextToImage => "t2i",
            Template::Edit => "edit",
        };
        let shift = s
            .shift
            .map_or(String::new(), |shift| format!(" shift {shift}"));
        Recipe {
            prompts_sha256: hex(&hash.finalize()),
            prompts: self.prompts.len(),
            sizes: self.sizes.iter().map(|(w, h)| format!("{w}x{h}")).collect(),
            steps: self.steps.clone(),
            cfg: self.cfg.clone(),
            seed: self.seed,
            plan: if self.drawn { "drawn" } else { "cycle" }.to_owned(),
            settings: format!(
                "sampler {} schedule {}{shift} template {template} negative {:?}",
                s.sampler.name(),
                s.schedule.name(),
                s.negative
            ),
        }
    }
}

/// One of several parts of a run: the samples whose number leaves the same rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shard {
    index: u64,
    of: u64,
}

impl Shard {
    /// All samples.
    pub const WHOLE: Self = Self { index: 0, of: 1 };

    /// Part `index` of `of`. Both ways to count are right: 0 to N-1, or 1 to N, which is the same as 0.
    ///
    /// # Errors
    /// A part that does not exist.
    pub fn new(index: u64, of: u64) -> Result<Self, String> {
        match of >= 1 && index <= of {
            true => Ok(Self {
                index: index % of,
                of,
            }),
            false => Err(format!(
                "there is no shard {index} of {of}; count from 0 or from 1"
            )),
        }
    }

    /// How many of `samples` samples belong to it.
    pub fn count(self, samples: u64) -> u64 {
        samples / self.of + u64::from(self.index < samples % self.of)
    }

    /// Whether sample `i` belongs to it.
    pub fn has(self, i: u64) -> bool {
        i % self.of == self.index
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn shards_are_a_partition_however_they_are_counted() {
        for first in [0, 1] {
            let shards: Vec<Shard> = (first..first + 3)
                .map(|i| Shard::new(i, 3).unwrap())
                .collect();
            assert!((0..50).all(|i| shards.iter().filter(|s| s.has(i)).count() == 1));
        }
        assert!((0..9).all(|i| Shard::WHOLE.has(i)));
        for (index, samples) in (0..4).flat_map(|index| (0..20).map(move |n| (index, n))) {
            let shard = Shard::new(index, 4).unwrap();
            let counted = (0..samples).filter(|i| shard.has(*i)).count() as u64;
            assert_eq!(shard.count(samples), counted);
        }
        assert!(Shard::new(4, 3).is_err() && Shard::new(0, 0).is_err());
    }
}
