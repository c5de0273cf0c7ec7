//! The engine: a loaded model that turns requests into pictures.

use std::time::Instant;

use candle_core::{Device, Tensor};

use super::PipelineError;
use super::denoising::Denoising;
use super::fit::{fit, tokenizer};
use super::image::Picture;
use super::latents::{self, LatentShape};
use super::levels::NoiseLevels;
use super::non_finite::{Failed, is_finite};
use super::prompt::{PromptEmbeds, PromptTokens};
use super::request::{Request, Settings};
use super::schedule::Schedule;
use crate::checkpoint::{Checkpoint, ModelSource};
use crate::context::Cx;
use crate::model::config::{SchedulerConfig, TextEncoderConfig, TransformerConfig, VaeConfig};
use crate::model::text_encoder::LanguageModel;
use crate::model::text_encoder::tokenizer::Tokenizer;
use crate::model::transformer::QwenImageTransformer;
use crate::model::vae::Decoder;

/// Hears how far the work is. Every method has an empty default.
pub trait Progress {
    /// A prompt was longer than the limit; `cut` is what was lost.
    fn cut(&mut self, cut: &str) {
        let _ = cut;
    }

    /// `steps` steps are about to begin.
    fn begin(&mut self, steps: usize) {
        let _ = steps;
    }

    /// Step `step` (from 0) is done; `latents` `[B, C, h, w]` is where it led.
    ///
    /// # Errors
    /// An error ends the work.
    fn stepped(&mut self, step: usize, latents: &Tensor) -> Result<(), PipelineError> {
        let _ = (step, latents);
        Ok(())
    }
}

/// Whoever does not want to hear.
pub struct Silent;

impl Progress for Silent {}

/// Seconds that each part took.
#[derive(Clone, Debug, Default)]
pub struct Timings {
    /// Prompts to embeddings, the text encoder's loading included.
    pub text_encode_s: f64,
    /// Each step of the sampler.
    pub steps_s: Vec<f64>,
    /// Latents to pixels, the decoder's loading included.
    pub decode_s: f64,
}

/// What a request gave before decoding.
pub struct Denoised {
    /// Final latents `[B, C, h, w]` in the model's normalised space.
    pub latents: Tensor,
    /// Steps taken.
    pub steps: usize,
    /// Where the time went; nothing is decoded yet.
    pub timings: Timings,
}

/// What a request gave.
pub struct Generated {
    /// One picture per prompt.
    pub pictures: Vec<Picture>,
    /// Final latents `[B, C, h, w]` in the model's normalised space.
    pub latents: Tensor,
    /// Steps taken.
    pub steps: usize,
    /// Where the time went.
    pub timings: Timings,
}

/// A checkpoint with its transformer ready to run. Text encoder and decoder are loaded while they are needed.
pub struct Engine {
    checkpoint: Checkpoint,
    tokenizer: Tokenizer,
    transformer_config: TransformerConfig,
    text_encoder_config: TextEncoderConfig,
    vae_config: VaeConfig,
    scheduler: SchedulerConfig,
    transformer: QwenImageTransformer,
}

impl Engine {
    /// Opens and checks everything; weights stay on disk until they are used.
    ///
    /// # Errors
    /// Files that cannot be read, parts that are missing or do not fit together.
    pub fn load(source: &ModelSource) -> Result<Self, PipelineError> {
        Self::of(Checkpoint::open(source, &Device::Cpu)?)
    }

    /// The engine of an opened checkpoint, adapters included.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub fn of(checkpoint: Checkpoint) -> Result<Self, PipelineError> {
        let configs = &checkpoint.configs;
        let transformer_config =
            TransformerConfig::detect(&checkpoint.transformer, configs.transformer.as_ref())?;
        let text_encoder_config =
            TextEncoderConfig::detect(&checkpoint.text_encoder, configs.text_encoder.as_ref())?;
        let vae_config = VaeConfig::detect(&checkpoint.vae, configs.vae.as_ref())?;
        let scheduler = SchedulerConfig::detect(configs.scheduler.as_ref())?;
        fit(&transformer_config, &text_encoder_config, &vae_config)?;
        let tokenizer = tokenizer(&checkpoint.tokenizer, &text_encoder_config)?;
        // Loading checks names, shapes and scales of every layer, so that nothing is found out after minutes.
        LanguageModel::load(&checkpoint.text_encoder, &text_encoder_config)?;
        let transformer = QwenImageTransformer::load(&checkpoint.transformer, &transformer_config)?;
        Ok(Self {
            checkpoint,
            tokenizer,
            transformer_config,
            text_encoder_config,
            vae_config,
            scheduler,
            transformer,
        })
    }

    /// The opened files.
    pub fn checkpoint(&self) -> &Checkpoint {
        &self.checkpoint
    }

    /// The transformer that runs.
    pub fn transformer(&self) -> &QwenImageTransformer {
        &self.transformer
    }

    /// The shape of it.
    pub fn transformer_config(&self) -> &TransformerConfig {
        &self.transformer_config
    }

    /// What the model is made for.
    pub fn defaults(&self) -> Settings {
        Settings::of(&self.checkpoint)
    }

    /// The schedule that `settings` ask for.
    ///
    /// # Errors
    /// [`PipelineError::Request`].
    pub fn schedule(&self, settings: &Settings) -> Result<Schedule, PipelineError> {
        match &settings.sigmas {
            Some(sigmas) => Schedule::explicit(sigmas.clone()),
            None => Schedule::new(
                settings.schedule,
                settings.steps,
                settings.shift,
                &self.scheduler,
                self.latent_shape(settings).tokens(),
            ),
        }
    }

    /// The shape of a picture's latents.
    pub fn latent_shape(&self, settings: &Settings) -> LatentShape {
        LatentShape {
            channels: self.transformer_config.out_channels,
            height: settings.height / 8,
            width: settings.width / 8,
        }
    }

    /// Prompts to pictures.
    ///
    /// # Errors
    /// A request that makes no sense, a model that cannot serve it, or [`ModelError::Cancelled`](crate::model::ModelError::Cancelled).
    pub fn generate(
        &self,
        request: &Request,
        cx: &Cx,
        progress: &mut dyn Progress,
    ) -> Result<Generated, PipelineError> {
        let Denoised {
            latents,
            steps,
            timings,
        } = self.denoise(request, cx, progress)?;
        let clock = Instant::now();
        let pictures = self.decode(&latents, cx)?;
        Ok(Generated {
            pictures,
            latents,
            steps,
            timings: Timings {
                decode_s: clock.elapsed().as_secs_f64(),
                ..timings
            },
        })
    }

    /// Prompts to final latents.
    ///
    /// # Errors
    /// As [`Self::generate`].
    pub fn denoise(
        &self,
        request: &Request,
        cx: &Cx,
        progress: &mut dyn Progress,
    ) -> Result<Denoised, PipelineError> {
        let settings = &request.settings;
        settings.validate()?;
        let schedule = self.schedule(settings)?;
        let shape = self.latent_shape(settings);

        let clock = Instant::now();
        let (positive, negative) = self.encode(request, cx, progress)?;
        let text_encode_s = clock.elapsed().as_secs_f64();

        let x = match &request.latents {
            Some(path) => latents::load(path, shape, request.seeds.len())?,
            None => shape.noise(&request.seeds)?,
        };
        progress.begin(schedule.steps());
        let mut walk = Denoising {
            weights: &self.checkpoint.transformer,
            levels: NoiseLevels::new(&self.transformer, &schedule),
            shape,
            positive,
            negative,
            cfg: settings.cfg,
            cx,
            progress,
            step: 0,
            clock: Instant::now(),
            steps_s: Vec::new(),
        };
        let latents = settings
            .sampler
            .run(x, &schedule, &request.seeds, &mut walk)?;
        Ok(Denoised {
            latents,
            steps: schedule.steps(),
            timings: Timings {
                text_encode_s,
                steps_s: walk.steps_s,
                decode_s: 0.0,
            },
        })
    }

    /// Embeddings of the prompts and, where guidance needs it, of the negative prompt.
    fn encode(
        &self,
        request: &Request,
        cx: &Cx,
        progress: &mut dyn Progress,
    ) -> Result<(PromptEmbeds, Option<PromptEmbeds>), PipelineError> {
        let model = LanguageModel::load(&self.checkpoint.text_encoder, &self.text_encoder_config)?;
        let template = request.settings.template;
        let mut encode = |prompts: &[String]| {
            let tokens = prompts
                .iter()
                .map(|prompt| {
                    let tokens = PromptTokens::new(&self.tokenizer, template, prompt)?;
                    if let Some(cut) = &tokens.cut {
                        progress.cut(cut);
                    }
                    Ok(tokens)
                })
                .collect::<Result<Vec<_>, PipelineError>>()?;
            let embeds = PromptEmbeds::encode(&model, &tokens, cx)?;
            if is_finite(&embeds.embeds)? {
                return Ok(embeds);
            }
            let failed = Failed {
                during: "encoding the prompt".to_owned(),
                weights: &self.checkpoint.text_encoder,
                result: "the output of `model.norm`",
            };
            Err(failed.locate(cx, |cx| PromptEmbeds::encode(&model, &tokens, cx)))
        };
        let positive = encode(&request.prompts)?;
        cx.observer.stage("prompt_embeds", &positive.embeds);
        let negative = match request.settings.cfg == 1.0 {
            true => None,
            false => {
                let same = || vec![request.settings.negative.clone(); request.prompts.len()];
                let negative = encode(&request.negatives.clone().unwrap_or_else(same))?;
                cx.observer
                    .stage("negative_prompt_embeds", &negative.embeds);
                Some(negative)
            }
        };
        Ok((positive, negative))
    }

    /// Latents in the model's normalised space to pictures.
    ///
    /// # Errors
    /// Those of the VAE.
    pub fn decode(&self, x: &Tensor, cx: &Cx) -> Result<Vec<Picture>, PipelineError> {
        let decoder = Decoder::load(&self.checkpoint.vae, &self.vae_config)?;
        let VaeConfig {
            latents_mean,
            latents_std,
            ..
        } = &self.vae_config;
        let z = latents::denormalise(x, latents_mean, latents_std)?;
        let pixels = decoder.forward(&z, cx)?;
        if !is_finite(&pixels)? {
            let failed = Failed {
                during: "decoding".to_owned(),
                weights: &self.checkpoint.vae,
                result: "the picture",
            };
            return Err(failed.locate(cx, |cx| {
                cx.observer.stage("latents", &z);
                Ok(decoder.forward(&z, cx)?)
            }));
        }
        cx.observer.stage("pixels", &pixels);
        let pictures = (0..x.dim(0)?).map(|row| Picture::of(&pixels, row));
        Ok(pictures.collect::<Result<_, _>>()?)
    }
}
